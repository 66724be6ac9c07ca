"""One training step: forward and backward passes over the windows of a step, then the optimiser."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tallformer_infer.config import Recipe
from tallformer_training.loop.config import OptimiserConfig, TrainingConfig, autocast
from tallformer_training.loop.costs import TargetMaker, window_costs
from tallformer_training.loop.forward import (
    LoadedWindow,
    WindowModel,
    fill_behind_the_end,
    memory_window,
    prepare_clips,
)
from tallformer_training.loop.plan import PlannedWindow
from tallformer_training.loop.processes import Processes
from tallformer_training.loop.step_classifier import step_loss
from tallformer_training.memory import Memory, RunMemory, Staleness, staleness
from tallformer_training.memory.bank import OUTSIDE, read_windows
from tallformer_training.memory.run import write_back
from tallformer_training.model import Detector
from tallformer_training.model.point_head import PointHead
from tallformer_training.schedule import ParameterGroup, parameter_groups, set_rates


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Figures of a training step, over all processes."""

    classification: float
    """Classification loss; see `costs.Costs`."""
    segment: float
    """Localization loss; see `costs.Costs`."""
    by_step: float
    """Cross-entropy of the classifier of feature steps, summed over classes; 0 without one."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    rate_factor: float
    """Factor of the learning rates."""
    positive_anchors: int
    """Positive anchors; windows without any count as 1."""
    staleness: Staleness
    """Age of the features that this process read from the memory."""
    prepare_s: float
    """Seconds of this process for augmentation, reading the memory and assignment."""
    forward_s: float
    """Seconds of forward passes and writing to the memory."""
    backward_s: float
    """Seconds of backward passes and the optimiser."""

    def values(self) -> dict[str, float | int]:
        """The report as JSON values."""
        return {
            "loss": self.classification + self.segment,
            "classification_loss": self.classification,
            "segment_loss": self.segment,
            "step_loss": self.by_step,
            "gradient_norm": self.gradient_norm,
            "positive_anchors": self.positive_anchors,
            "memory_age_mean_steps": self.staleness.mean_steps,
            "memory_age_max_steps": self.staleness.max_steps,
            "memory_rows": self.staleness.rows,
            "prepare_s": self.prepare_s,
            "forward_s": self.forward_s,
            "backward_s": self.backward_s,
        }


class Stepper:
    """Model, optimiser and memory of one process."""

    def __init__(
        self,
        detector: Detector,
        config: TrainingConfig,
        targets: TargetMaker,
        processes: Processes,
    ) -> None:
        self.detector = detector
        self.config = config
        self.processes = processes
        self.recipe: Recipe = detector.recipe
        self._targets = targets
        self._anchors = targets.anchors_frames.to(processes.device)
        self._windows = WindowModel(detector, with_steps=config.step_loss_weight > 0).to(processes.device)
        if config.keep_encoder_norms:
            detector.backbone.keep_norms()
        if config.ratio == 0:
            detector.backbone.requires_grad_(False)
        self.optimiser = make_optimiser(self._windows, config.optimiser)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "fp16")
        self.mean = None if config.ema_decay is None else WeightMean(detector.state_dict(), config.ema_decay)
        self._model = processes.share_gradients(self._windows)

    @property
    def teacher(self) -> nn.Module | None:
        """The classifier of feature steps, which is not part of the detector; None without one."""
        return self._windows.steps

    def step(
        self,
        windows: Sequence[PlannedWindow],
        passes: Sequence[Sequence[LoadedWindow]],
        memory: tuple[Memory, RunMemory | None],
        *,
        step: int,
        epoch: tuple[int, float],
    ) -> StepReport:
        """Train on the windows of a step.

        Args:
            windows: Windows of all processes.
            passes: Windows of this process, per forward pass.
            memory: The memory to read, and the one to write on the process that writes, else None.
            step: Number of the step, from 0.
            epoch: Number of the epoch, from 0, and position in the schedule, in epochs.
        """
        self.detector.train()
        if self.config.ratio == 0:
            self.detector.backbone.eval()
        factor = set_rates(self.optimiser, self.config.schedule, epoch=epoch[1], step=step)
        self.optimiser.zero_grad(set_to_none=True)
        clock = _Clock()
        of_step = self._targets.make(windows)
        normaliser = self._normaliser(of_step.normaliser)
        steps = max(sum(len(window.encoded_clips) for window in windows), 1) * self.recipe.clip_steps
        totals, ages = torch.zeros(3, device=self.processes.device), []
        for number, loaded in enumerate(passes):
            with self._gradients_apart(number + 1 < len(passes)):
                losses, read = self._pass(loaded, memory, (normaliser, steps), clock, step=step, epoch=epoch[0])
                totals += losses
                ages.append(read)
        norm = self._update(clock)
        if self.mean is not None:
            self.mean.update(self.detector.state_dict(), step)
        classification, segment, by_step = self.processes.sum(totals).tolist()
        return StepReport(
            classification=classification,
            segment=segment,
            by_step=by_step,
            gradient_norm=norm,
            rate_factor=factor,
            positive_anchors=of_step.positive,
            staleness=staleness(np.concatenate(ages)),
            **clock.seconds,
        )

    def _pass(
        self,
        loaded: Sequence[LoadedWindow],
        memory: tuple[Memory, RunMemory | None],
        normalisers: tuple[float, int],
        clock: _Clock,
        *,
        step: int,
        epoch: int,
    ) -> tuple[Tensor, np.ndarray]:
        """One forward and backward pass; returns the three losses, and the ages of features read."""
        device, planned = self.processes.device, [item.window for item in loaded]
        windows = [memory_window(window, self.recipe) for window in planned]
        own = self._targets.make(planned)
        remembered, ages = read_windows(
            memory[0],
            windows,
            clips=self.config.window_clips(self.recipe),
            clip_steps=self.recipe.clip_steps,
            step_number=step,
        )
        remembered = fill_behind_the_end(remembered.to(device), planned, self.detector)
        seed = (self.config.seed, epoch)
        clips = prepare_clips(loaded, self.recipe, self.config.augmentation, seed=seed, device=device)
        clock.stop("prepare_s")
        with autocast(self.config.precision, device):
            real_frames = torch.tensor([window.in_window(self.recipe) for window in planned], device=device)
            encoded, outputs, logits = self._model(clips, remembered, windows, real_frames)
        write_back(memory[1], windows, encoded, videos=list(memory[0].manifest.videos), step_number=step)
        if self.config.accumulation > 1:
            self.processes.barrier()  # without a gradient exchange, nothing else waits for the memory's writer
        losses = window_costs(outputs, own.targets, self._anchors, self.config, recipe=self.recipe)
        clock.stop("forward_s")
        # Turn the mean over processes of `DistributedDataParallel` into the sum over all windows.
        part = own.normaliser / normalisers[0]
        total = losses.total * part
        by_step = torch.zeros((), device=device)
        if logits is not None:
            by_step = step_loss(logits, self._targets.mark_steps(planned)) / normalisers[1]
            total = total + self.config.step_loss_weight * by_step
        torch.autograd.backward(self.scaler.scale(total * self.processes.count))
        clock.stop("backward_s")
        both = torch.stack([losses.classification, losses.segment]) * part
        return torch.cat([both, by_step[None]]).detach(), ages[ages != OUTSIDE]

    def _normaliser(self, of_step: int) -> float:
        """Normaliser of the losses of a step; for a point head a running mean."""
        head = self.detector.head
        if not isinstance(head, PointHead):
            return of_step
        return head.follow(of_step, momentum=self.config.points.normaliser_momentum)

    def _update(self, clock: _Clock) -> float:
        """Clip the gradient and update the weights; returns the gradient's norm."""
        norm = take_step(self.optimiser, self.scaler, max_norm=self.config.max_gradient_norm)
        clock.stop("backward_s")
        return norm

    def _gradients_apart(self, is_apart: bool) -> AbstractContextManager[object]:
        if is_apart and isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return contextlib.nullcontext()


class _Clock:
    """Adds up the seconds between stops, by name of the stop."""

    def __init__(self) -> None:
        self.seconds = {"prepare_s": 0.0, "forward_s": 0.0, "backward_s": 0.0}
        self._mark = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._mark
        self._mark = now


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of all parameters of `model` that need a gradient."""
    groups = parameter_groups(model, base_lr=config.base_lr, encoder_factor=config.encoder_factor)
    match config.kind:
        case "sgd":
            return torch.optim.SGD(
                [{**group} for group in groups],
                lr=config.base_lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
        case "adam":
            return torch.optim.Adam(
                [{**group} for group in groups],
                lr=config.base_lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
            )
        case "adamw":
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            parts = [part for group in groups for part in _split(group, names, config.weight_decay)]
            return torch.optim.AdamW(parts, lr=config.base_lr, betas=config.betas)
        case _:
            assert_never(config.kind)


def _split(group: ParameterGroup, names: Mapping[int, str], weight_decay: float) -> list[dict[str, object]]:
    """Split a group into matrices, with weight decay, and norms, biases and relative position tables, without."""
    parts = []
    for decays in (True, False):
        chosen = [parameter for parameter in group["params"] if _decays(names[id(parameter)], parameter) is decays]
        if chosen:
            parts.append({**group, "params": chosen, "weight_decay": weight_decay if decays else 0.0})
    return parts


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() > 1 and not name.endswith("bias_table")


def take_step(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, max_norm: float | None) -> float:
    """Clip the gradient and update the weights; returns the gradient's norm before clipping."""
    scaler.unscale_(optimiser)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
    scaler.step(optimiser)
    scaler.update()
    return float(norm)


class WeightMean:
    """Running mean of weights and batch norm statistics, with a smaller decay in the first steps."""

    def __init__(self, state: Mapping[str, Tensor], decay: float) -> None:
        """Start with the weights of `state`."""
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved mean."""
        for name, tensor in state.items():
            self.state[name].copy_(tensor)

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor], step: int) -> None:
        """Update with `state`, after training step number `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in state.items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)
