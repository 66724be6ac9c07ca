"""How long a video is by the word of its file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from av.container import InputContainer
from av.video.stream import VideoStream

WITH_HEADERS = frozenset({"mov", "matroska", "avi", "flv", "mxf"})
"""FFmpeg's demuxers whose lengths stand in a header. For others FFmpeg itself goes by the size or the last packets."""
COUNTED_FROM_ZERO = frozenset({"matroska", "nut"})
"""FFmpeg's demuxers whose lengths are times of the end: a stream from 100 s to 110 s has 110 s."""
WRAPPING = frozenset({"mpegts", "mpeg"})
"""FFmpeg's demuxers of formats whose clock has 33 bits of 1/90000 s: it starts again every 26.5 hours."""
WRAP_TICKS = 1 << 33
"""Ticks of that clock."""
MICROSECONDS = 1_000_000
"""FFmpeg's AV_TIME_BASE."""
_TAGGED_TIME = re.compile(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)")


@dataclass(frozen=True)
class ToldLength:
    """What a file says of its video stream."""

    duration_s: float | None
    """From the first frame to the end, in seconds; None where nothing tells it."""
    promised_end_s: float | None
    """End on the file's own time line, in seconds; None but where a header tells it and tells it of the video stream
    alone, so that longer audio has no part in it."""


def wrap_ticks(container: InputContainer) -> int | None:
    """Ticks after which the clock of a file starts again; None where it never does."""
    return WRAP_TICKS if WRAPPING & frozenset(container.format.name.split(",")) else None


def told_length(
    container: InputContainer, stream: VideoStream, *, time_base: Fraction, first_frame_s: float
) -> ToldLength:
    """The length of `stream`, as its container tells it.

    Args:
        container: The file.
        stream: Its video stream.
        time_base: Seconds per tick of the stream's times.
        first_frame_s: Time of the first frame on the file's own time line, in seconds.
    """
    formats = frozenset(container.format.name.split(","))
    start_s = first_frame_s if stream.start_time is None else float(stream.start_time * time_base)
    own_s = _own_length_s(formats, stream, time_base)
    length_s = own_s or max(container.duration or 0, 0) / MICROSECONDS
    if formats & WRAPPING and length_s > float(WRAP_TICKS // 2 * time_base):
        return ToldLength(None, None)  # files joined end to end: a clock that went back reads as if it had wrapped
    if formats & COUNTED_FROM_ZERO and length_s > first_frame_s:  # else some writer has left the start out already
        start_s, length_s = first_frame_s, length_s - first_frame_s
    if not length_s:
        return ToldLength(None, None)
    is_promised = formats & WITH_HEADERS and (own_s or len(container.streams) == 1)
    return ToldLength(length_s, start_s + length_s if is_promised else None)


def _own_length_s(formats: frozenset[str], stream: VideoStream, time_base: Fraction) -> float | None:
    if "avi" in formats and stream.frames:
        # Of a file cut short FFmpeg shrinks `duration` in proportion to its size; an AVI's time base is one frame.
        return float(stream.frames * time_base)
    if "matroska" in formats:  # FFmpeg and mkvmerge write a tag for each track
        tag = _TAGGED_TIME.fullmatch(stream.metadata.get("DURATION", ""))
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None
    if "flv" in formats or not stream.duration or stream.duration < 0:  # an FLV's length is that of all its streams
        return None
    return float(stream.duration * time_base)
