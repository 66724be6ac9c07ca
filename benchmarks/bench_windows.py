"""How many clips do windows that share clips save, and what is the effect on mAP?

    python -m benchmarks.bench_windows >> benchmarks/results/windows.jsonl

Generated videos that the bundled model has not seen, with windows every 360 frames as in the official code, and every
352 as ours (`--windows`): encoded clips, time, and average mAP, a line for each. 360 is not a whole number of clips, so
the overlap of two windows is encoded twice. The bundled model's own step is a whole number of clips; here it gets the
official step, with its trained windows of 512 frames.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.goals import Figure
from benchmarks.measure import Timing, clocked, report, take_turns
from tallformer_infer.config import WindowConfig
from tallformer_infer.evaluation import Predictions, evaluate, protocol_named, read_truth
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Cancellation, OnnxRuntime
from tallformer_infer.structures import Result, Windows
from tallformer_infer.timeline import cut_clips
from tallformer_training.synthetic.dataset import SetSpec, make_dataset

VIDEOS, MINUTES, SEED = 8, 2.0, 21
LAYOUTS: tuple[Windows, ...] = ("reference", "shared")
OFFICIAL_STEP_FRAMES = 360
HOUR_FRAMES, MEAN_FRAMES = 3600 * 15, 3249
"""Frames of an hour, and of the mean THUMOS14 test video (217 s), at 15 frames per second."""


class CountingRuntime(OnnxRuntime):
    """Counts encoded clips; the empty clip is encoded once for all videos."""

    clips = 0
    _counting = threading.Lock()

    def encode(
        self,
        clips: NDArray[np.uint8],
        real_frames: NDArray[np.int64],
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.float32]:
        """See `Runtime.encode`."""
        with self._counting:
            self.clips += int((real_frames > 0).sum())
        return super().encode(clips, real_frames, cancellation)


@dataclass(frozen=True)
class Laid:
    """Results of one layout of windows over all videos."""

    timing: Timing
    clips: int
    average_map: float
    actions: int


def main() -> None:
    """Print a JSON line for each layout."""
    with tempfile.TemporaryDirectory() as work:
        for layout, laid in measure_layouts(Path(work), rounds=3).items():
            report(
                "windows",
                laid.timing,
                windows=layout,
                videos=f"{VIDEOS} of {MINUTES:g} min, generated",
                recipe="demo",
                clips_encoded=laid.clips,
                average_map=round(laid.average_map, 4),
                actions=laid.actions,
            )


def goal(work: Path) -> dict[str, Figure]:
    """Share of clips of an hour saved by the windows of the THUMOS14 recipes, and mAP lost on generated videos."""
    laid = measure_layouts(work, rounds=1)
    official, ours = laid["reference"], laid["shared"]
    saved = {frames: _saved(WindowConfig(), frames) for frames in (HOUR_FRAMES, MEAN_FRAMES)}
    return {
        "work": Figure(
            value=saved[HOUR_FRAMES],
            profile=f"{saved[HOUR_FRAMES]:.1%} of an hour; {saved[MEAN_FRAMES]:.1%} of the mean THUMOS14 video, whose "
            "last window is partly empty",
        ),
        "map": Figure(
            value=100 * (official.average_map - ours.average_map),
            profile=f"average mAP {ours.average_map:.2%} in place of {official.average_map:.2%}; {ours.clips} clips in "
            f"place of {official.clips}, windows of 512 frames; the number of videos allows no finer figure",
        ),
    }


def _saved(window: WindowConfig, frames: int) -> float:
    """Share of the official clips that ours save, counted by cutting a video of one pixel."""
    picture = np.zeros((1, 1, 3), np.uint8)
    counts = [sum(1 for _ in cut_clips(itertools.repeat(picture, frames), window, layout)) for layout in LAYOUTS]
    return 1 - counts[1] / counts[0]


def measure_layouts(work: Path, *, rounds: int, spec: SetSpec | None = None) -> dict[Windows, Laid]:
    """Detect in all videos with each layout, in turn, and score.

    Args:
        work: Folder of videos, which are generated if missing.
        rounds: Timed rounds.
        spec: Videos; None for those of the module.
    """
    spec = spec or SetSpec(subset="testing", videos=VIDEOS, seed=SEED, minutes=MINUTES)
    annotations = make_dataset(spec, work / f"windows-{spec.seed}", jobs=2)
    videos = sorted(annotations.parent.rglob("*.mp4"))
    loaded = Detector.load("demo", device="cpu")
    recipe = loaded.bundle.recipe
    step = replace(recipe.window, overlap=1 - OFFICIAL_STEP_FRAMES / recipe.window.window_frames)
    described = replace(loaded.bundle.description, recipe=replace(recipe, window=step))
    bundle = replace(loaded.bundle, description=described)
    runtime = CountingRuntime(bundle, device="cpu")
    detector = Detector(bundle, runtime)
    results: dict[Windows, list[Result]] = {}
    clips: dict[Windows, int] = {}

    def detect(layout: Windows) -> None:
        runtime.clips = 0
        results[layout] = [detector.detect(video, windows=layout, operating_point="none") for video in videos]
        clips[layout] = runtime.clips

    ways = {layout: clocked(partial(detect, layout)) for layout in LAYOUTS}
    calls = take_turns(ways, rounds=rounds, warmups=0)
    protocol = protocol_named("thumos14")
    truth = read_truth(annotations, subset="testing", defaults=protocol.subsets)
    return {
        layout: Laid(
            timing=Timing.of(calls[layout]),
            clips=clips[layout],
            average_map=evaluate(_predictions(results[layout]), truth, protocol).average,
            actions=sum(len(result.actions) for result in results[layout]),
        )
        for layout in LAYOUTS
    }


def _predictions(results: Sequence[Result]) -> Predictions:
    return Predictions.of({Path(result.video.path).stem: result.actions for result in results})


if __name__ == "__main__":
    main()
