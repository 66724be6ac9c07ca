"""When each decoded frame is shown, from the times that files really have."""

from __future__ import annotations

from fractions import Fraction

MAX_STILL_S = 3600.0
"""Longest time a frame may stand; a longer one is a damaged timestamp, not a still picture."""
MAX_UNTIMED_S = 20.0
"""Longest duration of a frame that is believed where it is all there is: in a bare stream one damaged number sets it
for all frames. A slide show at a frame per 20 s still passes."""
JITTER_S = 1.0
"""A step back of at most this is a late frame; a longer one is a new start of the file's clock."""


class FrameClock:
    """Presentation times of frames in the order the decoder gives them, which is the order they are shown in.

    # Note [which time a frame has]

    A frame is shown at its presentation time. Where a file has none (AVI), the decoding times count from the start of
    the stream: they rise in the same steps. Where it has neither (a bare H.264 stream), frames follow one another by
    their durations, up to `MAX_UNTIMED_S`. Times that do not rise, or rise by more than `MAX_STILL_S`, are replaced by
    "right after the frame before"; from a jump on, later times are shifted along, so that nothing decoded is ever
    squeezed out or frozen.
    """

    def __init__(self, *, time_base: Fraction, nominal_ticks: int, start_ticks: int) -> None:
        """Start a clock.

        Args:
            time_base: Seconds per tick of all times below.
            nominal_ticks: Duration of a frame where nothing else tells it, at least 1.
            start_ticks: Time of the first frame where frames have no presentation time.
        """
        self.jumps = 0
        """Times found too far off to be true."""
        self.longest_ticks = 0
        """Longest time between two frames so far."""
        self.first_ticks: int | None = None
        """Time of the first frame on the file's own time line; None before it."""
        self._time_base = time_base
        self._nominal_ticks = nominal_ticks
        self._start_ticks = start_ticks
        self._max_still_ticks = int(MAX_STILL_S / time_base)
        self._max_untimed_ticks = max(int(MAX_UNTIMED_S / time_base), 1)
        self._jitter_ticks = int(JITTER_S / time_base)
        self._shift_ticks = 0
        self._dts_shift_ticks: int | None = None
        self._last_ticks = 0
        self._last_duration_ticks = nominal_ticks

    @property
    def start_s(self) -> float:
        """Time of the first frame on the file's own time line, in seconds."""
        return float((self.first_ticks or 0) * self._time_base)

    @property
    def end_ticks(self) -> int:
        """End of the last frame, in ticks after the first frame's start."""
        return self._last_ticks + self._last_duration_ticks - (self.first_ticks or 0)

    def stamp(self, *, pts: int | None, dts: int | None, duration: int | None) -> int:
        """The time of the next frame.

        Args:
            pts: Presentation time, in ticks.
            dts: Decoding time of the packet that brought the frame out, in ticks.
            duration: How long it is shown, in ticks; 0 or None where unknown.

        Returns:
            Ticks after the first frame, so 0 for that one; strictly rising.
        """
        read = pts if pts is not None else self._from_dts(dts)
        if self.first_ticks is None:
            ticks = self._start_ticks if read is None else read
            self.first_ticks = self._last_ticks = ticks
        else:
            ticks = self._after_last(read)
        since_last = ticks - self._last_ticks
        self._last_duration_ticks = self._duration(duration, since_last=since_last, is_timed=read is not None)
        self._last_ticks = ticks
        self.longest_ticks = max(self.longest_ticks, since_last)
        return ticks - self.first_ticks

    def _from_dts(self, dts: int | None) -> int | None:
        if dts is None:
            return None
        if self._dts_shift_ticks is None:
            self._dts_shift_ticks = self._start_ticks - dts if self.first_ticks is None else 0
        return dts + self._dts_shift_ticks

    def _after_last(self, read: int | None) -> int:
        expected = self._last_ticks + self._last_duration_ticks
        if read is None:
            return expected
        ticks = read + self._shift_ticks
        ahead = ticks - self._last_ticks
        if 0 < ahead <= self._max_still_ticks:
            return ticks
        if not -self._jitter_ticks <= ahead <= 0:
            self._shift_ticks += expected - ticks
            self.jumps += 1
        return expected

    def _duration(self, told: int | None, *, since_last: int, is_timed: bool) -> int:
        longest_ticks = self._max_still_ticks if is_timed else self._max_untimed_ticks
        if told and 0 < told <= longest_ticks:
            return told
        self.jumps += not is_timed and bool(told)
        return min(since_last or self._nominal_ticks, longest_ticks)
