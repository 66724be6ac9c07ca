"""Convert results and labels to pages and index rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tallformer_infer.evaluation import pair_up
from tallformer_infer.labels import FOR_RESULTS, LabelledVideo, Segment, address_of, labelled_video, relative_address_of
from tallformer_infer.report.page import IndexRow, PageAction, PageTruth, PageVideo, render_page
from tallformer_infer.results import Failure, Selection, actions_document
from tallformer_infer.structures import Action, Result

RESULT_FORMATS = ("json", "html", *(form for form in FOR_RESULTS if form != "json"))
"""Formats in which results can be written: labels, and pages."""


@dataclass(frozen=True, kw_only=True)
class PageHeader:
    """Header of a page."""

    facts: tuple[tuple[str, str], ...] = ()
    """Names and values: model, threshold, date."""
    notes: tuple[str, ...] = ()
    """Warnings at the top of the page, one sentence each."""
    failures: tuple[tuple[str, str], ...] = ()
    """Path and error of failed videos."""
    streams: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Index of the analysed video stream and number of streams, by path of the video."""


def page_header(document: Mapping[str, Any], *, when: datetime) -> PageHeader:
    """Header of a page from an `actions.json`, in either format; missing or malformed values are skipped.

    Args:
        document: The document, read or about to be written.
        when: Time of the results.
    """
    run = _part(document, "external_data") or document
    model, settings = _part(run, "model"), _part(run, "settings")
    if not isinstance(model.get("name"), str):
        return PageHeader()
    facts = [("model", model["name"])]
    if isinstance(settings.get("operating_point"), str):
        facts.append(("operating point", settings["operating_point"]))
    threshold = settings.get("threshold")
    facts.append(("threshold", f"{threshold:g}" if isinstance(threshold, (int, float)) else "none"))
    facts.append(("date", when.strftime("%Y-%m-%d %H:%M")))
    if isinstance(model.get("intended_use"), str):
        facts.append(("intended use", model["intended_use"]))
    notes = [model["notice"]] if isinstance(model.get("notice"), str) else []
    failures = [failure for failure in run.get("failures") or () if isinstance(failure, dict)]
    videos = run.get("videos")
    described = [video for video in videos if isinstance(video, dict)] if isinstance(videos, list) else []
    return PageHeader(
        facts=tuple(facts),
        notes=tuple(notes),
        failures=tuple((str(failure.get("path")), str(failure.get("error"))) for failure in failures),
        streams={
            str(video.get("path")): (video["stream"], video["streams"])
            for video in described
            if isinstance(video.get("stream"), int) and isinstance(video.get("streams"), int)
        },
    )


def _part(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def result_page(
    results: Sequence[Result],
    *,
    selection: Selection,
    sources: Sequence[str],
    truths: Sequence[Sequence[Segment] | None] | None = None,
    failures: Sequence[Failure] = (),
    when: datetime | None = None,
    classes: Sequence[str] = (),
    review: str | None = None,
) -> bytes:
    """Render the page of the results of one run.

    Args:
        results: At least one result, all of one run.
        selection: Filters that were applied.
        sources: URL of each video, from `source_of`.
        truths: Annotated segments of each video; None for videos without annotations.
        failures: Inputs that failed.
        when: Time of the results; None: now.
        classes: Names that are offered for corrections, beside those that are on the page.
        review: URL that keeps the review; None keeps it in the browser.

    Raises:
        ExtraError: A library that a page needs is not installed.
    """
    document = actions_document(results, selection=selection, failures=failures)
    header = page_header(document, when=when or datetime.now().astimezone())
    videos = [
        page_video(
            labelled_video(result), source=source, truth=truth, streams=(result.video.stream, result.video.streams)
        )
        for result, source, truth in zip(results, sources, truths or [None] * len(results), strict=True)
    ]
    return render_page(
        videos,
        title=videos[0].name if len(videos) == 1 else f"{len(videos)} videos",
        facts=header.facts,
        notes=header.notes,
        failures=header.failures,
        maker=f"tallformer {results[0].provenance.tool_version}",
        classes=classes,
        review=review,
    )


def source_of(file: str, folder: Path | None) -> str:
    """The URL of a video for the player: relative to the page where it can be.

    Args:
        file: Path or address of the video; `-`: there is none.
        folder: Where the page will lie; None: not on this machine.
    """
    if file == "-":
        return ""
    return (None if folder is None else relative_address_of(file, folder)) or address_of(file)


def page_video(
    video: LabelledVideo,
    *,
    source: str,
    truth: Sequence[Segment] | None = None,
    streams: tuple[int, int] = (0, 1),
) -> PageVideo:
    """One video of a page.

    Args:
        video: Its name and what was found in it.
        source: URL of the video itself, as `source_of` gives it.
        truth: What is known to happen, in order of time; None where nothing is.
        streams: Which of its video streams was analysed, from 0, and how many it has.
    """
    segments = sorted(video.segments, key=lambda segment: (segment.start_s, segment.end_s, -(segment.score or 0.0)))
    return PageVideo(
        name=video.name,
        source=source,
        actions=_page_actions(segments, truth or ()),
        truth=None
        if truth is None
        else tuple(PageTruth(start_s=each.start_s, end_s=each.end_s, label=each.label) for each in truth),
        start_s=video.start_s,
        end_s=video.duration_s,
        stream=streams[0],
        streams=streams[1],
        truth_name=video.bare_name,
        fps=video.fps,
    )


def index_row(video: LabelledVideo, *, page: str | None = None) -> IndexRow:
    """A video that was done, as a row of an index."""
    counts: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for segment in video.segments:
        counts[segment.label] += 1
        seconds[segment.label] += segment.end_s - segment.start_s
    return IndexRow(
        name=video.name,
        status="done",
        duration_s=None if video.duration_s is None else video.duration_s - video.start_s,
        counts=counts,
        seconds=seconds,
        page=page,
    )


def _page_actions(segments: Sequence[Segment], truth: Sequence[Segment]) -> tuple[PageAction, ...]:
    actions = [
        Action(
            start_s=each.start_s, end_s=each.end_s, label=each.label, score=1.0 if each.score is None else each.score
        )
        for each in segments
    ]
    rows = {id(known): row for row, known in enumerate(truth)}
    pairs = {id(pair.action): pair for pair in pair_up(actions, truth)} if truth else {}
    found = []
    for segment, action in zip(segments, actions, strict=True):
        pair = pairs.get(id(action))
        known = None if pair is None else pair.known
        found.append(
            PageAction(
                start_s=segment.start_s,
                end_s=segment.end_s,
                label=segment.label,
                score=segment.score,
                truth=None if known is None else rows[id(known)],
                tiou=0.0 if pair is None else pair.tiou,
            )
        )
    return tuple(found)
