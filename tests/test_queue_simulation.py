"""The simulated queue: every video ends, and every second of every worker is accounted for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scale.queue import Fleet, Tally, Work, simulate

CALM = Fleet(nodes=4, workers_per_node=2, node_mtbf_s=None, driver_mtbf_s=None, restart_s=60)
STORMY = Fleet(nodes=4, workers_per_node=2, node_mtbf_s=1800, driver_mtbf_s=3600, restart_s=60)
WORK = Work(clip_s=2.0, decode_s=0.2, encode_s=2.0, crash_share=0.0)
LENGTHS_S = np.random.default_rng(0).uniform(10, 2000, 200)
CLIPS = int(np.ceil(LENGTHS_S / 2.0).sum())


def accounted_s(tally: Tally) -> float:
    return tally.useful_s + tally.decoded_again_s + tally.lost_s + tally.crashed_s + tally.down_s + tally.idle_s


def test_without_failures_each_clip_is_worked_on_once():
    tally = simulate(LENGTHS_S, CALM, WORK)

    assert (tally.finished, tally.set_aside, tally.node_failures) == (200, 0, 0)
    assert tally.useful_s == pytest.approx(CLIPS * 2.2)
    assert tally.decoded_again_s == pytest.approx(0, abs=1e-6)
    assert tally.lost_s == pytest.approx(0, abs=1e-6)


def test_one_worker_takes_the_sum_of_the_videos():
    fleet = Fleet(nodes=1, workers_per_node=1, node_mtbf_s=None, driver_mtbf_s=None, restart_s=60)

    assert simulate(np.array([4.0, 3.0]), fleet, WORK).wall_s == pytest.approx(4 * 2.2)


def test_with_failures_every_video_still_ends_and_useful_work_is_the_same():
    tally = simulate(LENGTHS_S, STORMY, WORK)

    assert tally.finished == 200
    assert tally.node_failures > 10
    assert tally.useful_s == pytest.approx(CLIPS * 2.2)
    assert tally.decoded_again_s > 0
    assert 0 < tally.lost_s < (tally.node_failures + 4 * tally.driver_failures) * 2 * 2.2
    assert tally.wall_s > simulate(LENGTHS_S, CALM, WORK).wall_s
    assert accounted_s(tally) == pytest.approx(8 * tally.wall_s)


def test_without_stored_clips_much_more_is_lost():
    without = Work(clip_s=2.0, decode_s=0.2, encode_s=2.0, crash_share=0.0, resumes=False)

    assert simulate(LENGTHS_S, STORMY, without).lost_s > 10 * simulate(LENGTHS_S, STORMY, WORK).lost_s


def test_a_video_that_always_crashes_is_set_aside_after_its_attempts():
    work = Work(clip_s=2.0, decode_s=0.2, encode_s=2.0, crash_share=1.0, max_attempts=3)
    fleet = Fleet(nodes=1, workers_per_node=1, node_mtbf_s=None, driver_mtbf_s=None, restart_s=60)

    tally = simulate(np.array([1.0]), fleet, work)

    assert (tally.finished, tally.set_aside) == (0, 1)
    assert tally.crashed_s == pytest.approx(3 * 2.2)


def test_the_same_seed_gives_the_same_run():
    assert simulate(LENGTHS_S, STORMY, WORK, seed=3) == simulate(LENGTHS_S, STORMY, WORK, seed=3)


def test_what_cannot_end_is_given_up_when_the_time_is_up():
    fleet = Fleet(nodes=2, workers_per_node=2, node_mtbf_s=600, driver_mtbf_s=None, restart_s=60)
    work = Work(clip_s=2.0, decode_s=0.2, encode_s=2.0, crash_share=0.0, resumes=False)

    tally = simulate(np.full(8, 36_000.0), fleet, work, at_most_s=50_000)

    assert (tally.finished, tally.unfinished) == (0, 8)
    assert tally.wall_s >= 50_000
    assert tally.useful_s == 0
