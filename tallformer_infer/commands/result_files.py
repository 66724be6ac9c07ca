"""What `detect` writes: results in the format that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tallformer_infer.commands.file_formats import OutputFormat
from tallformer_infer.commands.label_files import check_label_files, write_label_files
from tallformer_infer.formats import LabelledVideo, labelled_video, notes_on
from tallformer_infer.results import (
    Failure,
    Selection,
    actions_document,
    activitynet_document,
    check_destination,
    video_ids,
    write_document,
)
from tallformer_infer.structures import Result


def check_result_files(out: Path, form: OutputFormat, videos: Sequence[str]) -> None:
    """Refuse what could not be written, before hours are spent on it.

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
    check_label_files(out, form, [LabelledVideo(name=video) for video in videos], inputs=videos)


def write_result_files(
    results: Sequence[Result], form: OutputFormat, out: Path, *, selection: Selection, failures: Sequence[Failure]
) -> tuple[str, ...]:
    """Write results, each file whole or not at all.

    Returns:
        What the files cannot tell, one sentence each.

    Raises:
        OutputError: They cannot be written.
    """
    if form == "json":
        write_document(actions_document(results, selection=selection, failures=failures), out)
        return ()
    if form == "activitynet":
        write_document(activitynet_document(results, selection=selection, failures=failures), out)
        return ()
    videos = [labelled_video(result) for result in results]
    write_label_files(videos, form, out)
    return notes_on(videos, form)


def partial_files(out: Path) -> tuple[Path, Path]:
    """Where what is done goes when a run is told to stop, and where the rest should go."""
    if out.is_dir():  # every video has a file of its own
        return out, out
    return out.with_name(f"{out.stem}.partial{out.suffix}"), out.with_name(f"{out.stem}.rest{out.suffix}")
