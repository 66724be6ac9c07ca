"""Convert a feed to events (final and provisional actions, gaps), and record clips.

Note [states of an id]
    An id starts as provisional, is reported as provisional again whenever its action changes enough, and ends once: as
    a final action, or withdrawn. A final action that was not reported before gets a new id. After each clip, an action
    continues the id of an overlapping action of the same class, in order of decreasing tIoU, one to one; final actions
    choose before provisional ones. Ids without a successor are withdrawn. An id may therefore move or grow, but never
    changes its class.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import av
from av.packet import Packet

from tallformer_infer.errors import OutputError
from tallformer_infer.files import make_folder, replacing
from tallformer_infer.live.feed import Feed, Gap, Session, VideoPacket
from tallformer_infer.pipeline import Detector, StreamStep
from tallformer_infer.structures import Action

Event = dict[str, Any]
"""One line of output: `event` is `session`, `action`, `provisional`, `withdrawn`, `gap` or `end`."""

_OVERSAMPLING = 2.0
"""Factor by which pictures may exceed the model's rate, so that its own sampling selects the right ones."""


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
        operating_point: See `Detector.detect`.
        recorder: Records clips of final actions; the feed must keep packets for long enough.
        provisional: Also report actions as soon as they are found, see Note [states of an id].

    Yields:
        An event for each session, action and gap, and one at the end. A final action is reported when no later frame
        can change it: at the end of its window at the earliest.

    Raises:
        MediaError: The source cannot be opened.
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


_LEAST_MOVE_S = 0.2
_LEAST_SCORE = 0.05
"""Smaller changes of a boundary (in seconds) or of the score are not reported before the action is final."""


@dataclass(frozen=True)
class Told:
    """A report about an id."""

    kind: Literal["provisional", "final", "withdrawn"]
    """Current state of the id."""
    id: int
    """The id, from 1."""
    action: Action
    """Current action; the last one reported if withdrawn."""
    revision: int
    """Number of provisional reports of this id so far."""


class Tracker:
    """Assigns actions ids that persist from clip to clip, see Note [states of an id]."""

    def __init__(self) -> None:
        self._open: dict[int, Told] = {}
        self._latest_id = 0

    def told(self, step: StreamStep) -> Iterator[Told]:
        """Reports after a clip: final actions, then new and changed ones, then withdrawn ones."""
        before, self._open = self._open, {}
        for number, action in self._numbered(step.final, before):
            known = before.pop(number, None)
            yield Told("final", number, action, 0 if known is None else known.revision)
        for number, action in self._numbered(step.provisional, before):
            known = before.pop(number, None)
            if known is None or _differ(known.action, action):
                known = Told("provisional", number, action, 1 if known is None else known.revision + 1)
                yield known
            self._open[number] = known
        for known in before.values():
            yield Told("withdrawn", known.id, known.action, known.revision)

    def _numbered(self, actions: Sequence[Action], before: dict[int, Told]) -> list[tuple[int, Action]]:
        """All actions, each with the id that it continues, or a new one."""
        pairs = sorted(
            (-overlap, number, row)
            for number, known in before.items()
            for row, action in enumerate(actions)
            if known.action.label == action.label and (overlap := _tiou(known.action, action)) > 0
        )
        ids: dict[int, int] = {}
        for _, number, row in pairs:
            if row not in ids and number not in ids.values():
                ids[row] = number
        return [(ids.get(row) or self._new_id(), action) for row, action in enumerate(actions)]

    def _new_id(self) -> int:
        self._latest_id += 1
        return self._latest_id


def _differ(told: Action, action: Action) -> bool:
    moved_s = max(abs(told.start_s - action.start_s), abs(told.end_s - action.end_s))
    return moved_s >= _LEAST_MOVE_S or abs(told.score - action.score) >= _LEAST_SCORE


def _tiou(first: Action, second: Action) -> float:
    shared_s = min(first.end_s, second.end_s) - max(first.start_s, second.start_s)
    return max(shared_s, 0.0) / (first.end_s - first.start_s + second.end_s - second.start_s - shared_s)


_MARGIN_S = 2.0
_UNSAFE = re.compile(r"[^\w-]+")


class Recorder:
    """Writes a file per action into a folder."""

    def __init__(self, folder: Path) -> None:
        """Create the folder.

        Raises:
            OutputError: The folder cannot be created.
        """
        make_folder(folder)
        self._folder = folder

    def record(self, feed: Feed, session: Session, action: Action) -> Path | None:
        """Write the clip of an action, from the key frame before it; None if its packets are no longer kept.

        Raises:
            OutputError: The clip cannot be written.
        """
        packets = feed.kept(session, action.start_s - _MARGIN_S, action.end_s + _MARGIN_S)
        if not packets or packets[-1].seconds < action.start_s:
            return None
        moment = datetime.datetime.fromtimestamp(session.start + action.start_s, datetime.UTC)
        name = f"{moment:%Y%m%dT%H%M%S}Z-{_UNSAFE.sub('-', action.label)}.mkv"
        path = self._folder / name
        try:
            with replacing(path) as partial, av.open(str(partial), "w", format="matroska") as output:
                stream = output.add_stream_from_template(session.stream)
                first = packets[0].packet
                offset = min(timed.packet.dts for timed in packets if timed.packet.dts is not None) if first.dts else 0
                for timed in packets:
                    output.mux(_copied(timed.packet, stream, offset))
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
        return path


def _copied(packet: VideoPacket, stream: av.VideoStream, offset: int) -> VideoPacket:
    copied = cast("VideoPacket", Packet(bytes(packet)))
    copied.time_base = packet.time_base
    copied.pts = None if packet.pts is None else packet.pts - offset
    copied.dts = None if packet.dts is None else packet.dts - offset
    copied.duration = packet.duration
    copied.is_keyframe = packet.is_keyframe
    copied.stream = stream
    return copied
