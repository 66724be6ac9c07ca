"""Write results and labels in any format, each file whole or not at all, after checking that they can be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from tallformer_infer.commands.tables import KnownSegments
from tallformer_infer.errors import OutputError
from tallformer_infer.files import make_folder
from tallformer_infer.labels import (
    FORMATS,
    LabelledVideo,
    activitynet_document,
    encode_labels,
    labelled_video,
    notes_on,
    require_libraries,
    video_ids,
)
from tallformer_infer.report import require_report, result_page, source_of
from tallformer_infer.results import (
    STDOUT,
    Failure,
    Selection,
    actions_document,
    check_destination,
    write_content,
    write_document,
)
from tallformer_infer.structures import Result


def check_result_files(out: Path, form: str, videos: Sequence[str]) -> None:
    """Refuse an output that cannot be written, before hours are spent on it.

    Args:
        out: A file, `-` for standard output, or, for a format of one video per file, a folder.
        form: Name of the format.
        videos: The inputs of the run.

    Raises:
        OutputError: `out` cannot be written, or two videos would have the same name.
        ExtraError: A library that the format needs is not installed.
    """
    if form == "json":
        check_destination(out, inputs=videos)
        return
    if form == "activitynet":
        check_destination(out, inputs=videos)
        video_ids(videos)
        return
    if form == "html":
        require_report()
        check_destination(out, inputs=videos, example="report.html")
        return
    check_label_files(out, form, [LabelledVideo(name=video) for video in videos], inputs=videos)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Facts of a run that some formats hold besides the results."""

    selection: Selection
    """What decided which actions were kept."""
    failures: Sequence[Failure]
    """Inputs that gave no result."""
    known: KnownSegments | None = None
    """Ground truth of the videos."""


def write_result_files(results: Sequence[Result], form: str, out: Path, facts: RunFacts) -> tuple[str, ...]:
    """Write results, each file whole or not at all.

    Args:
        results: One or more, of one run.
        form: Name of the format.
        out: As `check_result_files` accepted it.
        facts: For formats that hold them.

    Returns:
        What the format cannot hold, one sentence each.

    Raises:
        OutputError: They cannot be written.
    """
    if form == "json":
        write_document(actions_document(results, selection=facts.selection, failures=facts.failures), out)
        return ()
    if form == "activitynet":
        write_document(activitynet_document(results, selection=facts.selection, failures=facts.failures), out)
        return ()
    if form == "html":
        write_content(_page(results, out, facts), out)
        return ()
    videos = [labelled_video(result) for result in results]
    write_label_files(videos, form, out)
    return notes_on(videos, form)


def _page(results: Sequence[Result], out: Path, facts: RunFacts) -> bytes:
    folder, known = Path() if out == STDOUT else out.parent, facts.known
    return result_page(
        results,
        selection=facts.selection,
        failures=facts.failures,
        sources=[source_of(result.video.path, folder) for result in results],
        truths=None if known is None else [known.of(result.video.path) for result in results],
    )


def partial_files(out: Path) -> tuple[Path, Path]:
    """File for the finished videos of a stopped run, and file for the rest."""
    if out == STDOUT or out.is_dir():  # every video has a file of its own
        return out, out
    return out.with_name(f"{out.stem}.partial{out.suffix}"), out.with_name(f"{out.stem}.rest{out.suffix}")


def check_label_files(out: Path, form: str, videos: Sequence[LabelledVideo], *, inputs: Sequence[str] = ()) -> None:
    """Refuse an output or format that cannot be written, before hours are spent on it.

    Args:
        out: A file, `-` for standard output, or, for a format of one video per file, a folder, which is created.
        form: Name of the format.
        videos: With or without their segments.
        inputs: Files that the run reads, and that must not be replaced.

    Raises:
        OutputError: It cannot be written, or two videos would be the same file.
        ExtraError: A library that the format needs is not installed.
    """
    require_libraries(form)
    if FORMATS[form].holds_one_video and is_folder_name(out):
        make_folder(out)
    for path in label_files(out, form, videos):
        check_destination(path, inputs=inputs, example=f"labels{FORMATS[form].suffix}")


def is_folder_name(out: Path) -> bool:
    """Whether a name that does not exist yet means a folder: it has no ending."""
    return out != STDOUT and not out.exists() and not out.suffix


def label_files(out: Path, form: str, videos: Sequence[LabelledVideo]) -> list[Path]:
    """The files to write: `out`, or for a format of one video per file and a folder, one in it for each video.

    Raises:
        OutputError: There are several videos and `out` is no folder, or two would be the same file.
    """
    facts = FORMATS[form]
    if not facts.holds_one_video or (len(videos) == 1 and not out.is_dir()):
        return [out]
    if out == STDOUT or not out.is_dir():
        raise OutputError(f"{out}: {form} holds one video per file, and there are {len(videos)}; name a folder")
    found: dict[Path, str] = {}
    for video in videos:
        path = out / f"{PurePath(video.bare_name).name}{facts.suffix}"  # never outside of the folder
        if path in found:
            raise OutputError(f"{found[path]} and {video.name}: both would be {path}; rename one, or run them apart")
        found[path] = video.name
    return list(found)


def write_label_files(videos: Sequence[LabelledVideo], form: str, out: Path) -> None:
    """Write videos and their labels, each file whole or not at all.

    Raises:
        OutputError: A file cannot be written, or the format cannot hold the labels.
    """
    paths = label_files(out, form, videos)
    if paths == [out]:
        write_content(encode_labels(videos, form, folder=_folder(out)), out)
        return
    for path, video in zip(paths, videos, strict=True):
        write_content(encode_labels([video], form, folder=out), path)


def _folder(out: Path) -> Path:
    return Path() if out == STDOUT else out.parent
