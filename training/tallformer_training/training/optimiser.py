"""Optimisers by their settings, and the running mean of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor, nn

from tallformer_training.schedule import ParameterGroup, parameter_groups
from tallformer_training.training.config import OptimiserConfig


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of everything in `model` that needs a gradient."""
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
    """A group in two: matrices, which decay, and norms, biases and tables of relative positions, which do not."""
    parts = []
    for decays in (True, False):
        chosen = [parameter for parameter in group["params"] if _decays(names[id(parameter)], parameter) is decays]
        if chosen:
            parts.append({**group, "params": chosen, "weight_decay": weight_decay if decays else 0.0})
    return parts


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() > 1 and not name.endswith("bias_table")


def take_step(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, max_norm: float | None) -> float:
    """Clip the gradient, and let the optimiser move; returns the gradient's length before clipping."""
    scaler.unscale_(optimiser)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
    scaler.step(optimiser)
    scaler.update()
    return float(norm)


class WeightMean:
    """Running mean of weights and of batch norm statistics; in its first steps it forgets faster."""

    def __init__(self, state: Mapping[str, Tensor], decay: float) -> None:
        """Start with the weights of `state`."""
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a mean that was saved."""
        for name, tensor in state.items():
            self.state[name].copy_(tensor)

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor], step: int) -> None:
        """Move towards `state`, after training step number `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in state.items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)
