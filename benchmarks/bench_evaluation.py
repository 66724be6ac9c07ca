"""How long does it take to score a whole benchmark's predictions?

The set is as large as ActivityNet-1.3's validation set with 100 predictions per video. The baseline is the official
algorithm as published, one prediction at a time (`score_one_by_one`). It is faster than the official evaluator, which
also builds and groups data frames inside that loop, so the ratio is a lower bound.

Lower bounds are timed as well: `json.loads` of the predictions for reading, and for scoring a sort of the scores and a
sort of the (class, video) groups, which are unavoidable.

    python -m benchmarks.bench_evaluation [--predictions-per-video N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.goals import Figure
from benchmarks.measure import measure, report
from tallformer_infer.evaluation import (
    Evaluation,
    Predictions,
    Protocol,
    Truth,
    evaluate,
    protocol_named,
    read_predictions,
    read_truth,
)


def main() -> None:
    """Check that both algorithms agree, then time reading, scoring and both together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--predictions-per-video", type=int, default=100)
    inputs = vars(parser.parse_args())
    protocol = protocol_named("activitynet")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_set(Path(folder), **inputs)
        predictions, truth = read_predictions(paths[0]), read_truth(paths[1], subset=None, defaults=protocol.subsets)

        expected = score_one_by_one(predictions, truth, protocol)
        ours = np.array([score.average_precision for score in evaluate(predictions, truth, protocol).classes])
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)

        facts = {**inputs, "thresholds": len(protocol.tiou_thresholds)}
        one_by_one = measure(lambda: score_one_by_one(predictions, truth, protocol), repeats=3, warmups=0)
        report("evaluation_one_by_one", one_by_one, **facts)
        text = paths[0].read_bytes()
        report("evaluation_floor_of_reading", measure(lambda: json.loads(text)), **facts, megabytes=len(text) / 1e6)
        report("evaluation_floor_of_scoring", measure(lambda: _sort(predictions)), **facts)
        report("evaluation_read", measure(lambda: read_predictions(paths[0])), **facts)
        report("evaluation_score", measure(lambda: evaluate(predictions, truth, protocol)), **facts)
        report("evaluation_files_to_map", measure(lambda: _from_files(paths, protocol)), **facts)


def goal(work: Path) -> dict[str, Figure]:
    """Seconds from the files of 500,000 predictions and their truth to mAP."""
    protocol = protocol_named("activitynet")
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        paths = write_set(Path(scratch), videos=5000, classes=200, predictions_per_video=100)
        whole = measure(lambda: _from_files(paths, protocol), repeats=5, warmups=1)
        reading = measure(lambda: read_predictions(paths[0]), repeats=3, warmups=0).spread.median
    return {"files": Figure.of(whole.spread, f"reading the predictions takes {reading:.2f} s of it")}


def write_set(folder: Path, *, videos: int, classes: int, predictions_per_video: int) -> tuple[Path, Path]:
    """Write predictions and ground truth: 1 to 4 actions per video; predictions near them, 60 % with their class."""
    random = np.random.default_rng(0)
    truth: dict[str, Any] = {}
    results: dict[str, Any] = {}
    for video in range(videos):
        labels = [f"class {number}" for number in random.integers(0, classes, 2)]
        duration = random.uniform(30, 230)
        starts = random.uniform(0, 0.8 * duration, random.integers(1, 5))
        ends = np.minimum(starts + random.uniform(2, 0.4 * duration, len(starts)), duration)
        annotations = [
            {"segment": [start, end], "label": labels[random.integers(2)]}
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        truth[f"v_{video:05d}"] = {"duration": duration, "subset": "validation", "annotations": annotations}
        results[f"{video:05d}"] = [
            _near(annotations[random.integers(len(annotations))], classes, random) for _ in range(predictions_per_video)
        ]
    paths = folder / "predictions.json", folder / "truth.json"
    paths[0].write_text(json.dumps({"results": results}), encoding="utf-8")
    paths[1].write_text(json.dumps({"database": truth}), encoding="utf-8")
    return paths


def score_one_by_one(predictions: Predictions, truth: Truth, protocol: Protocol) -> NDArray[np.float64]:
    """The official algorithm as published: average precision of each class at each threshold, shape (K, T)."""
    names = {video: video.removeprefix("v_") for video in truth.videos}
    truths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (video, label) in enumerate(zip(truth.video_indices, truth.class_indices, strict=True)):
        truths[names[truth.videos[video]], truth.labels[label]].append(row)
    rows_of_class: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(predictions.class_indices):
        rows_of_class[predictions.labels[label]].append(row)
    scores = []
    for label in truth.labels:
        rows = sorted(rows_of_class[label], key=lambda row: (-predictions.scores[row], -row))
        right = np.zeros((len(protocol.tiou_thresholds), len(rows)), bool)
        taken: set[tuple[int, int]] = set()
        for place, row in enumerate(rows):
            candidates = truths.get((predictions.videos[predictions.video_indices[row]], label), [])
            if candidates:
                _find(predictions.segments_s[row], truth.segments_s, candidates, protocol, taken, right[:, place])
        count = sum(len(found) for (_, name), found in truths.items() if name == label)
        scores.append([_average_precision(found, count) for found in right])
    return np.array(scores)


def _near(annotation: dict[str, Any], classes: int, random: np.random.Generator) -> dict[str, Any]:
    start, end = annotation["segment"]
    shifted = np.array([start, end]) + random.normal(0, 0.3 * (end - start), 2)
    label = annotation["label"] if random.random() < 0.6 else f"class {random.integers(classes)}"
    return {"label": label, "score": random.random(), "segment": sorted(shifted.tolist())}


def _find(
    segment: NDArray[np.float64],
    segments: NDArray[np.float64],
    candidates: list[int],
    protocol: Protocol,
    taken: set[tuple[int, int]],
    right: NDArray[np.bool_],
) -> None:
    others = segments[candidates]
    shared = (np.minimum(segment[1], others[:, 1]) - np.maximum(segment[0], others[:, 0])).clip(0)
    tiou = shared / ((others[:, 1] - others[:, 0]) + (segment[1] - segment[0]) - shared)
    best_first = np.argsort(tiou, kind="stable")[::-1]
    for number, threshold in enumerate(protocol.tiou_thresholds):
        for place in best_first:
            if tiou[place] < threshold:
                break
            if (number, candidates[place]) not in taken:
                taken.add((number, candidates[place]))
                right[number] = True
                break


def _average_precision(right: NDArray[np.bool_], count: int) -> float:
    hits, misses = np.cumsum(right), np.cumsum(~right)
    precision = np.concatenate([[0.0], hits / (hits + misses), [0.0]])
    recall = np.concatenate([[0.0], hits / count, [1.0]])
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    rises = np.flatnonzero(np.diff(recall)) + 1
    return float(np.sum((recall[rises] - recall[rises - 1]) * precision[rises]))


def _sort(predictions: Predictions) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    groups = predictions.class_indices * len(predictions.videos) + predictions.video_indices
    return np.argsort(predictions.scores, kind="stable"), np.argsort(groups, kind="stable")


def _from_files(paths: tuple[Path, Path], protocol: Protocol) -> Evaluation:
    truth = read_truth(paths[1], subset=None, defaults=protocol.subsets)
    return evaluate(read_predictions(paths[0]), truth, protocol)


if __name__ == "__main__":
    main()
