"""Plan the windows and clips of every training step, for all processes, from seed and epoch alone.

# Note [every process plans for all]
Each process draws the whole plan of an epoch and takes its share. So all know every window of a step, and the number of
its positive anchors, without communication; a run with twice the processes and half the windows per process uses the
same windows; and a resumed run needs only the sampler's state at the start of the epoch.

# Note [mirrored videos]
The memory contains the features of a video as it was last encoded. If mirroring changes labels (`mirrored_classes`),
the mirrored video has its own rows, under its name with `MIRRORED`: otherwise a window would mix clips that spin left
with remembered ones that spin right, under one label. Without such classes both share rows, as in the official code.

# Note [starts of windows]
Windows start at any feature step of the encoder, not only at whole clips: the sampler chooses a clip to start from, and
the window starts within it. So clips are cut differently in every epoch, and windows are aligned with the memory's
rows.

# Note [shifted clips]
A model of whole videos has one window per video, which starts at frame 0. To cut clips differently in every epoch
nevertheless, the window starts up to a clip before the video and has one more clip; the steps before the video are
dropped before the localizer. The official code shifts by any number of frames, so the memory is half a step off for odd
ones; here the shift is a whole number of steps.
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
    """Whether the window is mirrored."""
    start_frame: int
    """First frame; a multiple of the encoder's stride; negative for shifted clips, see Note [shifted clips]."""
    real_frames: int
    """Frames up to the end of the video, at most those of the window's clips."""
    encoded_clips: tuple[int, ...]
    """Clips of the window that are encoded."""
    number: int
    """Number of the window in its epoch; with seed and epoch it determines the augmentation."""

    def in_window(self, recipe: Recipe) -> int:
        """Frames of the video that the localizer sees, whose window never starts before the video."""
        return min(self.start_frame + self.real_frames - max(self.start_frame, 0), recipe.window.window_frames)


class Planner:
    """Draws the plans of epochs in order."""

    def __init__(
        self, recipe: Recipe, config: TrainingConfig, video_frames: Mapping[str, int], *, processes: int
    ) -> None:
        """Start at epoch 0.

        Args:
            recipe: Lengths of windows and clips.
            config: Sampling, batch size and seed.
            video_frames: Frames of every video, by name.
            processes: Number of processes.
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
        """Training steps per epoch; the last one is filled with windows of other videos."""
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
        """Start of a window whose first clip is `first_clip` of the sampler; see Note [starts of windows]."""
        start_frame = first_clip * self._window.clip_frames
        room = min(frames - self._window.window_frames - start_frame, self._window.clip_frames - 1)
        # The sampler counts a last partial clip, so its last window may end after the video; it is moved to the end.
        steps = room // self._stride
        start_frame += self._stride * (int(generator.integers(steps + 1)) if steps > 0 else min(steps, 0))
        return max(start_frame, 0)


def memory_clips(video_frames: Mapping[str, int], config: TrainingConfig, *, clip_frames: int) -> dict[str, int]:
    """Number of clips of every memory entry, including a last partial one; see Note [mirrored videos]."""
    names = list(video_frames)
    clips = {name: -(-video_frames[name] // clip_frames) for name in names}
    return clips | ({name + MIRRORED: clips[name] for name in names} if config.has_mirrored_memory else {})


def share(windows: list[PlannedWindow], config: TrainingConfig, *, rank: int) -> list[list[PlannedWindow]]:
    """The windows of one process in each forward pass of a step.

    The windows of a step are ordered by pass, and within a pass by process, so one process with a larger batch gets the
    windows of several processes in one pass.
    """
    batch = config.batch_windows
    per_pass = len(windows) // config.accumulation
    return [windows[first + rank * batch : first + (rank + 1) * batch] for first in range(0, len(windows), per_pass)]
