"""Length of a video according to its container."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from av.container import InputContainer
from av.video.stream import VideoStream

WITH_HEADERS = frozenset({"mov", "matroska", "avi", "flv", "mxf"})
"""Demuxers that read lengths from a header. For others FFmpeg estimates from the size or the last packets."""
COUNTED_FROM_ZERO = frozenset({"matroska", "nut"})
"""Demuxers whose length is the time of the end: a stream from 100 s to 110 s has length 110 s."""
WRAPPING = frozenset({"mpegts", "mpeg"})
"""Demuxers of formats with a clock of 33 bits at 1/90000 s, which wraps every 26.5 hours."""
WRAP_TICKS = 1 << 33
"""Ticks of that clock."""
MICROSECONDS = 1_000_000
"""FFmpeg's AV_TIME_BASE."""
_TAGGED_TIME = re.compile(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)")


@dataclass(frozen=True)
class ToldLength:
    """Length of a video stream according to the container."""

    duration_s: float | None
    """From the first frame to the end, in seconds; None if unknown."""
    promised_end_s: float | None
    """End on the file's own time line, in seconds; known only if a header gives it for the video stream alone, so that
    longer audio does not count."""


def wrap_ticks(container: InputContainer) -> int | None:
    """Ticks after which the file's clock wraps; None if it never does."""
    return WRAP_TICKS if WRAPPING & frozenset(container.format.name.split(",")) else None


def told_length(
    container: InputContainer, stream: VideoStream, *, time_base: Fraction, first_frame_s: float
) -> ToldLength:
    """Read the length of `stream` from its container.

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
        return ToldLength(None, None)  # joined files: a clock that went back looks as if it had wrapped
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
