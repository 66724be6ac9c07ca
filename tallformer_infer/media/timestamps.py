"""Presentation times of decoded frames, from the missing, damaged and jumping timestamps of real files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from statistics import median_low
from typing import Generic, Protocol, TypeVar

MAX_STILL_S = 3600.0
"""Longest plausible duration of one frame, in seconds."""
MAX_UNTIMED_S = 20.0
"""Longest plausible duration of a frame without timestamps, in seconds: in a raw stream one damaged number sets the
duration of all frames. A slide show with a frame every 20 s is still accepted."""
MAX_GAP_S = 86_400.0
"""Longest plausible jump between two frames, in seconds."""
MIN_GAP_S = 10.0
"""Shortest jump reported as a gap, in seconds."""
MAX_LAST_STILL_S = 60.0
"""Longest jump accepted at the end of the file, where too few frames follow to confirm it, in seconds."""
JITTER_S = 1.0
"""A step back of at most this many seconds is a late frame and not counted as damage."""
LOOK_AHEAD_FRAMES = 16
"""Frames read ahead to judge a jump, and therefore the longest run of damaged times that is repaired."""
USUAL_STEPS = 3
"""A step of at most this many usual steps is accepted without looking ahead."""
_CONFIRMING_FRAMES = 3
"""Frames after a jump at the end of the file, including the one that jumped, needed to confirm it."""
_GAP_STEPS = 10
"""A gap is longer than this many usual steps; a time-lapse has none."""
_SQUEEZED = 5
"""Late frames are placed before the next good one at intervals of at least the usual step divided by this."""


class Timed(Protocol):
    """A frame with times in ticks; None where unknown."""

    @property
    def pts(self) -> int | None:
        """Presentation time."""

    @property
    def dts(self) -> int | None:
        """Decoding time of the packet that produced the frame."""

    @property
    def duration(self) -> int | None:
        """Display duration; 0 or None where unknown."""


Frame = TypeVar("Frame", bound=Timed)


class FrameClock:
    """Assign presentation times to frames in decoder output order, which is presentation order.

    # Note [which time a frame has]

    A frame is shown at its presentation time. If the first frame has none (AVI), decoding times are used for all: they
    increase by the same steps, from the start of the stream. If a file has neither (a raw H.264 stream), each frame
    follows the last by its duration, up to `MAX_UNTIMED_S`.

    # Note [jumps]

    A step that is not positive, or longer than `USUAL_STEPS` usual ones, is judged by the next `LOOK_AHEAD_FRAMES`
    frames:

    - Times return to the old timeline: those in between are damaged, and interpolated.
    - Times stay ahead: the jump is real (a camera trap, a time-lapse, an interrupted recording). It is kept, up to
      `MAX_GAP_S`, and counted as a gap. At the end of the file only `MAX_LAST_STILL_S` is accepted.
    - Times stay behind: the file's clock restarted (concatenated files). Later times are shifted so that the first
      frame after the jump directly follows the last one before it. The same applies to a jump ahead of more than half
      the range of a clock that wraps: it is a jump back that FFmpeg unwrapped.
    """

    def __init__(
        self, *, time_base: Fraction, nominal_ticks: int, start_ticks: int, wrap_ticks: int | None = None
    ) -> None:
        """Start a clock.

        Args:
            time_base: Seconds per tick of all times below.
            nominal_ticks: Duration of a frame that has none of its own, at least 1.
            start_ticks: Time of the first frame if frames have no presentation time.
            wrap_ticks: Ticks after which the file's clock wraps to 0; None if it never does.
        """
        self.jumps = 0
        """Places where times were damaged or restarted."""
        self.gaps = 0
        """Jumps ahead that were kept."""
        self.gap_s = 0.0
        """Total length of the gaps, in seconds."""
        self.longest_ticks = 0
        """Longest time between two frames so far."""
        self.first_ticks: int | None = None
        """Time of the first frame on the file's own timeline; None before that frame."""
        self._time_base = time_base
        self._nominal_ticks = nominal_ticks
        self._start_ticks = start_ticks
        self._max_step_ticks = min(int(MAX_GAP_S / time_base), (wrap_ticks or 1 << 62) // 2)
        self._max_still_ticks = int(MAX_STILL_S / time_base)
        self._max_untimed_ticks = max(int(MAX_UNTIMED_S / time_base), 1)
        self._jitter_ticks = int(JITTER_S / time_base)
        self._shift_ticks = 0
        self._uses_dts = False
        self._last_ticks = 0
        self._last_duration_ticks = nominal_ticks
        self._steps: deque[int] = deque(maxlen=5)
        self._planned: deque[int] = deque()

    @property
    def start_s(self) -> float:
        """Time of the first frame on the file's own timeline, in seconds."""
        return float((self.first_ticks or 0) * self._time_base)

    @property
    def end_ticks(self) -> int:
        """End of the last frame, in ticks after the first frame's start."""
        return self._last_ticks + self._last_duration_ticks - (self.first_ticks or 0)

    def run(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, int]]:
        """Frames with their times in ticks after the first frame: 0, then strictly increasing.

        Reads one frame ahead at the start, and up to `LOOK_AHEAD_FRAMES` to judge a jump.
        """
        waiting = _Waiting(frames)
        while waiting.fill(1):
            if self.first_ticks is None:
                self._begin(waiting)
            elif not self._planned:
                self._plan(waiting)
            frame = waiting.pop()
            yield frame, self._place(frame, self._planned.popleft())

    def _begin(self, waiting: _Waiting[Frame]) -> None:
        """Plan the first frame, or the first few if their times are damaged."""
        waiting.fill(2)
        first = waiting.frames[0]
        self._uses_dts = first.pts is None and first.dts is not None
        if self._uses_dts and first.dts is not None:
            self._shift_ticks = self._start_ticks - first.dts
        self._last_duration_ticks = self._believed(first.duration) or self._nominal_ticks
        reads = self._reads(waiting)
        start = self._start_ticks if reads[0] is None else reads[0]
        strays = 0
        if reads[0] is not None and not self._is_usual(reads[0], reads[-1]):
            waiting.fill(LOOK_AHEAD_FRAMES)
            strays = self._strays_at_start(self._reads(waiting))
        if strays:
            self.jumps += 1
            good = self._reads(waiting)[strays]
            assert good is not None, "only a known time ends a run of damaged ones"
            start = good - strays * self._last_duration_ticks
        self.first_ticks = self._last_ticks = start
        self._planned.extend(start + index * self._last_duration_ticks for index in range(max(strays, 1)))

    def _is_usual(self, first: int, second: int | None) -> bool:
        return second is None or 0 < second - first <= USUAL_STEPS * self._last_duration_ticks

    def _strays_at_start(self, reads: Sequence[int | None]) -> int:
        """Number of frames with damaged times at the start, judged by at least as many frames after them."""
        known = [(index, read) for index, read in enumerate(reads) if read is not None]
        near_ticks = 2 * USUAL_STEPS * self._last_duration_ticks
        if len(known) > 2 and 0 < known[2][1] - known[0][1] <= near_ticks:  # only the second is damaged
            return 0
        for place, (index, read) in enumerate(known[1:], 1):
            later = [time for _, time in known[place + 1 :]]
            rises = all(after >= before for before, after in zip([read, *later], later, strict=False))
            if len(later) >= place and rises:
                return index if not 0 <= read - known[place - 1][1] <= self._max_step_ticks else 0
        return 0

    def _plan(self, waiting: _Waiting[Frame]) -> None:
        """Plan the time of the next frame, and of the frames judged together with it."""
        expected = self._last_ticks + self._last_duration_ticks
        read = self._read(waiting.frames[0])
        usual = self._usual_ticks
        if read is None:
            self._planned.append(expected)
        elif 0 < read - self._last_ticks <= USUAL_STEPS * usual:
            self._planned.append(read)
        else:
            waiting.fill(LOOK_AHEAD_FRAMES)
            self._judge(read, self._reads(waiting), usual)

    def _judge(self, read: int, reads: Sequence[int | None], usual: int) -> None:
        """See Note [jumps]."""
        last, step = self._last_ticks, read - self._last_ticks
        back = self._return_to_line(reads, usual)
        below = next((index for index, time in enumerate(reads) if time is not None and time <= last), None)
        if back:
            end = reads[back]
            assert end is not None, "only a known time ends a run of damaged ones"
            self._planned.extend(_between(last, end, back, usual))
            self.jumps += step > 0 or -step > self._jitter_ticks
        elif step > 0 and below is not None:
            self._planned.extend(last + usual * (index + 1) for index in range(below))
            self.jumps += 1
        elif 0 < step <= self._max_step_ticks and not self._is_lone(step, len(reads)):
            self._planned.append(read)
            self._note_gap(step, usual, reads)
        else:
            expected = last + self._last_duration_ticks
            self._shift_ticks += expected - read
            self._planned.append(expected)
            self.jumps += step > 0 or -step > self._jitter_ticks

    def _return_to_line(self, reads: Sequence[int | None], usual: int) -> int:
        """Index of the first frame whose time is back on the old timeline; 0 if there is none."""
        last, jumped = self._last_ticks, reads[0]
        assert jumped is not None, "only a known time jumps"
        for index, read in enumerate(reads[1:], 1):
            if read is None or (index + 1) * usual > _SQUEEZED * (read - last) or read - last <= index:
                continue
            if jumped > last and read >= jumped:
                continue
            later = [time for time in reads[index + 1 :] if time is not None]
            stays = bool(later) and min(later) >= read
            if stays or read - last <= (index + 1) * USUAL_STEPS * usual:
                return index
        return 0

    def _note_gap(self, step: int, usual: int, reads: Sequence[int | None]) -> None:
        """Count a jump that was kept, unless the next step is similarly long (a time-lapse)."""
        jumped, following = reads[0], reads[1] if len(reads) > 1 else None
        is_steady = jumped is not None and following is not None and _GAP_STEPS * (following - jumped) >= step
        if step > _GAP_STEPS * usual and step * self._time_base >= MIN_GAP_S and not is_steady:
            self.gaps += 1
            self.gap_s += float((step - usual) * self._time_base)

    def _is_lone(self, step: int, following: int) -> bool:
        """Whether a jump is much longer than any before and too few frames follow to confirm it."""
        if following >= _CONFIRMING_FRAMES or not self._steps:
            return False
        return step > max(MAX_LAST_STILL_S / self._time_base, _GAP_STEPS * self.longest_ticks)

    @property
    def _usual_ticks(self) -> int:
        return median_low(self._steps) if self._steps else self._last_duration_ticks

    def _reads(self, waiting: _Waiting[Frame]) -> list[int | None]:
        return [self._read(frame) for frame in waiting.frames]

    def _read(self, frame: Timed) -> int | None:
        """Time of a frame according to the file, with clock restarts removed."""
        ticks = frame.dts if self._uses_dts or frame.pts is None else frame.pts
        return None if ticks is None else ticks + self._shift_ticks

    def _place(self, frame: Timed, ticks: int) -> int:
        """Record the time of a frame; return it in ticks after the first frame."""
        since_last = ticks - self._last_ticks
        is_timed = self._read(frame) is not None
        self._last_duration_ticks = self._duration(frame.duration, since_last=since_last, is_timed=is_timed)
        self._last_ticks = ticks
        self.longest_ticks = max(self.longest_ticks, since_last)
        if since_last:
            self._steps.append(since_last)
        return ticks - (self.first_ticks or 0)

    def _duration(self, told: int | None, *, since_last: int, is_timed: bool) -> int:
        longest_ticks = self._max_still_ticks if is_timed else self._max_untimed_ticks
        if told and 0 < told <= longest_ticks and not self._is_lone(told, 1):
            return told
        self.jumps += not is_timed and bool(told)
        return min(since_last or self._nominal_ticks, longest_ticks)

    def _believed(self, duration: int | None) -> int | None:
        return duration if duration and 0 < duration <= self._max_untimed_ticks else None


class _Waiting(Generic[Frame]):
    """Frames read ahead."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.frames: deque[Frame] = deque()
        self._more = iter(frames)

    def fill(self, count: int) -> bool:
        """Read until `count` frames are buffered, or the end; return whether there are any."""
        self.frames.extend(islice(self._more, max(count - len(self.frames), 0)))
        return bool(self.frames)

    def pop(self) -> Frame:
        return self.frames.popleft()


def _between(last: int, end: int, count: int, usual: int) -> list[int]:
    """Times of `count` frames between `last` and `end`: evenly spaced, or at the usual step if there is a gap."""
    room = end - last
    if 2 * room > 3 * (count + 1) * usual:
        return [last + usual * (index + 1) for index in range(count)]
    return [last + room * (index + 1) // (count + 1) for index in range(count)]
