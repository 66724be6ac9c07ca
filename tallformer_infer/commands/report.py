"""`tallformer report`: an HTML page of a file of actions, or an index of a folder or archive."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from tallformer_infer import __version__
from tallformer_infer.commands import options
from tallformer_infer.console import Speaker, speaking
from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.stopping import import_interruptibly
from tallformer_infer.text import counted, printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.archive.database import VideoRow
    from tallformer_infer.labels import LabelledVideo
    from tallformer_infer.report import IndexRow, PageHeader, PageVideo


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

MAKER = f"tallformer {__version__}"
_LARGE_BYTES = 100_000_000
_SUMS = (
    "SELECT video_id, labels.name, COUNT(*), SUM(end_s - start_s) FROM actions JOIN labels ON labels.id = label_id "
    "GROUP BY video_id, label_id"
)
"""Actions of an archive by video and label: count, and total length in seconds."""


@app.command()
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="ACTIONS",
            show_default=False,
            help="actions.json, labels that `convert` reads, or a folder of results.",
        ),
    ],
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="VIDEO", show_default=False, help="The videos, if they have moved."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.html",
            show_default=False,
            help="Output page; - is stdout (default: ACTIONS with the ending .html, or index.html in the folder).",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ground truth to show next to the detections.")
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Embed the videos, so that the page can be shared alone.")
    ] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title (default: the name of the video).")] = None,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Write an HTML page to review results: video, timeline, list and filters.

    The page is one file without network access or server. It plays the video
    from its path relative to the page, unless --embed puts the video into it.

    For a folder, writes an index of every actions.json in it and below, with
    counts, failures and a search; rows link to the page next to each file.

    [bold]Examples[/bold]

      tallformer report actions.json match.mp4 --out match.html
      tallformer report actions.json --truth truth.json --embed
      tallformer report results/
    """
    import_interruptibly("tallformer_infer.report")

    wanted = ReportOptions(source=source, videos=tuple(videos or ()), out=out, truth=truth, embed=embed, title=title)
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        if source.is_dir():
            write_index(wanted, speaker)
        else:
            write_report(wanted, speaker)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the user asked for."""

    source: Path
    """File of actions, or folder of them."""
    videos: tuple[str, ...]
    """Files or URLs of the videos; empty: those named in the source."""
    out: Path | None
    """Output page, `-` for stdout; None: named after the source."""
    truth: Path | None
    """Ground truth to show next to the actions."""
    embed: bool
    """Embed the videos in the page."""
    title: str | None
    """Title; None: the name of the only video, or of the source."""


def write_report(options: ReportOptions, speaker: Speaker) -> None:
    """Write the page of a file of actions.

    Raises:
        TallformerError: A file cannot be read, or the page cannot be written.
        typer.BadParameter: A video is not one of the source.
    """
    from tallformer_infer.commands.tables import KnownSegments
    from tallformer_infer.report import page_video, render_page, require_report, source_of
    from tallformer_infer.results import check_destination, write_content

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
    """Write the index of an archive, or of every `actions.json` in a folder and its subfolders.

    Raises:
        AnnotationError: There is none.
        TallformerError: The page cannot be written.
        typer.BadParameter: An option is for single pages.
    """
    from tallformer_infer.report import require_report
    from tallformer_infer.results import check_destination

    if options.videos or options.truth is not None or options.embed:
        raise typer.BadParameter(f"{options.source} is a folder; VIDEO, --truth and --embed are for a file of actions")
    require_report()
    out = options.out or options.source / "index.html"
    check_destination(out, example="index.html")
    _check_page_name(out)
    rows = write_index_of(options.source, out, title=options.title)
    failed = sum(bool(row.error) for row in rows)
    done = f"wrote an index of {counted(len(rows), 'video')}, {failed} of them failed, to {_named(out)}"
    speaker.say("written", done, out=str(out), videos=len(rows), failed=failed)


def write_index_of(source: Path, out: Path, *, title: str | None = None) -> list[IndexRow]:
    """Write the index of the results in a folder, and return its rows.

    Args:
        source: The folder: an archive, or one with files of actions.
        out: Page to write, `-` for stdout.
        title: Heading; None takes the name of the folder.

    Raises:
        AnnotationError: There are no results.
        OutputError: The page cannot be written.
    """
    from tallformer_infer.report import render_index
    from tallformer_infer.results import write_content

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
    from tallformer_infer.labels import read_labels

    videos = read_labels(options.source)
    if not videos:
        raise AnnotationError(f"{options.source}: has no video in it")
    if not options.videos:
        return [(video, _file_of(video, options.source)) for video in videos]
    if len(options.videos) == len(videos) == 1:
        return [(videos[0], options.videos[0])]
    return [(_named_as(file, videos, options.source), file) for file in options.videos]


def _file_of(video: LabelledVideo, source: Path) -> str:
    """File of a video: as named in the source, relative to here or to the source."""
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
    """Header with the facts of `actions.json`; empty for labels."""
    from tallformer_infer.labels import read_json_object
    from tallformer_infer.report import PageHeader, page_header

    if source.suffix.lower() != ".json":
        return PageHeader()
    try:
        document = read_json_object(source)
    except AnnotationError:  # Label Studio's are lists
        return PageHeader()
    return page_header(document, when=datetime.fromtimestamp(source.stat().st_mtime).astimezone())


def _rows_of(path: Path, folder: Path) -> Iterator[IndexRow]:
    """Rows of one file; none if it is something else."""
    from tallformer_infer.labels import read_json_object, read_labels, relative_address_of
    from tallformer_infer.report import IndexRow, index_row

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
    from tallformer_infer.results import STDOUT

    return Path(os.curdir) if out == STDOUT else out.parent


def _named(out: Path) -> str:
    from tallformer_infer.results import STDOUT

    return "stdout" if out == STDOUT else printable(out)


def is_archive(folder: Path) -> bool:
    """Whether a folder is an archive of `label`."""
    from tallformer_infer.archive.database import DATABASE

    return (folder / DATABASE).is_file()


def archive_rows(folder: Path, seen_from: Path) -> Iterator[IndexRow]:
    """A row for every video of an archive, in the order they were found, with a link to its page.

    Args:
        folder: Of the archive.
        seen_from: Folder of the index.

    Raises:
        ArchiveError: The database cannot be read.
    """
    from tallformer_infer.archive.database import ArchiveDatabase
    from tallformer_infer.archive.places import RESULTS
    from tallformer_infer.archive.results import file_name
    from tallformer_infer.labels import relative_address_of

    counts: dict[int, dict[str, int]] = defaultdict(dict)
    seconds: dict[int, dict[str, float]] = defaultdict(dict)
    with ArchiveDatabase(folder) as database:
        for video, label, count, length_s in database.connection.execute(_SUMS):
            counts[video][label], seconds[video][label] = count, length_s
        for row in database.videos():
            if row.status != "ignored":
                page = folder / RESULTS / file_name(row.name, "html")
                link = relative_address_of(str(page), seen_from) if "html" in row.outputs and page.is_file() else None
                yield _archive_row(row, counts[row.id], seconds[row.id], link)


def _archive_row(row: VideoRow, counts: dict[str, int], seconds: dict[str, float], page: str | None) -> IndexRow:
    from tallformer_infer.report import IndexRow

    return IndexRow(
        name=row.source,
        status=" and ".join(row.losses) or row.status,
        duration_s=row.duration_s,
        counts=counts,
        seconds=seconds,
        error=(row.error or "") if row.status == "failed" else "",
        note=row.describe_losses(),
        page=page,
    )
