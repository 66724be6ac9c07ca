"""From a feed to events: actions when they are final, or earlier, and gaps."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tallformer_infer.live.feed import Feed, Gap, Session
from tallformer_infer.live.provisional import Told, Tracker
from tallformer_infer.live.record import Recorder
from tallformer_infer.pipeline import Detector
from tallformer_infer.structures import Action

Event = dict[str, Any]
"""One line of output: `event` is `session`, `action`, `provisional`, `withdrawn`, `gap` or `end`."""

_OVERSAMPLING = 2.0
"""Pictures are taken up to so many times as often as the model needs, so that its own sampling finds the right ones."""


def watch(
    feed: Feed,
    detector: Detector,
    *,
    threshold: float | None = None,
    classes: Sequence[str] | None = None,
    operating_point: str | None = None,
    recorder: Recorder | None = None,
    provisional: bool = False,
) -> Iterator[Event]:
    """Detect for as long as the source lasts; memory does not grow.

    Args:
        feed: The source.
        detector: The model on its device.
        threshold: Lowest score of an action, in [0, 1].
        classes: Names of the actions to keep.
        operating_point: As for `Detector.detect`.
        recorder: Keeps clips of final actions; the feed must keep packets for long enough.
        provisional: Tell actions as soon as they are found, too, see Note [states of an id].

    Yields:
        An event for each session, action and gap, and one at the end. A final action comes when no later picture can
        change it: at the end of its window at the earliest.

    Raises:
        MediaError: The source cannot be opened at all.
    """
    step_s = 1 / (_OVERSAMPLING * detector.bundle.recipe.sampling.sample_fps)
    counts = {"sessions": 0, "actions": 0, "gaps": 0}
    tracker = Tracker()
    options: dict[str, Any] = {"threshold": threshold, "classes": classes, "operating_point": operating_point}
    for found in feed.sessions():
        if isinstance(found, Gap):
            counts["gaps"] += 1
            yield _gap(found)
            continue
        counts["sessions"] += 1
        yield {"event": "session", "start": _utc(found.start), "source": feed.address}
        pictures = found.pictures(step_s)
        first = next(pictures, None)
        if first is None:
            continue
        film = _with_first(first, pictures)
        told: Iterator[Told]
        if provisional:
            told = (one for step in detector.follow(film, **options) for one in tracker.told(step))
        else:
            told = _numbered(detector.stream(film, **options), counts["actions"])
        for one in told:
            counts["actions"] += one.kind == "final"
            yield _event(feed, found, one, recorder)
    yield {"event": "end", **counts, "dropped_packets": feed.dropped_packets}


def _with_first(first: tuple[float, Any], others: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    yield first
    yield from others


def _numbered(actions: Iterator[Action], before: int) -> Iterator[Told]:
    for number, action in enumerate(actions, before + 1):
        yield Told("final", number, action, 0)


def _event(feed: Feed, session: Session, told: Told, recorder: Recorder | None) -> Event:
    action = told.action
    event: Event = {"event": "action" if told.kind == "final" else told.kind, "id": told.id, "label": action.label}
    if told.kind == "withdrawn":
        return event
    if told.kind == "provisional":
        event["revision"] = told.revision
    event |= {
        "score": round(action.score, 4),
        "segment": [round(action.start_s, 3), round(action.end_s, 3)],
    }
    if feed.is_live:
        start, end = session.start + action.start_s, session.start + action.end_s
        event |= {"start": _utc(start), "end": _utc(end), "latency_s": round(time.time() - end, 2)}
    if recorder is not None and told.kind == "final":
        path = recorder.record(feed, session, action)
        event["clip"] = None if path is None else str(path)
    return event


def _gap(gap: Gap) -> Event:
    return {
        "event": "gap",
        "start": _utc(gap.start),
        "end": _utc(gap.end),
        "seconds": round(gap.end - gap.start, 2),
        "reason": gap.reason,
        "detail": gap.detail,
    }


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
