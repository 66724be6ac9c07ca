"""Effect of the TCM on encoded and remembered features: the figure of the paper's Appendix B.1.

    python -m benchmarks.ablations.features_picture RUN --annotations FILE --videos DIR [--cache DIR] [--out PNG]

Windows are built as in training, with the weights and the memory of the run's last checkpoint: some clips are encoded,
the others remembered. Each panel shows all feature steps on their own first two principal components: from encoder and
memory, after the reduction (before the TCM), and after the TCM.

Source: TALLFormer (arXiv 2204.01680), Appendix B.1, for the idea of the picture.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tallformer_infer.config import Recipe, from_json, recipe_from_json
from tallformer_infer.errors import CheckpointError, ConfigError, TallformerError
from tallformer_infer.files import write_whole
from tallformer_training.datasets import DatasetRequest, FrameCache, TrainingVideo, read_video_set
from tallformer_training.loop import TrainingConfig
from tallformer_training.loop.checkpoints import RunState, checkpoint_folders, load_state
from tallformer_training.loop.forward import (
    LoadedWindow,
    fill_behind_the_end,
    load_window,
    memory_window,
    prepare_clips,
)
from tallformer_training.loop.job import RUN_FILE
from tallformer_training.loop.plan import PlannedWindow, Planner
from tallformer_training.memory import Memory
from tallformer_training.memory.bank import join_windows, read_windows
from tallformer_training.model import Detector

Matrix = NDArray[np.float64]
STAGES = ("encoder and memory", "before the TCM", "after the TCM")
WAYS = (("encoded now", "#0072B2", "o"), ("remembered", "#E69F00", "^"))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Feature steps of all windows at one stage of the detector."""

    features: Matrix
    """Shape (N, C)."""
    is_encoded: NDArray[np.bool_]
    """True for encoded steps, False for remembered ones, shape (N,)."""

    @property
    def gap(self) -> float:
        """Distance between the means of both kinds, over the root mean square distance to their own mean."""
        kinds = [self.features[self.is_encoded], self.features[~self.is_encoded]]
        means = [kind.mean(axis=0) for kind in kinds]
        inner = np.concatenate([kind - mean for kind, mean in zip(kinds, means, strict=True)])
        return float(np.linalg.norm(means[0] - means[1]) / np.sqrt((inner**2).sum(axis=1).mean()))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run and its videos."""

    run: Path
    """Folder of the run."""
    annotations: Path
    """Its training annotations."""
    videos: Path
    """Folder of its videos."""
    cache: Path
    """Folder of its cached frames."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure of a run; returns 1 if that is impossible."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations.features_picture", description=main.__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--annotations", type=Path, required=True, help="training annotations of the run")
    parser.add_argument("--videos", type=Path, required=True, help="folder of its videos")
    parser.add_argument(
        "--cache", type=Path, help="folder of its cached frames; `cache` in the run's folder if not given"
    )
    parser.add_argument("--out", type=Path, help="picture; `features.png` in the run's folder if not given")
    parser.add_argument("--windows", type=int, default=24, help="number of windows")
    options = parser.parse_args(arguments)
    source = Source(
        run=options.run,
        annotations=options.annotations,
        videos=options.videos,
        cache=options.cache or options.run / "cache",
    )
    out = options.out or options.run / "features.png"
    try:
        stages = collect(source, windows=options.windows)
        draw(stages, out)
    except TallformerError as error:
        sys.stderr.write(f"benchmarks.ablations.features_picture: {error}\n")
        return 1
    gaps = {name: round(stage.gap, 4) for name, stage in stages.items()}
    sys.stdout.write(json.dumps({"picture": str(out), "gap": gaps}) + "\n")
    return 0


def collect(source: Source, *, windows: int) -> dict[str, Stage]:
    """Features of windows built as in training, at each of `STAGES`.

    Raises:
        CheckpointError: The run has no checkpoint.
        ConfigError: It has no TCM, or encodes none or all of the clips; or there is no window.
    """
    if windows < 1:
        raise ConfigError(f"windows={windows} must be at least 1")
    recipe, config, subset = _settings(source.run)
    if recipe.model.tcm is None or not 0 < config.ratio < 1:
        raise ConfigError(
            f"{source.run}: has ratio={config.ratio} and {'no' if recipe.model.tcm is None else 'a'} TCM; "
            "expected a run with a TCM that encodes some clips and remembers others"
        )
    state, memory = _last(source.run)
    detector = Detector(recipe).eval()
    detector.load_state_dict(state.weights)
    request = DatasetRequest(annotations=source.annotations, videos=source.videos, subset=subset)
    loaded = _load(recipe, config, request, FrameCache(source.cache, recipe.sampling), windows)
    parts = [_stages(detector, config, item, memory, state.step) for item in loaded]
    stages = {
        name: Stage(
            features=np.concatenate([part[name].features for part in parts]),
            is_encoded=np.concatenate([part[name].is_encoded for part in parts]),
        )
        for name in STAGES
    }
    if any(stage.is_encoded.all() for stage in stages.values()):
        raise ConfigError(f"{source.annotations}: the videos are so short that all of their clips are encoded")
    return stages


def principal_components(features: Matrix) -> tuple[Matrix, NDArray[np.float64]]:
    """Project features on their first two principal components.

    Args:
        features: Shape (N, C), N and C at least 2.

    Returns:
        Coordinates, shape (N, 2), and the share of the variance along each, shape (2,).
    """
    centred = features - features.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T, lengths[:2] ** 2 / max(float((lengths**2).sum()), np.finfo(float).tiny)


def draw(stages: dict[str, Stage], out: Path) -> None:
    """Draw a panel for each stage into the PNG file `out`."""
    figure = Figure(figsize=(5 * len(stages), 5), layout="constrained")
    for axes, (name, stage) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        points, parts = principal_components(stage.features)
        for (label, colour, marker), chosen in zip(WAYS, (stage.is_encoded, ~stage.is_encoded), strict=True):
            shown = f"{label} ({chosen.sum()})"
            axes.scatter(*points[chosen].T, s=9, c=colour, marker=marker, alpha=0.5, linewidths=0, label=shown)
            axes.scatter(*points[chosen].mean(axis=0), s=140, c=colour, marker=marker, edgecolors="black")
        axes.set_title(f"{name}\nmeans {stage.gap:.2f} spreads apart")
        axes.set_xlabel(f"first component, {100 * parts[0]:.0f} % of the variance")
        axes.set_ylabel(f"second component, {100 * parts[1]:.0f} %")
        axes.legend(loc="best", title="large: their mean")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_whole(out, picture.getvalue())


def _settings(run: Path) -> tuple[Recipe, TrainingConfig, str | None]:
    try:
        record: dict[str, Any] = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{run}: no run of `tallformer train` here (no {RUN_FILE})") from error
    config = from_json(TrainingConfig, record["training"], where="training")
    return recipe_from_json(record["recipe"]), config, record["data"]["subset"]


def _last(run: Path) -> tuple[RunState, Memory]:
    """The last checkpoint, and the memory at the same step."""
    folders = checkpoint_folders(run)
    if not folders:
        raise CheckpointError(f"{run}: no checkpoint yet")
    state = load_state(folders[-1])
    assert state.snapshots[0] is not None, "the first process writes"
    return state, Memory.open(run / "memory" / "machine-0" / state.snapshots[0])


def _load(
    recipe: Recipe, config: TrainingConfig, request: DatasetRequest, cache: FrameCache, windows: int
) -> list[LoadedWindow]:
    """The first windows that training would draw, one per video while possible."""
    videos: dict[str, TrainingVideo] = {video.name: video for video in read_video_set(request, recipe.classes).videos}
    frames = {name: cache.add(video.path) for name, video in videos.items()}
    epoch = Planner(recipe, config, frames, processes=1).draw_epoch(0)
    planned: list[PlannedWindow] = list(chain.from_iterable(epoch))[:windows]
    clip_frames = recipe.window.clip_frames
    return [load_window(cache, videos[window.video].path, window, clip_frames=clip_frames) for window in planned]


@torch.no_grad()
def _stages(
    detector: Detector, config: TrainingConfig, loaded: LoadedWindow, memory: Memory, step: int
) -> dict[str, Stage]:
    """Features of one window, at each of `STAGES`."""
    recipe, planned = detector.recipe, [loaded.window]
    windows = [memory_window(loaded.window, recipe)]
    remembered, _ = read_windows(
        memory, windows, clips=recipe.window.clips, clip_steps=recipe.clip_steps, step_number=step
    )
    remembered = fill_behind_the_end(remembered, planned, detector)
    seed, device = (config.seed, 0), torch.device("cpu")
    clips = prepare_clips([loaded], recipe, config.augmentation, seed=seed, device=device)
    joined = join_windows(remembered, detector.encode(clips), windows)
    before = detector.reduction(joined)
    assert detector.tcm is not None, "`collect` asked for one"
    return {
        name: _stage(features[0].double().numpy(), loaded.window, recipe)
        for name, features in zip(STAGES, (joined, before, detector.tcm(before)), strict=True)
    }


def _stage(features: Matrix, window: PlannedWindow, recipe: Recipe) -> Stage:
    """The steps inside the video, with their clips, from features (C, steps)."""
    steps = features.shape[1]
    first_frames = np.arange(steps) * recipe.window.window_frames // steps
    is_encoded = np.isin(first_frames // recipe.window.clip_frames, window.encoded_clips)
    is_real = first_frames < window.real_frames
    return Stage(features=features.T[is_real], is_encoded=is_encoded[is_real])


if __name__ == "__main__":
    sys.exit(main())
