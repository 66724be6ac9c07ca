"""Learning rates as functions of epoch and step, and the parameter groups they apply to.

Source: the official TALLFormer training settings, commit 5519140, Apache-2.0 (values only); cosine with restarts
arXiv 1608.03983, equation 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Schedule of the learning rate."""

    period_epochs: int = 100
    """Epochs from one restart to the next."""
    min_factor: float = 0.01
    """Factor at the end of a period of the cosine, in [0, 1]."""
    warmup_steps: int = 500
    """Training steps from the start until the full rate is reached."""
    warmup_factor: float = 0.1
    """Factor at the first step, in [0, 1]."""
    drop_epochs: tuple[int, ...] = ()
    """Finished epochs after which the rate is divided by ten; if given, there is no cosine."""

    def __post_init__(self) -> None:
        if self.period_epochs < 1 or self.warmup_steps < 0:
            raise ValueError(f"expected {self.period_epochs = } of at least 1 and {self.warmup_steps = } of at least 0")
        if not (0 <= self.min_factor <= 1 and 0 <= self.warmup_factor <= 1):
            raise ValueError(f"expected {self.min_factor = } and {self.warmup_factor = } in [0, 1]")


class ParameterGroup(TypedDict):
    """A parameter group for torch optimizers, with the rate that the schedule multiplies."""

    params: list[nn.Parameter]
    lr: float
    initial_lr: float


def parameter_groups(
    model: nn.Module, *, base_lr: float = 0.01, encoder_factor: float = 0.4, encoder: str = "backbone"
) -> list[ParameterGroup]:
    """Split trained parameters into the encoder, with its own rate, and the rest.

    Parameters without gradient and empty groups are left out.

    Args:
        model: Detector.
        base_lr: Rate of all parameters but those of the encoder.
        encoder_factor: Rate of the encoder, as a multiple of `base_lr`.
        encoder: Name of the encoder among the (nested) modules of `model`.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = base_lr * encoder_factor if encoder in name.split(".") else base_lr
            groups.setdefault(rate, []).append(parameter)
    return [ParameterGroup(params=group, lr=rate, initial_lr=rate) for rate, group in groups.items()]


def rate_factor(config: ScheduleConfig, *, epoch: float, step: int) -> float:
    """Factor of every group's initial rate.

    Args:
        config: The schedule.
        epoch: Epochs finished before this step, from 0; whole, or with the fraction of the current one.
        step: Training steps finished before this one, over all epochs, from 0.
    """
    slow = drop_factor(config, epoch=epoch) if config.drop_epochs else cosine_factor(config, epoch=epoch)
    return slow * warmup_factor(config, step=step)


def drop_factor(config: ScheduleConfig, *, epoch: float) -> float:
    """A factor of 0.1 for each of `drop_epochs` that has passed."""
    return float(0.1 ** sum(epoch >= drop for drop in config.drop_epochs))


def cosine_factor(config: ScheduleConfig, *, epoch: float) -> float:
    """Cosine from 1 towards `min_factor` within a period, then from 1 again."""
    phase = math.pi * (epoch % config.period_epochs) / config.period_epochs
    return config.min_factor + (1 - config.min_factor) * (1 + math.cos(phase)) / 2


def warmup_factor(config: ScheduleConfig, *, step: int) -> float:
    """Line from `warmup_factor` at step 0 to 1 at `warmup_steps` and after."""
    if step >= config.warmup_steps:
        return 1.0
    return 1 - (1 - step / config.warmup_steps) * (1 - config.warmup_factor)


def set_rates(optimizer: Optimizer, config: ScheduleConfig, *, epoch: float, step: int) -> float:
    """Set every group's rate for this step; returns the factor.

    Raises:
        KeyError: A group has no `initial_lr`; make groups with `parameter_groups`.
    """
    factor = rate_factor(config, epoch=epoch, step=step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return factor
