"""The clock that makes sense of the times in files."""

from __future__ import annotations

from fractions import Fraction
from itertools import starmap
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.media.timestamps import LOOK_AHEAD_FRAMES, FrameClock

HOUR_MS = 3_600_000
Times = list[tuple[int | None, int | None, int | None]]


class TimedFrame(NamedTuple):
    """What the clock sees of a frame."""

    pts: int | None
    dts: int | None
    duration: int | None


def clock(*, nominal_ticks: int = 40, start_ticks: int = 0, wrap_ticks: int | None = None) -> FrameClock:
    """A clock that ticks in milliseconds."""
    return FrameClock(
        time_base=Fraction(1, 1000), nominal_ticks=nominal_ticks, start_ticks=start_ticks, wrap_ticks=wrap_ticks
    )


def stamp_all(times: FrameClock, frames: Times) -> list[int]:
    return [ticks for _, ticks in times.run(starmap(TimedFrame, frames))]


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


def at(*pts: int, duration: int = 40) -> Times:
    return [(ticks, None, duration) for ticks in pts]


def test_a_late_frame_is_put_before_the_next_one_and_moves_nothing_else():
    times = clock()

    assert stamp_all(times, at(0, 40, 80, 60, 120, 160)) == [0, 40, 80, 100, 120, 160]
    assert times.jumps == 0


def test_two_frames_of_one_time_share_it():
    assert stamp_all(clock(), at(0, 40, 40, 80, 80, 120)) == [0, 40, 60, 80, 100, 120]


def test_a_clock_that_starts_again_goes_on_where_it_was():
    times = clock()

    frames: Times = [(9000, None, 40), (9040, None, 40), (0, None, 40), (70, None, 40), (110, None, 40)]

    assert stamp_all(times, frames) == [0, 40, 80, 150, 190]
    assert times.jumps == 1


LINE = range(0, 4000, 40)
"""A hundred frames at 25 fps."""


def line_with(strays: dict[int, int]) -> list[int]:
    """`LINE` with other times at some places."""
    return [strays.get(index, ticks) for index, ticks in enumerate(LINE)]


@pytest.mark.parametrize(
    "strays",
    [
        {50: 318_000},
        {50: 318_000, 51: 318_000},
        {50: 318_000, 51: 250_000, 52: 999_000},
        {20: 3000, 60: 250},
        {50: -90_000},
        {50: -90_000, 51: 7 * HOUR_MS, 52: -5},
        {50: 2100},
        {50: 30 * HOUR_MS},
        {0: 318_000},
        {0: 318_000, 1: 317_000},
        {1: 318_000},
        {1: -5000},
        {99: 318_000},
        {98: 318_000, 99: 318_040},
        {99: -318_000},
        dict.fromkeys(range(50, 50 + LOOK_AHEAD_FRAMES - 1), 318_000),
    ],
)
def test_stray_times_are_interpolated_and_move_nothing_else(strays):
    times = clock()

    assert stamp_all(times, at(*line_with(strays))) == list(LINE)
    assert (times.start_s, times.end_ticks, times.gaps) == (0, 4000, 0)
    assert 1 <= times.jumps <= 2


def test_a_slightly_early_time_squeezes_only_the_frames_that_follow_it():
    times = clock()

    stamps = stamp_all(times, at(*line_with({50: 2080})))  # as the 52nd frame

    assert stamps == [*LINE[:50], 2080, 2093, 2106, *LINE[53:]]


@pytest.mark.parametrize("gap_ms", [15_000, HOUR_MS // 12, 2 * HOUR_MS, 20 * HOUR_MS])
def test_a_jump_ahead_that_stays_is_kept_and_counted_as_a_gap(gap_ms):
    times = clock()
    pts = [*LINE[:50], *(ticks + gap_ms for ticks in LINE[50:])]

    assert stamp_all(times, at(*pts)) == pts
    assert (times.jumps, times.gaps, times.gap_s) == (0, 1, gap_ms / 1000)


def test_a_jump_ahead_of_more_than_a_day_starts_a_new_clock():
    times = clock()

    assert stamp_all(times, at(*LINE[:50], *(ticks + 25 * HOUR_MS for ticks in LINE[50:]))) == list(LINE)
    assert (times.jumps, times.gaps) == (1, 0)


def test_a_time_lapse_keeps_its_times_and_has_no_gap():
    times = clock()
    pts = [picture * 2 * HOUR_MS for picture in range(10)]

    assert stamp_all(times, at(*pts)) == pts
    assert (times.jumps, times.gaps, times.end_ticks) == (0, 0, pts[-1] + 40)


def test_bursts_of_a_camera_trap_keep_their_times():
    times = clock()
    pts = [event * HOUR_MS + 40 * picture for event in range(4) for picture in range(3)]

    assert stamp_all(times, at(*pts)) == pts
    assert (times.jumps, times.gaps) == (0, 3)


def test_a_gap_and_stray_times_on_both_sides_of_it_do_not_hide_each_other():
    times = clock()
    good = [*LINE[:50], *(ticks + HOUR_MS for ticks in LINE[50:])]
    pts = [*good[:40], -1, *good[41:60], 9 * HOUR_MS, *good[61:]]

    assert stamp_all(times, at(*pts)) == good
    assert (times.jumps, times.gaps) == (2, 1)


def test_a_clock_that_went_back_and_reads_as_wrapped_goes_on_where_it_was():
    wrap_ticks = 1 << 33
    times = FrameClock(time_base=Fraction(1, 90_000), nominal_ticks=3000, start_ticks=0, wrap_ticks=wrap_ticks)
    first, second = [600 * 90_000 + 3000 * k for k in range(60)], [wrap_ticks + 6000 + 3000 * k for k in range(60)]

    assert stamp_all(times, at(*first, *second, duration=3000)) == [3000 * k for k in range(120)]
    assert (times.start_s, times.jumps, times.gaps) == (600, 1, 0)


def test_a_start_before_the_wrap_of_the_clock_is_a_negative_time_and_no_jump():
    times = FrameClock(time_base=Fraction(1, 90_000), nominal_ticks=3000, start_ticks=0, wrap_ticks=1 << 33)
    pts = [-135_000 + 3000 * k for k in range(90)]

    assert stamp_all(times, at(*pts, duration=3000)) == [3000 * k for k in range(90)]
    assert (times.start_s, times.jumps) == (-1.5, 0)


def test_where_the_first_frame_has_no_presentation_time_decoding_times_are_taken_for_all():
    frames: Times = [(None, 1, 1), (2, 2, 1), (3, 3, 1), (None, 4, 1), (5, 5, 1), (None, None, 1)]  # AVI with B-frames

    assert stamp_all(clock(nominal_ticks=1), frames) == [0, 1, 2, 3, 4, 5]


def test_an_hour_of_one_still_picture_is_believed():
    assert stamp_all(clock(), [(0, None, 40), (HOUR_MS, None, 40)]) == [0, HOUR_MS]


def test_a_damaged_duration_is_not_believed():
    times = clock()

    stamp_all(times, [(0, None, 40), (50, None, HOUR_MS + 1), (100, None, -5)])

    assert times.end_ticks == 150


def test_the_last_frame_does_not_stand_for_an_hour_where_no_other_stood_for_long():
    times = clock()

    stamp_all(times, [(0, None, 40), (40, None, 40), (80, None, HOUR_MS)])

    assert times.end_ticks == 120


whole_numbers = st.none() | st.integers(-(1 << 62), 1 << 62) | st.integers(-3000, 3000)


@given(st.lists(st.tuples(whole_numbers, whole_numbers, whole_numbers), min_size=1, max_size=30))
def test_whatever_the_file_says_times_rise_by_at_most_a_day(frames):
    times = clock()

    stamps = stamp_all(times, frames)

    steps = [after - before for before, after in zip(stamps, [*stamps[1:], times.end_ticks], strict=True)]
    assert stamps[0] == 0
    assert all(0 < step <= 24 * HOUR_MS for step in steps)
