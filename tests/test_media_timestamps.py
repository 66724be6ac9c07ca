"""The clock that makes sense of the times in files."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.media.timestamps import FrameClock

HOUR_MS = 3_600_000
Times = list[tuple[int | None, int | None, int | None]]


def clock(*, nominal_ticks: int = 40, start_ticks: int = 0) -> FrameClock:
    """A clock that ticks in milliseconds."""
    return FrameClock(time_base=Fraction(1, 1000), nominal_ticks=nominal_ticks, start_ticks=start_ticks)


def stamp_all(times: FrameClock, frames: Times) -> list[int]:
    return [times.stamp(pts=pts, dts=dts, duration=duration) for pts, dts, duration in frames]


def test_good_times_count_from_the_first_frame():
    times = clock(start_ticks=7)

    assert stamp_all(times, [(500, None, 40), (540, None, 40), (700, None, 10)]) == [0, 40, 200]
    assert (times.start_s, times.end_ticks, times.jumps) == (0.5, 210, 0)


def test_a_negative_start_is_kept():
    times = clock()

    assert stamp_all(times, [(-80, None, 40), (-40, None, 40)]) == [0, 40]
    assert times.start_s == -0.08


def test_without_presentation_times_decoding_times_count_from_the_start_of_the_stream():
    times = clock(start_ticks=1000)

    assert stamp_all(times, [(None, 80, 40), (None, 120, 40), (None, 200, 40), (None, None, 40)]) == [0, 40, 120, 160]
    assert times.start_s == 1.0


def test_without_any_times_frames_follow_one_another_by_their_durations():
    assert stamp_all(clock(), [(None, None, 30), (None, None, 50), (None, None, 0), (None, None, 10)]) == [
        0,
        30,
        80,
        130,
    ]


def test_without_times_and_durations_the_nominal_rate_is_left():
    times = clock(nominal_ticks=33)

    assert stamp_all(times, [(None, None, 0)] * 3) == [0, 33, 66]
    assert times.end_ticks == 99


def test_in_a_stream_without_times_a_frame_stands_for_twenty_seconds_at_most():
    times = clock(nominal_ticks=HOUR_MS)

    assert stamp_all(times, [(None, None, 20001), (None, None, 40), (None, None, 20001), (None, None, 20000)]) == [
        0,
        20000,
        20040,
        20080,  # as long as the one before
    ]
    assert (times.end_ticks, times.jumps) == (40080, 2)


def test_the_longest_time_between_two_frames_is_known():
    times = clock()

    stamp_all(times, [(0, None, 9000), (100, None, 0), (350, None, 0), (360, None, 500)])

    assert times.longest_ticks == 250


def test_the_last_frame_without_a_duration_stands_as_long_as_the_one_before():
    times = clock()

    stamp_all(times, [(0, None, 0), (100, None, 0), (250, None, 0)])

    assert times.end_ticks == 400


def test_a_single_frame_without_a_duration_stands_for_the_nominal_time():
    times = clock(nominal_ticks=40)

    stamp_all(times, [(5000, None, 0)])

    assert times.end_ticks == 40


def test_a_late_frame_is_put_right_after_the_one_before_and_moves_nothing_else():
    times = clock()

    assert stamp_all(times, [(0, None, 10), (100, None, 10), (50, None, 10), (200, None, 10)]) == [0, 100, 110, 200]
    assert times.jumps == 0


def test_a_clock_that_starts_again_goes_on_where_it_was():
    times = clock()

    frames: Times = [(9000, None, 40), (9040, None, 40), (0, None, 40), (70, None, 40), (110, None, 40)]

    assert stamp_all(times, frames) == [0, 40, 80, 150, 190]
    assert times.jumps == 1


def test_a_leap_of_more_than_an_hour_is_a_damaged_time():
    times = clock()

    assert stamp_all(times, [(0, None, 40), (HOUR_MS + 1, None, 40), (HOUR_MS + 61, None, 40)]) == [0, 40, 100]
    assert times.jumps == 1


def test_an_hour_of_one_still_picture_is_believed():
    assert stamp_all(clock(), [(0, None, 40), (HOUR_MS, None, 40)]) == [0, HOUR_MS]


def test_a_damaged_duration_is_not_believed():
    times = clock()

    stamp_all(times, [(0, None, 40), (50, None, HOUR_MS + 1), (100, None, -5)])

    assert times.end_ticks == 150


whole_numbers = st.none() | st.integers(-(1 << 62), 1 << 62) | st.integers(-3000, 3000)


@given(st.lists(st.tuples(whole_numbers, whole_numbers, whole_numbers), min_size=1, max_size=30))
def test_whatever_the_file_says_times_rise_by_at_most_an_hour(frames):
    times = clock()

    stamps = stamp_all(times, frames)

    steps = [after - before for before, after in zip(stamps, [*stamps[1:], times.end_ticks], strict=True)]
    assert stamps[0] == 0
    assert all(0 < step <= HOUR_MS for step in steps)
