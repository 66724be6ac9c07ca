"""Learning rates and parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tallformer_training.schedule import (
    ScheduleConfig,
    cosine_factor,
    parameter_groups,
    rate_factor,
    set_rates,
    warmup_factor,
)

OFFICIAL = ScheduleConfig()


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.01),
        (1, 0.0099975575),
        (38, 0.0068722165),
        (50, 0.00505),
        (99, 0.000102442526),
        (100, 0.01),
        (150, 0.00505),
    ],
)
def test_cosine_falls_within_a_period_and_restarts(epoch: int, rate: float) -> None:
    assert 0.01 * cosine_factor(OFFICIAL, epoch=epoch) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (100, 0.28), (250, 0.55), (499, 0.9982), (500, 1), (9999, 1)])
def test_warm_up_rises_in_a_line_and_stays_at_one(step: int, factor: float) -> None:
    assert warmup_factor(OFFICIAL, step=step) == pytest.approx(factor)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert warmup_factor(ScheduleConfig(warmup_steps=0), step=0) == 1


def test_both_factors_multiply() -> None:
    assert rate_factor(OFFICIAL, epoch=50, step=250) == pytest.approx(0.505 * 0.55)


class Model(nn.Module):
    """A detector in small: a frozen and a trained part in the encoder, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.backbone_like = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.backbone[0].requires_grad_(False)


def test_the_encoder_has_its_own_rate_and_what_is_frozen_is_left_out() -> None:
    model = Model()

    groups = parameter_groups(model, base_lr=0.01)

    encoder, rest = sorted(groups, key=lambda group: group["lr"])
    assert (encoder["lr"], rest["lr"]) == (pytest.approx(0.004), 0.01)
    assert [id(each) for each in encoder["params"]] == [id(each) for each in model.backbone[1].parameters()]
    assert [id(each) for each in rest["params"]] == [
        id(each) for part in (model.backbone_like, model.head) for each in part.parameters()
    ]


def test_a_wholly_frozen_encoder_has_no_group() -> None:
    model = Model()
    model.backbone.requires_grad_(False)

    assert [group["lr"] for group in parameter_groups(model, base_lr=0.01)] == [0.01]


def test_rates_of_an_optimizer_follow_the_schedule_and_keep_their_ratio() -> None:
    optimizer = torch.optim.SGD(parameter_groups(Model(), base_lr=0.01), momentum=0.9, weight_decay=1e-4)

    for epoch, step in ((0, 0), (50, 650), (100, 1300)):
        factor = set_rates(optimizer, OFFICIAL, epoch=epoch, step=step)
        rates = sorted(group["lr"] for group in optimizer.param_groups)
        assert rates == pytest.approx([0.004 * factor, 0.01 * factor])


def test_a_schedule_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="period_epochs = 0 of at least 1"):
        ScheduleConfig(period_epochs=0)
    with pytest.raises(ValueError, match=r"min_factor = 2 and .* in \[0, 1\]"):
        ScheduleConfig(min_factor=2)
