"""Skip decoding of frames that are never sampled."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tallformer_infer.media.timestamps import JITTER_S, MAX_STILL_S

SKIPPED_CODECS = frozenset({"h264"})
"""Codecs that say of a frame that no other at all is predicted from it. HEVC says it of one temporal layer only."""
KNOWN_PACKETS = 64
"""Latest packets among which the frame that is shown next is looked for."""


@dataclass(frozen=True)
class LeftOut:
    """A frame that was not decoded, with the times of its packet, in ticks."""

    pts: int
    dts: int | None
    duration: int | None


class FrameSkipper:
    """Decide which packets need no decoding, and list the frames skipped for it.

    # Note [frames that are never used]

    Of the frames that round to one point of the recipe's grid the last is taken (`fps` in `PictureSampler`). A frame
    of which another one at the same point is known to follow matters only to the frames that are predicted from it. Its
    packet is decoded with `skip_frame=NONREF`: the decoder leaves it out if no frame is predicted from it, and decodes
    it if one is. Its time still goes to the `FrameClock`. Damage in a packet that is left out is not seen, and with
    what a decoder patches the pictures behind a damage depends on the frames that it has, as on its threads.

    Whatever could tell frames and packets apart ends skipping for the rest of the file: damage; times that are missing,
    come twice or go back; a packet that no frame came of. A new picture size would start a new grid, so after the
    packet of each key frame nothing is left out until that frame is there and is like the first.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        """Start without skipping.

        Args:
            is_on: False leaves nothing out ever.
        """
        self._is_on = is_on
        self._grid: _Grid | None = None
        self._awaited_ticks: int | None = None
        self._last_dts: int | None = None
        self._known: deque[int] = deque(maxlen=KNOWN_PACKETS)
        self._pending: dict[int, LeftOut | None] = {}

    def start(self, first: VideoFrame, *, rate: Fraction, time_base: Fraction) -> None:
        """Start skipping once all packets that the decoder already holds are through.

        Args:
            first: The first frame of the video, as it was decoded.
            rate: Frames per second that are taken.
            time_base: Seconds per tick.
        """
        if first.pts is None:
            self.stop()
            return
        self._grid = _Grid(first.pts, rate * time_base, time_base, _looks(first))
        self._awaited_ticks = max(self._known, default=None)

    def stop(self) -> None:
        """Stop skipping."""
        self._is_on = False

    def can_skip(self, packet: Packet[VideoStream], following: Packet[VideoStream] | None) -> bool:
        """Whether `packet`, the next one for the decoder, can be skipped if no frame refers to it.

        Args:
            packet: A packet with data.
            following: The one after it in the file; None where there is none, or it is damaged.
        """
        if not self._is_on or packet.is_discard:
            return False
        ticks = self._learn(packet)
        if ticks is None:
            self.stop()
            return False
        is_unused = self._is_unused(ticks, following)
        self._pending[ticks] = LeftOut(ticks, packet.dts, packet.duration) if is_unused else None
        return is_unused

    def left_out_before(self, frame: VideoFrame) -> list[LeftOut]:
        """Frames skipped between the last decoded frame and this one; call for every decoded frame."""
        if frame.pts is None or frame.is_corrupt:
            self.stop()
        if frame.pts is None:
            return []
        passed = sorted(ticks for ticks in self._pending if ticks <= frame.pts)
        marks = [self._pending.pop(ticks) for ticks in passed if ticks < frame.pts]
        self._pending.pop(frame.pts, None)
        if self._grid is not None:
            if None in marks:
                self.stop()
            self._compare(frame, frame.pts, self._grid)
        return [mark for mark in marks if mark is not None]

    def left_out_at_end(self) -> list[LeftOut]:
        """Frames skipped after the last decoded frame."""
        marks = [self._pending[ticks] for ticks in sorted(self._pending)]
        self._pending.clear()
        return [mark for mark in marks if mark is not None]

    def _learn(self, packet: Packet[VideoStream]) -> int | None:
        """Store the times of a packet; return its presentation time, or None if the times do not rise."""
        pts, dts, last_dts = packet.pts, packet.dts, self._last_dts
        if pts is None or pts in self._known or (dts is not None and last_dts is not None and dts <= last_dts):
            return None
        if self._grid is not None:
            ahead_s = (pts - max(self._known, default=pts)) * self._grid.time_base
            if not -JITTER_S <= ahead_s <= MAX_STILL_S:
                return None
        if packet.is_keyframe:
            self._awaited_ticks = pts
        self._known.append(pts)
        self._last_dts = last_dts if dts is None else dts
        return pts

    def _is_unused(self, ticks: int, following: Packet[VideoStream] | None) -> bool:
        grid = self._grid
        if grid is None or self._awaited_ticks is not None or ticks <= grid.first_ticks:
            return False
        later = [known for known in self._known if known > ticks]
        if following is not None and following.size and not following.is_discard:
            later += [following.pts] if following.pts is not None and following.pts > ticks else []
        return bool(later) and grid.point(min(later)) == grid.point(ticks)

    def _compare(self, frame: VideoFrame, ticks: int, grid: _Grid) -> None:
        if self._awaited_ticks is not None and ticks >= self._awaited_ticks:
            self._awaited_ticks = None
            if _looks(frame) != grid.looks:
                self.stop()


@dataclass(frozen=True)
class _Grid:
    """Points in time at which pictures are sampled."""

    first_ticks: int
    points_per_tick: Fraction
    time_base: Fraction
    looks: tuple[object, ...]
    """Of the first frame."""

    def point(self, ticks: int) -> int:
        """Grid point of `ticks`, rounded half up like the filter `fps=round=near`."""
        points = 2 * (ticks - self.first_ticks) * self.points_per_tick.numerator
        return (points + self.points_per_tick.denominator) // (2 * self.points_per_tick.denominator)


def _looks(frame: VideoFrame) -> tuple[object, ...]:
    """Properties that a filter graph is built for."""
    return frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)
