"""What `detect` writes: results in the format that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tallformer_infer.commands.label_files import check_label_files, write_label_files
from tallformer_infer.commands.pages import page_header, page_video
from tallformer_infer.commands.truth_table import KnownSegments
from tallformer_infer.labels.activitynet import activitynet_document, video_ids
from tallformer_infer.labels.formats import notes_on
from tallformer_infer.labels.segments import LabelledVideo, labelled_video
from tallformer_infer.report import render_page, require_report
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
    if form == "html":
        require_report()
        check_destination(out, inputs=videos, example="report.html")
        return
    check_label_files(out, form, [LabelledVideo(name=video) for video in videos], inputs=videos)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is told beside the results."""

    selection: Selection
    """What decided which actions were kept."""
    failures: Sequence[Failure]
    """Inputs that gave no result."""
    known: KnownSegments | None = None
    """What is known to happen in the videos."""


def write_result_files(results: Sequence[Result], form: str, out: Path, facts: RunFacts) -> tuple[str, ...]:
    """Write results, each file whole or not at all.

    Args:
        results: One or more, of one run.
        form: Name of the format.
        out: As `check_result_files` accepted it.
        facts: What only some formats tell.

    Returns:
        What the files cannot tell, one sentence each.

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
    folder = Path() if out == STDOUT else out.parent
    document = actions_document(results, selection=facts.selection, failures=facts.failures)
    header = page_header(document, when=datetime.now().astimezone())
    videos = [
        page_video(
            labelled_video(result),
            file=result.video.path,
            folder=folder,
            known=facts.known,
            streams=(result.video.stream, result.video.streams),
        )
        for result in results
    ]
    title = videos[0].name if len(videos) == 1 else f"{len(videos)} videos"
    return render_page(
        videos,
        title=title,
        facts=header.facts,
        notes=header.notes,
        failures=header.failures,
        maker=f"tallformer {results[0].provenance.tool_version}",
    )


def partial_files(out: Path) -> tuple[Path, Path]:
    """Where what is done goes when a run is told to stop, and where the rest should go."""
    if out == STDOUT or out.is_dir():  # every video has a file of its own
        return out, out
    return out.with_name(f"{out.stem}.partial{out.suffix}"), out.with_name(f"{out.stem}.rest{out.suffix}")
