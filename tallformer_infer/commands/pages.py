"""Videos and their labels as pages to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tallformer_infer.commands.tables import KnownSegments
from tallformer_infer.errors import OutputError
from tallformer_infer.evaluation import pair_up
from tallformer_infer.labels import LabelledVideo, Segment, address_of, relative_address_of
from tallformer_infer.report import IndexRow, PageAction, PageTruth, PageVideo
from tallformer_infer.structures import Action
from tallformer_infer.text import printable


@dataclass(frozen=True, kw_only=True)
class PageHeader:
    """What a page says above its videos."""

    facts: tuple[tuple[str, str], ...] = ()
    """Name and value of what was done: model, threshold, date."""
    notes: tuple[str, ...] = ()
    """What a reader must know first, a sentence each."""
    failures: tuple[tuple[str, str], ...] = ()
    """Path and error of videos that gave no result."""
    streams: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By the path of a video: which of its video streams was analysed, and how many it has."""


def page_header(document: Mapping[str, Any], *, when: datetime) -> PageHeader:
    """What an `actions.json`, in either dialect, says of its run; what is not there, or is something else, is left out.

    Args:
        document: As it was read, or is going to be written.
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


def page_video(
    video: LabelledVideo,
    *,
    file: str,
    folder: Path,
    known: KnownSegments | None = None,
    embed: bool = False,
    streams: tuple[int, int] = (0, 1),
) -> PageVideo:
    """One video of a page.

    Args:
        video: Its name and what was found in it.
        file: Path or address of the video itself; `-`: there is none.
        folder: Where the page will lie.
        known: What is known to happen; None where nothing is.
        embed: Put the file into the page.
        streams: Which of its video streams was analysed, from 0, and how many it has.

    Raises:
        OutputError: The file is to be put into the page, and cannot be read.
    """
    truth = None if known is None else known.named(video.bare_name)
    segments = sorted(video.segments, key=lambda segment: (segment.start_s, segment.end_s, -(segment.score or 0.0)))
    return PageVideo(
        name=video.name,
        source="" if file == "-" else relative_address_of(file, folder) or address_of(file),
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
        content=_content_of(file) if embed else None,
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


def _content_of(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise OutputError(
            f"{printable(file)}: cannot be put into the page: {error.strerror or error}; only files can"
        ) from error
