"""How does the time of suppression and of mAP grow with the number of candidates, 10^2 to 10^6?

    OMP_NUM_THREADS=1 python -m benchmarks.bench_growth > benchmarks/results/growth.jsonl

Each is compared with a plain loop over candidates, up to a time limit (`--longest`), and its result is checked against
the loop's. Times are processor time, which depends least on other load. Candidates are of 20 classes, in a video that
grows with them ("long"), or all in the same seven minutes ("dense"). Predictions: 100 per video, 20 classes, 10
overlaps.

The exponent is the slope of log time over log count from 10^4 on, where fixed costs are small; 1 is linear, 2 is
quadratic.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.bench_evaluation import score_one_by_one
from benchmarks.bench_nms import CLASSES, UNLIMITED, one_by_one
from benchmarks.measure import write_line
from tallformer_infer.config import SuppressConfig
from tallformer_infer.evaluation import Predictions, Truth, evaluate, protocol_named
from tallformer_infer.nms import suppress, tiou
from tallformer_infer.structures import Candidates

COUNTS = tuple(10**power for power in range(2, 7))
FIT_FROM = 10_000
LONGEST_S = 6.0
"""Longer calls are skipped: ours is expected to take 12 times as long as at the last count, the loop 100 times."""
DENSE_FRAMES = 6154.0
PER_VIDEO = 100
ACTIVITYNET = protocol_named("activitynet")


@dataclass(frozen=True)
class Case:
    """Something to time at every count."""

    name: str
    make: Callable[[int], tuple[object, ...]]
    """Makes the arguments for a number of candidates."""
    ours: Callable[..., object]
    loop: Callable[..., object]
    same: Callable[[object, object], None]
    """Raises if results differ."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line per case: seconds at every count, ours and the loop's, and both exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=float, default=LONGEST_S, help="longest expected call, in seconds")
    longest_s = parser.parse_args(arguments).longest
    for case in cases():
        ours: dict[int, float] = {}
        loop: dict[int, float] = {}
        for count in COUNTS:
            inputs = case.make(count)
            if ours and 12 * max(ours.values()) > longest_s:
                break
            found, ours[count] = time_of(partial(case.ours, *inputs))
            if not loop or 100 * max(loop.values()) < longest_s:
                expected, loop[count] = time_of(partial(case.loop, *inputs))
                case.same(found, expected)
        line = {"name": "growth", "case": case.name, "ours_s": ours, "loop_s": loop}
        exponents = {"ours_exponent": exponent(ours), "loop_exponent": exponent(loop)}
        write_line(line | exponents)


def cases() -> Iterator[Case]:
    """NMW and Gaussian soft-NMS, with the official limit of actions and without one, and mAP."""
    for limit in (1200, UNLIMITED):
        shown = "limit 1200" if limit == 1200 else "no limit"
        for place in ("long", "dense"):
            config = SuppressConfig(method="nmw", score_threshold=0.0, max_per_video=limit)
            make = partial(_candidates, place)
            yield Case(f"NMW, {place}, {shown}", make, partial(suppress, config=config), _nmw_loop(config), _equal)
        config = SuppressConfig(method="soft_gaussian", score_threshold=0.0, max_per_video=limit)
        make = partial(_candidates, "long")
        yield Case(f"soft-NMS, long, {shown}", make, partial(suppress, config=config), _soft_loop(config), _equal)
    score = partial(evaluate, protocol=ACTIVITYNET)
    yield Case("mAP", make_set, score, partial(score_one_by_one, protocol=ACTIVITYNET), _equal_scores)


def exponent(seconds: dict[int, float]) -> float | None:
    """Slope of log time over log count, from `FIT_FROM` on if there are two counts; None for a single one."""
    counts = [count for count in seconds if count >= FIT_FROM]
    counts = counts if len(counts) > 1 else list(seconds)
    if len(counts) < 2:
        return None
    slope = np.polyfit(np.log(counts), np.log([seconds[count] for count in counts]), 1)[0]
    return round(float(slope), 2)


def time_of(function: Callable[[], object]) -> tuple[object, float]:
    """Result of a call, and median processor time of five calls, or of the first if it takes a second."""
    seconds: list[float] = []
    while len(seconds) < 5 and sum(seconds) < 1:
        begin_s = time.process_time()
        found = function()
        seconds.append(time.process_time() - begin_s)
    return found, float(f"{np.median(seconds):.4g}")


def make_set(count: int) -> tuple[Predictions, Truth]:
    """Predictions for `count / 100` videos, and their ground truth: two actions each."""
    random = np.random.default_rng(0)
    videos = max(count // PER_VIDEO, 1)
    names = tuple(f"{video:06d}" for video in range(videos))
    labels = tuple(f"class {number}" for number in range(CLASSES))
    true_class = random.integers(0, CLASSES, 2 * videos)
    true_class[: min(CLASSES, 2 * videos)] = np.arange(min(CLASSES, 2 * videos))
    true_video = np.repeat(np.arange(videos), 2)
    start = random.uniform(0, 100, 2 * videos) + 150 * np.tile([0, 1], videos)
    segments = np.stack([start, start + random.uniform(2, 40, 2 * videos)], axis=1)
    used = sorted(set(true_class.tolist()))
    true_labels, true_index = tuple(labels[number] for number in used), np.searchsorted(used, true_class)
    truth = Truth(
        source="set",
        subset=None,
        videos=names,
        labels=true_labels,
        video_indices=true_video,
        class_indices=true_index,
        segments_s=segments,
    )
    row = random.integers(0, 2 * videos, count)
    near = np.sort(segments[row] + random.normal(0, 4, (count, 2)), axis=1)
    guess = np.where(random.random(count) < 0.6, true_class[row], random.integers(0, CLASSES, count))
    predictions = Predictions(
        source="set",
        videos=names,
        labels=labels,
        video_indices=true_video[row],
        class_indices=guess,
        segments_s=near,
        scores=random.random(count),
    )
    return predictions, truth


def _candidates(place: str, count: int) -> tuple[Candidates]:
    random = np.random.default_rng(0)
    video_frames = count / 585 * 360 if place == "long" else DENSE_FRAMES
    lengths = 16 * 2 ** (5 * random.random(count) ** 2)
    centres = random.random(count) * video_frames
    segments = np.stack([centres - lengths / 2, centres + lengths / 2], axis=1).clip(0, video_frames)
    scores = 0.006 + 0.99 * random.random(count) ** 3
    classes = random.integers(0, CLASSES, count)
    return (Candidates(segments.astype(np.float32), scores.astype(np.float32), classes),)


def _nmw_loop(config: SuppressConfig) -> Callable[[Candidates], Candidates]:
    return partial(one_by_one, config=config)


def _soft_loop(config: SuppressConfig) -> Callable[[Candidates], Candidates]:
    """The rule as published: select the best, lower all others of its class, drop low scores, repeat."""

    def run(candidates: Candidates) -> Candidates:
        scores = candidates.scores.copy()
        starts, ends = candidates.segments_frames.T
        scores[scores < np.float32(config.min_score)] = -1
        rows: list[int] = []
        taken: list[np.float32] = []
        while len(rows) < config.max_per_video:
            best = int(scores.argmax())
            if scores[best] < 0:
                break
            rows.append(best)
            taken.append(scores[best])
            overlap = tiou(starts[best], ends[best], starts, ends)
            decay = np.exp(-(overlap * overlap) / np.float32(config.sigma))
            others = (candidates.classes == candidates.classes[best]) & (scores >= 0)
            scores[others] *= decay[others]
            scores[(scores < np.float32(config.min_score)) | (np.arange(len(scores)) == best)] = -1
        kept = candidates.take(np.array(rows, np.intp))
        return Candidates(kept.segments_frames, np.array(taken, np.float32), kept.classes)

    return run


def _equal(ours: object, loop: object) -> None:
    assert isinstance(ours, Candidates)
    assert isinstance(loop, Candidates)
    np.testing.assert_array_equal(ours.classes, loop.classes)
    np.testing.assert_allclose(ours.scores, loop.scores, rtol=1e-6)
    np.testing.assert_allclose(ours.segments_frames, loop.segments_frames, rtol=2e-7, atol=1e-3)


def _equal_scores(ours: object, loop: object) -> None:
    precisions = [score.average_precision for score in ours.classes]  # type: ignore[attr-defined]
    np.testing.assert_allclose(precisions, loop, rtol=0, atol=1e-9)


if __name__ == "__main__":
    main()
