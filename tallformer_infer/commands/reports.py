"""`tallformer report`: files of actions to pages."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath

import typer

from tallformer_infer import __version__
from tallformer_infer.commands.archive_index import archive_rows, is_archive
from tallformer_infer.commands.tables import KnownSegments
from tallformer_infer.console import Speaker
from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.labels import LabelledVideo, read_json_object, read_labels, relative_address_of
from tallformer_infer.report import IndexRow, PageVideo, render_index, render_page, require_report
from tallformer_infer.report.results import PageHeader, index_row, page_header, page_video, source_of
from tallformer_infer.results import STDOUT, check_destination, write_content
from tallformer_infer.text import counted, printable

MAKER = f"tallformer {__version__}"
_LARGE_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the user asked for."""

    source: Path
    """File of actions, or folder of such files."""
    videos: tuple[str, ...]
    """Files or addresses of the videos; empty: those that the source names."""
    out: Path | None
    """Page to write, `-` for stdout; None names it after the source."""
    truth: Path | None
    """Labels to show beside."""
    embed: bool
    """Put the videos into the page."""
    title: str | None
    """Heading; None takes the name of the only video, or of the source."""


def write_report(options: ReportOptions, speaker: Speaker) -> None:
    """The page of the videos of one file of actions.

    Raises:
        TallformerError: A file cannot be read, or the page cannot be written.
        typer.BadParameter: A video is not one of the source.
    """
    require_report()
    out = options.out or options.source.with_suffix(".html")
    check_destination(out, inputs=[str(options.source), *options.videos], example="report.html")
    _check_page_name(out)
    chosen = _choose(options)
    known = None if options.truth is None else KnownSegments(options.truth)
    folder, header = _folder(out), _header(options.source)
    for video, file in chosen:
        if "://" not in file and not Path(file).is_file():
            speaker.say("warning", f"{file}: there is no such file; the page lets people choose it")
        if known is not None and known.named(video.bare_name) is None:
            speaker.say("warning", f"{options.truth} does not have the video {video.name}")
    pages = [
        page_video(
            video,
            source=source_of(file, folder),
            truth=None if known is None else known.named(video.bare_name),
            streams=header.streams.get(video.name, (0, 1)),
        )
        for video, file in chosen
    ]
    if options.embed:
        pages = [_embedded(page, file) for page, (_, file) in zip(pages, chosen, strict=True)]
    title = options.title or (pages[0].name if len(pages) == 1 else options.source.name)
    content = render_page(
        pages, title=title, facts=header.facts, notes=header.notes, failures=header.failures, maker=MAKER
    )
    if len(content) > _LARGE_BYTES:
        speaker.say("warning", f"the page has {len(content) / 1e6:.0f} MB; leave out --embed to keep videos out of it")
    write_content(content, out)
    found = sum(len(page.actions) for page in pages)
    done = f"wrote a page of {counted(found, 'action')} of {counted(len(pages), 'video')} to {_named(out)}"
    speaker.say("written", done, out=str(out), videos=len(pages), actions=found)


def write_index(options: ReportOptions, speaker: Speaker) -> None:
    """The page that lists the videos of an archive, or of every `actions.json` in a folder and below it.

    Raises:
        AnnotationError: There is none.
        TallformerError: The page cannot be written.
        typer.BadParameter: There are options that are for single pages.
    """
    if options.videos or options.truth is not None or options.embed:
        raise typer.BadParameter(f"{options.source} is a folder, of which VIDEO, --truth and --embed say nothing")
    require_report()
    out = options.out or options.source / "index.html"
    check_destination(out, example="index.html")
    _check_page_name(out)
    rows = write_index_of(options.source, out, title=options.title)
    failed = sum(bool(row.error) for row in rows)
    done = f"wrote an index of {counted(len(rows), 'video')}, {failed} of them failed, to {_named(out)}"
    speaker.say("written", done, out=str(out), videos=len(rows), failed=failed)


def write_index_of(source: Path, out: Path, *, title: str | None = None) -> list[IndexRow]:
    """Write the page that lists the results in a folder, and return its rows.

    Args:
        source: The folder: an archive, or one with files of actions.
        out: Page to write, `-` for stdout.
        title: Heading; None takes the name of the folder.

    Raises:
        AnnotationError: There are no results.
        OutputError: The page cannot be written.
    """
    rows = list(_rows_in(source, _folder(out)))
    if not rows:
        raise AnnotationError(f"{source}: has no actions.json, by whatever name, in it or below it")
    write_content(render_index(rows, title=title or source.resolve().name, maker=MAKER), out)
    return rows


def _embedded(page: PageVideo, file: str) -> PageVideo:
    """The same video with its file in the page, if there is one."""
    if not Path(file).is_file():
        return page
    try:
        return dataclasses.replace(page, content=Path(file).read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{printable(file)}: cannot be put into the page: {reason}; only files can") from error


def _check_page_name(out: Path) -> None:
    if out.suffix.lower() not in ("", ".html", ".htm") and (out.is_file() or not out.exists()):
        raise typer.BadParameter(f"--out {out}: a page is a file that ends in .html")


def _rows_in(source: Path, folder: Path) -> Iterator[IndexRow]:
    if is_archive(source):
        yield from archive_rows(source, folder)
        return
    for path in sorted(source.rglob("*.json")):
        yield from _rows_of(path, folder)


def _choose(options: ReportOptions) -> list[tuple[LabelledVideo, str]]:
    """The videos of the page, and the file of each."""
    videos = read_labels(options.source)
    if not videos:
        raise AnnotationError(f"{options.source}: has no video in it")
    if not options.videos:
        return [(video, _file_of(video, options.source)) for video in videos]
    if len(options.videos) == len(videos) == 1:
        return [(videos[0], options.videos[0])]
    return [(_named_as(file, videos, options.source), file) for file in options.videos]


def _file_of(video: LabelledVideo, source: Path) -> str:
    """Where a video lies: as the source says it, seen from here or from the source."""
    beside = source.parent / video.name
    return str(beside) if not Path(video.name).is_file() and beside.is_file() else video.name


def _named_as(file: str, videos: Sequence[LabelledVideo], source: Path) -> LabelledVideo:
    for video in videos:
        if video.name == file:
            return video
    for video in videos:
        if video.bare_name == PurePath(file).stem:
            return video
    names = ", ".join(video.name for video in videos[:5]) + (" ..." if len(videos) > 5 else "")
    raise typer.BadParameter(f"{file}: is not in {source}, which has {names}")


def _header(source: Path) -> PageHeader:
    """What `actions.json` says of its run; nothing of labels."""
    if source.suffix.lower() != ".json":
        return PageHeader()
    try:
        document = read_json_object(source)
    except AnnotationError:  # Label Studio's are lists
        return PageHeader()
    return page_header(document, when=datetime.fromtimestamp(source.stat().st_mtime).astimezone())


def _rows_of(path: Path, folder: Path) -> Iterator[IndexRow]:
    """Rows of one file; none where it is something else."""
    try:
        document = read_json_object(path)
        if not isinstance(document.get("tool"), dict) or "videos" not in document:
            return
        videos = read_labels(path, form="json")
    except AnnotationError as error:
        yield IndexRow(name=str(path), status="unreadable", error=str(error).splitlines()[0])
        return
    page = path.with_suffix(".html")
    link = relative_address_of(str(page), folder) if page.is_file() else None
    for number, video in enumerate(videos):
        yield index_row(video, page=None if link is None else f"{link}#{number}")
    failures = document.get("failures")
    for failure in failures if isinstance(failures, list) else ():
        if isinstance(failure, dict):
            yield IndexRow(name=str(failure.get("path")), status="failed", error=str(failure.get("error")))


def _folder(out: Path) -> Path:
    return Path(os.curdir) if out == STDOUT else out.parent


def _named(out: Path) -> str:
    return "stdout" if out == STDOUT else printable(out)
