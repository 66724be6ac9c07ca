"""Train the encoder alone, before the detector: classify the actions in progress at each feature step of single clips.

# Note [an encoder without Kinetics]
The paper's encoder is pretrained on Kinetics. A random one learns slowly through the localizer: most of the localizer's
input are old features from the memory, and few anchors are positive. So a run whose settings have an `encoder_stage`
first trains the encoder on single clips from all videos, with a linear classifier of the actions in progress at every
feature step. The first memory is then encoded with these weights. The stage has its own folder in the run (`encoder/`)
with its own checkpoints and record, and can be resumed like the run.

Source: own design; a classification stage before detection is common in the field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tallformer_infer.console import Speaker
from tallformer_training.augmentation import apply_change, draw_change, normalise
from tallformer_training.loop import checkpoints
from tallformer_training.loop.beginning import require_as_many
from tallformer_training.loop.config import autocast
from tallformer_training.loop.costs import TargetMaker
from tallformer_training.loop.forward import load_window, run_ahead
from tallformer_training.loop.job import Material, TrainingJob, provenance
from tallformer_training.loop.plan import PlannedWindow
from tallformer_training.loop.processes import Processes
from tallformer_training.loop.record import Metrics
from tallformer_training.loop.step_classifier import StepClassifier, step_loss
from tallformer_training.loop.stepping import make_optimiser, take_step
from tallformer_training.model import Detector
from tallformer_training.model.encoder import AnyEncoder
from tallformer_training.schedule import set_rates

FOLDER = "encoder"
_DRAW_STREAM, _CHANGE_STREAM = 3, 4


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """A batch of training clips."""

    clips: Tensor
    """Normalised RGB, shape (N, 3, F, H, W)."""
    marks: Tensor
    """1 for actions in progress, shape (N, steps, K)."""


class ClipDrawer:
    """Draws single clips from all training videos, in proportion to their length."""

    def __init__(self, job: TrainingJob, learned: Material, processes: Processes) -> None:
        self.job, self.learned, self.processes = job, learned, processes
        recipe = job.recipe
        self._videos = {video.name: video for video in learned.videos}
        self._targets = TargetMaker(recipe, job.config, learned.videos, learned.frames)
        self._names = list(self._videos)
        lengths = np.array([learned.frames[name] for name in self._names], np.float64)
        self._chances = lengths / lengths.sum()

    def draw(self, step: int) -> ClipBatch:
        """The clips of this process in one step; they depend only on seed and step."""
        stage = self.job.config.encoder_stage
        assert stage is not None
        first = self.processes.rank * stage.batch_clips
        parts = [self._clip(step, first + number) for number in range(stage.batch_clips)]
        return ClipBatch(torch.cat([part.clips for part in parts]), torch.cat([part.marks for part in parts]))

    def _clip(self, step: int, number: int) -> ClipBatch:
        recipe, config = self.job.recipe, self.job.config
        generator = np.random.default_rng([config.seed, _DRAW_STREAM, step, number])
        name = self._names[int(generator.choice(len(self._names), p=self._chances))]
        frames, length = self.learned.frames[name], recipe.window.clip_frames
        start = int(generator.integers(max(frames - length, 0) + 1))
        window = PlannedWindow(
            video=name,
            entry=name,
            is_mirrored=bool(generator.random() < config.augmentation.flip),
            start_frame=start,
            real_frames=min(frames - start, length),
            encoded_clips=(0,),
            number=number,
        )
        loaded = load_window(self.learned.source, self._videos[name].path, window, clip_frames=length)
        change = draw_change(
            config.augmentation,
            np.random.default_rng([config.seed, _CHANGE_STREAM, step, number]),
            is_flipped=window.is_mirrored,
        )
        sampling = recipe.sampling
        clips = normalise(
            apply_change(torch.from_numpy(loaded.pixels), change, crop_px=sampling.crop_px),
            torch.from_numpy(loaded.real_frames),
            sampling,
        )
        return ClipBatch(clips, self._targets.mark_steps([window]))


class EncoderStage:
    """The stage of one process; see Note [an encoder without Kinetics]."""

    def __init__(
        self, job: TrainingJob, detector: Detector, learned: Material, processes: Processes, speaker: Speaker
    ) -> None:
        """Prepare the stage, from its last checkpoint if there is one.

        Raises:
            CheckpointError: The checkpoint is damaged.
            ConfigError: Another number of processes wrote it.
        """
        stage = job.config.encoder_stage
        assert stage is not None
        self.job, self.stage, self.processes, self.speaker = job, stage, processes, speaker
        self.folder = job.out / FOLDER
        self.detector = detector
        self.teacher = StepClassifier(job.recipe.model.backbone.out_channels, len(job.recipe.classes))
        self.teacher.to(processes.device)
        both = _EncoderAndTeacher(detector.backbone, self.teacher)
        self.optimiser = make_optimiser(both, stage.optimiser)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=stage.precision == "fp16")
        self._model = processes.share_gradients(both)
        self.drawer = ClipDrawer(job, learned, processes)
        self.step = 0
        self._restore()

    def run(self, until: Callable[[], bool] | None) -> bool:
        """Train until all steps are done or `until` returns True; returns whether they are done."""
        if self.step >= self.stage.steps:
            return True
        self.detector.train()
        metrics = Metrics(self.folder, steps_done=self.step) if self.processes.is_main else None
        try:
            with self.speaker.progress("encoder steps", self.stage.steps) as advance:
                advance(self.step, "")
                for values in self._steps():
                    if metrics is not None:
                        metrics.write("encoder_step", self.step, values)
                    advance(1, f"loss {values['loss']:.3f}", loss=values["loss"])
                    is_last = self.step == self.stage.steps
                    is_over = until is not None and any(self.processes.gather(until()))
                    if is_last or is_over or self.step % self.job.config.checkpoint_every_steps == 0:
                        self._save()
                    if is_over:
                        break
        finally:
            if metrics is not None:
                metrics.close()
        return self.step >= self.stage.steps

    def _steps(self) -> Iterator[Mapping[str, float]]:
        ahead = run_ahead(range(self.step, self.stage.steps), self.drawer.draw, threads=self.job.config.loader_threads)
        mark_s, processor_s = time.perf_counter(), time.process_time()
        for batch in ahead:
            data_s = time.perf_counter() - mark_s
            loss, norm, factor = self._learn(batch)
            self.step += 1
            rate = self.stage.optimiser.base_lr * factor
            yield {
                "loss": loss,
                "gradient_norm": norm,
                "learning_rate": rate,
                "data_s": data_s,
                "step_s": time.perf_counter() - mark_s,
                "processor_s": time.process_time() - processor_s,
            }
            mark_s, processor_s = time.perf_counter(), time.process_time()

    def _learn(self, batch: ClipBatch) -> tuple[float, float, float]:
        """One step: loss, norm of the gradient, factor of the learning rate."""
        device = self.processes.device
        factor = set_rates(self.optimiser, self.stage.schedule, epoch=self.step / self.stage.steps, step=self.step)
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.stage.precision, device):
            logits = self._model(batch.clips.to(device))
        loss = step_loss(logits, batch.marks) / batch.marks[..., 0].numel()
        torch.autograd.backward(self.scaler.scale(loss))
        norm = take_step(self.optimiser, self.scaler, max_norm=self.job.config.max_gradient_norm)
        mean = self.processes.sum(loss.detach()) / self.processes.count
        return float(mean), norm, factor

    def _save(self) -> None:
        randoms = self.processes.gather(checkpoints.torch_random_state(self.processes.device).cpu())
        if self.processes.is_main:
            state = checkpoints.RunState(
                step=self.step,
                epoch=0,
                steps_into_epoch=self.step,
                weights=self.detector.state_dict(),
                mean=None,
                teacher=self.teacher.state_dict(),
                optimiser=self.optimiser.state_dict(),
                scaler=self.scaler.state_dict(),
                random=randoms,
                sampler={},
                snapshots=[None] * self.processes.count,
                history=[],
            )
            checkpoints.save_state(self.folder, state, self.job.recipe, provenance=self._provenance())
            checkpoints.prune(self.folder, self.job.config.keep_checkpoints)
        self.processes.barrier()

    def _restore(self) -> None:
        folders = checkpoints.checkpoint_folders(self.folder)
        if self.processes.is_main:
            self.folder.mkdir(exist_ok=True)
        self.processes.barrier()
        if not folders:
            torch.manual_seed(self.job.config.seed + self.processes.rank)
            return
        state = checkpoints.load_state(folders[-1])
        require_as_many(folders[-1], state, self.processes)
        self.step = state.step
        self.detector.load_state_dict(state.weights)
        self.teacher.load_state_dict(state.teacher)
        self.optimiser.load_state_dict(state.optimiser)
        self.scaler.load_state_dict(state.scaler)
        checkpoints.restore_random_state(state.random[self.processes.rank], self.processes.device)
        line = f"encoder: resuming after step {self.step} of {self.stage.steps}"
        self.speaker.say("resumed", line, stage="encoder", step=self.step)

    def _provenance(self) -> dict[str, Any]:
        return provenance(self.job, step=self.step, processes=self.processes.count)


class _EncoderAndTeacher(nn.Module):
    """One module for `DistributedDataParallel`."""

    def __init__(self, backbone: AnyEncoder, teacher: StepClassifier) -> None:
        super().__init__()
        self.backbone, self.teacher = backbone, teacher

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of the steps of clips, shape (N, steps, K)."""
        logits: Tensor = self.teacher(self.backbone.steps(clips))
        return logits
