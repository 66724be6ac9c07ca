"""Formats of editing programs, through OpenTimelineIO: its own files, CMX 3600 edit lists, Final Cut Pro 7 XML.

`otio` and `fcp7` show where actions are: a track per class, with each action at its time. `edl`, which has only one
track, is a reel of consecutive actions.

Source: opentimelineio 0.18 and its adapters, ASWF (Apache-2.0).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, assert_never

from tallformer_infer.errors import ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.labels.files import LINE, escape
from tallformer_infer.labels.segments import LabelledVideo, Segment, by_class, in_time_order, lanes, only_video

if TYPE_CHECKING:
    from opentimelineio.schema import Clip, Timeline, Track

EditingFormat = Literal["otio", "edl", "fcp7"]
_DEFAULT_FPS = 25.0
_ADAPTERS = {"edl": ("otio_cmx3600_adapter",), "fcp7": ("otio_fcp_adapter",)}


def encode_timeline(videos: Sequence[LabelledVideo], form: EditingFormat) -> str:
    """Encode the actions of one video for an editing program.

    Times are whole frames of the video; `edl` and `fcp7` use the nearest standard timecode rate. Exact times are in the
    metadata of `otio`. A video with an unknown rate gets 25 frames per second.

    Raises:
        ExtraError: OpenTimelineIO, or its adapter for the format, is not installed.
    """
    require_editing(form)
    from opentimelineio import adapters  # noqa: PLC0415 (an extra)

    video = only_video(videos, form)
    match form:
        case "otio":
            timeline = _laid_out(video, _Frames(video.fps or _DEFAULT_FPS))
            return str(adapters.write_to_string(timeline, "otio_json"))
        case "fcp7":
            timeline = _laid_out(video, _Frames.of_time_code(video.fps))
            return str(adapters.write_to_string(timeline, "fcp_xml"))
        case "edl":
            timeline = _one_after_another(video, _Frames.of_time_code(video.fps))
            return str(adapters.write_to_string(timeline, "cmx_3600"))
        case _:
            assert_never(form)


def require_editing(form: EditingFormat) -> None:
    """Raise if a library that the format needs is not installed.

    Raises:
        ExtraError: A library is missing; the message gives the install command.
    """
    for module in ("opentimelineio", *_ADAPTERS.get(form, ())):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ExtraError(
                f"the format {form} needs the extra 'editing' ({error.name} is not installed): "
                f"{install_command('editing')}"
            ) from error


class _Frames:
    """Convert times of a video to OpenTimelineIO frames."""

    def __init__(self, rate: float) -> None:
        from opentimelineio import opentime  # noqa: PLC0415 (an extra)

        self._time = opentime
        self.rate = rate

    @staticmethod
    def of_time_code(fps: float | None) -> _Frames:
        from opentimelineio.opentime import RationalTime  # noqa: PLC0415 (an extra)

        return _Frames(RationalTime.nearest_smpte_timecode_rate(fps or _DEFAULT_FPS))

    def at(self, seconds: float) -> int:
        return max(0, round(seconds * self.rate))

    def range(self, first: int, frames: int) -> Any:
        time = self._time
        return time.TimeRange(time.RationalTime(first, self.rate), time.RationalTime(frames, self.rate))


def _laid_out(video: LabelledVideo, frames: _Frames) -> Timeline:
    from opentimelineio import schema  # noqa: PLC0415 (an extra)

    timeline = schema.Timeline(name=_name(video.name))
    for label, segments in by_class(video.segments).items():
        for lane in lanes(segments):
            track = schema.Track(name=_name(label), kind=schema.TrackKind.Video)
            _fill(track, lane, video, frames)
            timeline.tracks.append(track)
    return timeline


def _fill(track: Track, lane: list[Segment], video: LabelledVideo, frames: _Frames) -> None:
    from opentimelineio import schema  # noqa: PLC0415 (an extra)

    reached = 0
    for segment, (first, count) in zip(lane, _spans(lane, frames), strict=True):
        if first > reached:
            track.append(schema.Gap(source_range=frames.range(0, first - reached)))
        track.append(_clip(segment, video, frames, first, count))
        reached = max(first, reached) + count


def _spans(lane: list[Segment], frames: _Frames) -> Iterator[tuple[int, int]]:
    """First frame and number of frames (at least one) of each segment; rounding never makes neighbours overlap."""
    reached = 0
    for segment in lane:
        first = max(reached, frames.at(segment.start_s))
        reached = max(first + 1, frames.at(segment.end_s))
        yield first, reached - first


def _one_after_another(video: LabelledVideo, frames: _Frames) -> Timeline:
    from opentimelineio import schema  # noqa: PLC0415 (an extra)

    timeline = schema.Timeline(name=_name(video.name))
    track = schema.Track(name="V", kind=schema.TrackKind.Video)
    for segment in in_time_order(video.segments):
        first = frames.at(segment.start_s)
        track.append(_clip(segment, video, frames, first, max(1, frames.at(segment.end_s) - first)))
    timeline.tracks.append(track)
    return timeline


def _clip(segment: Segment, video: LabelledVideo, frames: _Frames, first: int, count: int) -> Clip:
    from opentimelineio import schema  # noqa: PLC0415 (an extra)

    length = max(frames.at(video.duration_s or 0.0), first + count)
    media = schema.ExternalReference(video.address, available_range=frames.range(0, length))
    exact = {"label": _name(segment.label), "start_s": segment.start_s, "end_s": segment.end_s}
    return schema.Clip(
        name=_name(segment.label),
        media_reference=media,
        source_range=frames.range(first, count),
        metadata={"tallformer": exact if segment.score is None else {**exact, "score": segment.score}},
    )


def _name(text: str) -> str:
    """`text` on one line, as edit lists require."""
    return escape(text, LINE)
