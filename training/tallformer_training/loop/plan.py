"""Plan the windows and clips of every training step ahead, for all processes, from seed and epoch alone.

# Note [every process plans for all]
Each process draws the whole plan of an epoch and takes its share. So all know every window of a step, and the number of
its positive anchors, without talking; a run with twice the processes and half the windows per process sees the same
windows; and a resumed run needs no more than the sampler's state at the start of the epoch.

# Note [mirrored videos]
The memory holds the features of a video as it was last seen. Where mirroring changes labels (`mirrored_classes`), the
mirrored video has rows of its own, under its name with `MIRRORED`: otherwise a window would mix clips that spin left
with remembered ones that spin right, under one label. Without such classes both share their rows, as in the official
code.

# Note [starts of windows]
Windows start at any feature step of the encoder, not only at whole clips: the sampler chooses a clip to start from, and
the window starts within it. So clips are cut differently in every epoch, and rows in the memory are never half a step
off.

# Note [shifted clips]
A model that sees whole videos has one window per video, which starts at frame 0. So that clips are cut differently all
the same, the window is begun up to a clip earlier, in front of the video, and has one clip more; the steps in front of
the video are left out before the localizer. The official code shifts by any number of frames and reads the memory half
a step off where that is odd; here it is a whole number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tallformer_infer.config import Recipe
from tallformer_training.loop.config import TrainingConfig
from tallformer_training.memory import ClipSampler

MIRRORED = "\x00mirrored"


@dataclass(frozen=True, kw_only=True)
class PlannedWindow:
    """One window of a step."""

    video: str
    """Name of the video."""
    entry: str
    """Name in the memory."""
    is_mirrored: bool
    """Whether left and right are exchanged."""
    start_frame: int
    """First frame; a multiple of the encoder's stride; below 0 where clips are shifted, see Note [shifted clips]."""
    real_frames: int
    """Frames up to the end of the video, at most those of the window's clips."""
    encoded_clips: tuple[int, ...]
    """Clips of the window that are encoded."""
    number: int
    """Of the window in its epoch: with seed and epoch it decides the augmentation."""

    def in_window(self, recipe: Recipe) -> int:
        """Frames of the video that the localizer sees, whose window begins with the video where this one is earlier."""
        return min(self.start_frame + self.real_frames - max(self.start_frame, 0), recipe.window.window_frames)


class Planner:
    """Draws the plan of one epoch after another."""

    def __init__(
        self, recipe: Recipe, config: TrainingConfig, video_frames: Mapping[str, int], *, processes: int
    ) -> None:
        """Start at epoch 0.

        Args:
            recipe: Lengths of windows and clips.
            config: Sampling, batch and seed.
            video_frames: Frames of every video, by name.
            processes: Processes that train together.
        """
        self._window = recipe.window
        self._stride = recipe.model.encoder_stride
        self._config = config
        self._video_frames = dict(video_frames)
        self.step_windows = config.batch_windows * config.accumulation * processes
        """Windows per training step, over all processes."""
        self._is_shifted = config.shifts(recipe)
        self.window_clips = config.window_clips(recipe)
        """Clips per window."""
        windows = len(self._video_frames) * config.windows_per_video
        self.steps_per_epoch = -(-windows // self.step_windows)
        """Training steps per epoch; the last is filled up with windows of other videos."""
        self.sampler = ClipSampler(
            config.sampling,
            {
                name: clips + self._is_shifted
                for name, clips in memory_clips(
                    self._video_frames, config, clip_frames=self._window.clip_frames
                ).items()
            },
            window_clips=self.window_clips,
            ratio=config.window_ratio(recipe),
            seed=config.seed,
        )

    def draw_epoch(self, epoch: int) -> list[list[PlannedWindow]]:
        """The windows of every step of an epoch; epochs are drawn in order."""
        generator = np.random.default_rng([self._config.seed, epoch, 0])
        names = list(self._video_frames)
        wanted = self.steps_per_epoch * self.step_windows
        order = [names[row] for _ in range(-(-wanted // len(names))) for row in generator.permutation(len(names))]
        mirrored = generator.random(wanted) < self._config.augmentation.flip
        windows = [
            self._draw(video, bool(mirrored[number]), number, generator) for number, video in enumerate(order[:wanted])
        ]
        size = self.step_windows
        return [windows[first : first + size] for first in range(0, wanted, size)]

    def _draw(self, video: str, is_mirrored: bool, number: int, generator: np.random.Generator) -> PlannedWindow:
        entry = video + MIRRORED if is_mirrored and self._config.has_mirrored_memory else video
        first, clips = self.sampler.draw_window(entry)
        frames = self._video_frames[video]
        if self._is_shifted:
            start_frame = -self._stride * int(generator.integers(self._window.clip_frames // self._stride))
        else:
            start_frame = self._start_frame(first, frames, generator)
        return PlannedWindow(
            video=video,
            entry=entry,
            is_mirrored=is_mirrored,
            start_frame=start_frame,
            real_frames=min(frames - start_frame, self.window_clips * self._window.clip_frames),
            encoded_clips=tuple(clips.tolist()),
            number=number,
        )

    def _start_frame(self, first_clip: int, frames: int, generator: np.random.Generator) -> int:
        """Where a window starts whose clips the sampler counts from `first_clip`; see Note [starts of windows]."""
        start_frame = first_clip * self._window.clip_frames
        room = min(frames - self._window.window_frames - start_frame, self._window.clip_frames - 1)
        # The sampler counts a last partial clip, so its last window may end behind the video; it moves back to the end.
        steps = room // self._stride
        start_frame += self._stride * (int(generator.integers(steps + 1)) if steps > 0 else min(steps, 0))
        return max(start_frame, 0)


def memory_clips(video_frames: Mapping[str, int], config: TrainingConfig, *, clip_frames: int) -> dict[str, int]:
    """Clips of every entry of the memory, the last partial one included; see Note [mirrored videos]."""
    names = list(video_frames)
    clips = {name: -(-video_frames[name] // clip_frames) for name in names}
    return clips | ({name + MIRRORED: clips[name] for name in names} if config.has_mirrored_memory else {})


def share(windows: list[PlannedWindow], config: TrainingConfig, *, rank: int) -> list[list[PlannedWindow]]:
    """What one process looks at in each forward pass of a step.

    A step's windows lie pass by pass, and in a pass process by process, so that one process with a larger batch sees in
    one pass what several see.
    """
    batch = config.batch_windows
    per_pass = len(windows) // config.accumulation
    return [windows[first + rank * batch : first + (rank + 1) * batch] for first in range(0, len(windows), per_pass)]
