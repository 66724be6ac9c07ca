"""One training step of a recipe on videos of noise, and the bytes that it keeps for the backward pass.

The step is that of `tallformer train` (`Stepper`): encoded and remembered clips, losses, gradients, optimiser and
memory. Only the pixels are noise, and the first memory is empty.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tallformer_infer.config import Recipe
from tallformer_training.datasets import TrainingVideo
from tallformer_training.loop import Processes, TrainingConfig
from tallformer_training.loop.beginning import make_first_memory
from tallformer_training.loop.costs import TargetMaker
from tallformer_training.loop.forward import LoadedWindow, load_window
from tallformer_training.loop.plan import PlannedWindow, Planner, share
from tallformer_training.loop.stepping import Stepper
from tallformer_training.memory import RunMemory
from tallformer_training.model import Detector

_VIDEOS, _WINDOWS_LONG = 4, 2
_ACTION_EVERY_FRAMES, _ACTION_FRAMES = 120, 60


class SavedActivations:
    """Counts the bytes that autograd keeps for the backward pass inside its `with` block.

    A storage counts once, however many of its tensors are kept, and in full, as it stays in memory in full. Parameters
    and buffers do not count; copies of them in another number format do. Freed storages are subtracted, so for several
    backward passes and recomputed blocks (`checkpointing`) the peak counts.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        """Count nothing that shares its storage with one of `weights`."""
        self.peak_bytes = 0
        self._now_bytes = 0
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in weights}
        self._kept: Counter[int] = Counter()
        self._hooks = saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._weights:
            self._kept[place] += 1
            if self._kept[place] == 1:
                self._now_bytes += size
                self.peak_bytes = max(self.peak_bytes, self._now_bytes)
            weakref.finalize(kept, self._free, place, size)
        return kept

    def _free(self, place: int, size: int) -> None:
        self._kept[place] -= 1
        if not self._kept[place]:
            self._now_bytes -= size


class _Kept:
    """A tensor kept by autograd; deleted when autograd releases it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class StepTrial:
    """A detector whose training step can be run at any ratio."""

    def __init__(self, recipe: Recipe, config: TrainingConfig, folder: Path) -> None:
        """Make detector, optimiser, videos and memory.

        Args:
            recipe: Architecture and window.
            config: All other settings; its ratio is not used.
            folder: Empty folder for the memory.
        """
        self.recipe = recipe
        self._config = replace(config, memory_start="zeros")
        self._videos = _videos(recipe)
        self._frames = {video.name: _WINDOWS_LONG * recipe.window.window_frames for video in self._videos}
        self._targets = TargetMaker(recipe, self._config, self._videos, self._frames)
        self._noise = _Noise(recipe)
        self._steppers: dict[bool, Stepper] = {}
        self._plans: dict[float, Iterator[list[PlannedWindow]]] = {}
        self._done = 0
        base = folder / "base"
        make_first_memory(
            base,
            self._stepper(0.0).detector,
            self._noise,
            self._videos,
            self._frames,
            config=self._config,
            processes=Processes(),
        )
        self._memory = RunMemory.begin(base, folder / "run")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.close()

    def load(self, ratio: float) -> tuple[list[PlannedWindow], list[list[LoadedWindow]]]:
        """Load the next step at `ratio`; training loads ahead in threads."""
        if ratio not in self._plans:
            planner = Planner(self.recipe, replace(self._config, ratio=ratio), self._frames, processes=1)
            self._plans[ratio] = chain.from_iterable(planner.draw_epoch(epoch) for epoch in count())
        windows = next(self._plans[ratio])
        paths = {video.name: video.path for video in self._videos}
        passes = [
            [
                load_window(self._noise, paths[window.video], window, clip_frames=self.recipe.window.clip_frames)
                for window in batch
            ]
            for batch in share(windows, self._config, rank=0)
        ]
        return windows, passes

    def step(self, ratio: float, loaded: tuple[list[PlannedWindow], list[list[LoadedWindow]]]) -> None:
        """Run a loaded step."""
        memory = (self._memory.memory, self._memory)
        self._stepper(ratio).step(*loaded, memory, step=self._done, epoch=(0, 0.0))
        self._done += 1

    def saved_bytes(self, ratio: float) -> int:
        """Run a step; returns the bytes that it keeps for the backward pass."""
        loaded, detector = self.load(ratio), self._stepper(ratio).detector
        with SavedActivations(chain(detector.parameters(), detector.buffers())) as saved:
            self.step(ratio, loaded)
        return saved.peak_bytes

    def _stepper(self, ratio: float) -> Stepper:
        """The stepper; ratio 0, with a frozen encoder, has a separate one."""
        is_frozen = ratio == 0
        if is_frozen not in self._steppers:
            detector = Detector(self.recipe, checkpointing=self._config.checkpointing)
            config = replace(self._config, ratio=0.0 if is_frozen else 1.0)
            self._steppers[is_frozen] = Stepper(detector, config, self._targets, Processes())
        return self._steppers[is_frozen]


class _Noise:
    """Source of clips of noise."""

    def __init__(self, recipe: Recipe) -> None:
        side = recipe.sampling.resize_px if recipe.sampling.resize != "none" else recipe.sampling.crop_px
        shape = (recipe.window.clip_frames, side, side, 3)
        self._clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def read_clips(self, path: Path, start_frames: Sequence[int], clip_frames: int) -> NDArray[np.uint8]:
        """See `FrameSource.read_clips`."""
        return np.repeat(self._clip[None, :clip_frames], len(start_frames), axis=0)


def _videos(recipe: Recipe) -> list[TrainingVideo]:
    """Videos without files, with an action about every eight seconds."""
    frames, fps = _WINDOWS_LONG * recipe.window.window_frames, recipe.sampling.sample_fps
    starts = np.arange(0, frames - _ACTION_FRAMES, _ACTION_EVERY_FRAMES, dtype=np.float64)
    segments_s = np.stack([starts, starts + _ACTION_FRAMES], axis=1) / fps
    return [
        TrainingVideo(
            name=f"noise-{number}",
            path=Path(f"noise-{number}"),
            start_s=0.0,
            duration_s=frames / fps,
            segments_s=segments_s,
            labels=np.arange(len(starts)) % len(recipe.classes),
        )
        for number in range(_VIDEOS)
    ]
