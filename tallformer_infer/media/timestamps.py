"""Presentation times of decoded frames, from timestamps as real files have them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from statistics import median_low
from typing import Generic, Protocol, TypeVar

MAX_STILL_S = 3600.0
"""Longest duration of one frame that is believed."""
MAX_UNTIMED_S = 20.0
"""Longest duration of a frame that is believed if there are no timestamps: in a bare stream one damaged number sets it
for all frames. A slide show at a frame per 20 s still passes."""
MAX_GAP_S = 86_400.0
"""Longest jump between two frames that is believed."""
MIN_GAP_S = 10.0
"""Shortest jump that is reported as a gap."""
MAX_LAST_STILL_S = 60.0
"""Longest jump that is believed of the last frames alone, where too few follow to confirm it."""
JITTER_S = 1.0
"""A step back of at most this is a late frame and not counted as damage."""
LOOK_AHEAD_FRAMES = 16
"""Frames that are read ahead to judge a jump, and so the longest run of damaged times that is repaired."""
USUAL_STEPS = 3
"""A step of at most so many usual ones is accepted without looking ahead."""
_CONFIRMING_FRAMES = 3
"""Frames behind a jump at the end of the file, its own included, that confirm it."""
_GAP_STEPS = 10
"""A gap is longer than so many usual steps; a time-lapse has none."""
_SQUEEZED = 5
"""Late frames are put in front of the next good one at no less than the usual step divided by this."""


class Timed(Protocol):
    """A frame with times in ticks; None where unknown."""

    @property
    def pts(self) -> int | None:
        """Presentation time."""

    @property
    def dts(self) -> int | None:
        """Decoding time of the packet that brought the frame out."""

    @property
    def duration(self) -> int | None:
        """How long it is shown; 0 or None where unknown."""


Frame = TypeVar("Frame", bound=Timed)


class FrameClock:
    """Assign presentation times to frames, in the order of the decoder, which is presentation order.

    # Note [which time a frame has]

    A frame is shown at its presentation time. Where the first frame has none (AVI), decoding times are used for all:
    they rise in the same steps, and count from the start of the stream. Where a file has neither (a bare H.264 stream),
    frames follow one another by their durations, up to `MAX_UNTIMED_S`.

    # Note [jumps]

    A step that is not positive, or longer than `USUAL_STEPS` usual ones, is judged by the next `LOOK_AHEAD_FRAMES`
    frames:

    - Times return to the old line: those in between are damaged, and interpolated.
    - Times stay ahead: the jump is real (a camera trap, a time-lapse, a recording that was interrupted). It is kept,
      up to `MAX_GAP_S`, and counted as a gap. Of the last frames alone only `MAX_LAST_STILL_S` is believed.
    - Times stay behind: the file's clock started again (files joined end to end). Later times are shifted along, so
      that the first frame after the jump comes right after the last one before it. The same holds for a jump ahead
      of more than half the range of a clock that wraps: it is a jump back, as FFmpeg unwraps it.
    """

    def __init__(
        self, *, time_base: Fraction, nominal_ticks: int, start_ticks: int, wrap_ticks: int | None = None
    ) -> None:
        """Start a clock.

        Args:
            time_base: Seconds per tick of all times below.
            nominal_ticks: Duration of a frame where nothing else tells it, at least 1.
            start_ticks: Time of the first frame where frames have no presentation time.
            wrap_ticks: Ticks after which the file's clock starts again at 0; None: it never does.
        """
        self.jumps = 0
        """Places where times were damaged or started again."""
        self.gaps = 0
        """Jumps ahead that were kept."""
        self.gap_s = 0.0
        """Total length of the gaps, in seconds."""
        self.longest_ticks = 0
        """Longest time between two frames so far."""
        self.first_ticks: int | None = None
        """Time of the first frame on the file's own time line; None before it."""
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
        """Time of the first frame on the file's own time line, in seconds."""
        return float((self.first_ticks or 0) * self._time_base)

    @property
    def end_ticks(self) -> int:
        """End of the last frame, in ticks after the first frame's start."""
        return self._last_ticks + self._last_duration_ticks - (self.first_ticks or 0)

    def run(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, int]]:
        """Frames with their times in ticks after the first frame: 0 for that one, then strictly rising.

        At most `LOOK_AHEAD_FRAMES` are read ahead, and only to judge a jump; one at the start.
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
        """Plan the first frame, or the first few where their times are damaged."""
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
        """Number of frames at the start with damaged times, judged by at least as many frames after them."""
        known = [(index, read) for index, read in enumerate(reads) if read is not None]
        near_ticks = 2 * USUAL_STEPS * self._last_duration_ticks
        if len(known) > 2 and 0 < known[2][1] - known[0][1] <= near_ticks:  # the second is the damaged one
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
        """Index of the first frame whose time is back on the old line; 0 if there is none."""
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
        """Count a jump that was kept, unless the next step is as long: a time-lapse."""
        jumped, following = reads[0], reads[1] if len(reads) > 1 else None
        is_steady = jumped is not None and following is not None and _GAP_STEPS * (following - jumped) >= step
        if step > _GAP_STEPS * usual and step * self._time_base >= MIN_GAP_S and not is_steady:
            self.gaps += 1
            self.gap_s += float((step - usual) * self._time_base)

    def _is_lone(self, step: int, following: int) -> bool:
        """Whether a jump is longer than any before and too few frames follow to confirm it."""
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
        """Record where a frame was placed; return its time after the first frame."""
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
    """Frames that were read ahead."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.frames: deque[Frame] = deque()
        self._more = iter(frames)

    def fill(self, count: int) -> bool:
        """Read until `count` frames wait, or the end; return whether any waits."""
        self.frames.extend(islice(self._more, max(count - len(self.frames), 0)))
        return bool(self.frames)

    def pop(self) -> Frame:
        return self.frames.popleft()


def _between(last: int, end: int, count: int, usual: int) -> list[int]:
    """Times of `count` frames between `last` and `end`: evenly spaced, or by the usual step if that leaves a gap."""
    room = end - last
    if 2 * room > 3 * (count + 1) * usual:
        return [last + usual * (index + 1) for index in range(count)]
    return [last + room * (index + 1) // (count + 1) for index in range(count)]
