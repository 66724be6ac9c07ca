"""What the point head learns: targets and losses by hand and by property, and that a small detector learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tallformer_infer.config import PointHeadConfig, PyramidConfig, Recipe, SuppressConfig, preset
from tallformer_infer.console import make_speaker
from tallformer_infer.errors import ConfigError
from tallformer_training.checkpoint import load_detector
from tallformer_training.loop import Processes, TrainingJob, train
from tallformer_training.loop.beginning import make_detector
from tallformer_training.loop.config import settings_of
from tallformer_training.loop.job import prepare
from tallformer_training.loop.record import read_metrics
from tallformer_training.loop.validation import measure
from tallformer_training.losses import multi_label_focal, point_losses
from tallformer_training.model import PointOutputs
from tallformer_training.model.point_head import PointHead, point_centres, point_segments
from tallformer_training.targets import PointConfig, PointTargets, Truth, make_point_targets
from tests.point_recipe import CLIPS
from tests.whole_video_set import LEARNING, WHOLE, make_videos

pytestmark = pytest.mark.usefixtures("one_thread")

STRIDES = (2, 4, 8)
STEPS = 16
"""A window of 32 frames: levels of 16, 8 and 4 steps."""


def truth(*segments: tuple[float, float, int]) -> Truth:
    return Truth.stack(
        [torch.tensor([row[:2] for row in segments]).reshape(-1, 2)],
        [torch.tensor([row[2] for row in segments]).long()],
    )


def targets(given: Truth, config: PointConfig | None = None) -> PointTargets:
    return make_point_targets(given, steps=STEPS, level_strides=STRIDES, classes=3, config=config or PointConfig())


def positives(found: PointTargets) -> list[int]:
    return torch.nonzero(found.is_positive[0])[:, 0].tolist()


def test_a_short_segment_is_learned_at_the_finest_level_around_its_middle() -> None:
    found = targets(truth((9.0, 15.0, 1)))

    # Middle 12, radius 3: positions at 10, 12, 14 are inside; 9 and 15 are none. The farther end is at most 5 away,
    # which the finest level has (up to 8); the middle one begins at 8.
    assert positives(found) == [5, 6, 7]
    assert found.classes[0, 6].tolist() == [0.0, 1.0, 0.0]
    assert found.segments_frames[0, 6].tolist() == [9.0, 15.0]


def test_both_bounds_of_a_levels_range_are_included() -> None:
    found = targets(truth((4.0, 20.0, 0)))

    # Middle 12; on the finest level only 12 is at most 8 from both ends, and on the next, which begins at 8, 8 and 12
    # and 16 are inside the radius of 6 and at most 16 from the farther end; on the coarsest (from 16) none is.
    assert positives(found) == [6, STEPS + 2, STEPS + 3, STEPS + 4]


def test_a_long_segment_is_learned_at_the_coarsest_level_without_limit() -> None:
    found = targets(truth((-400.0, 432.0, 2)))

    assert positives(found) == [24 + 1, 24 + 2, 24 + 3]  # at 8, 16, 24, inside of 12 around the middle, 16


def test_the_shortest_of_several_segments_is_learned() -> None:
    found = targets(truth((8.0, 16.0, 0), (10.0, 14.0, 1)))

    assert found.segments_frames[0, 6].tolist() == [10.0, 14.0]
    assert found.classes[0, 6].tolist() == [0.0, 1.0, 0.0]


def test_segments_of_one_length_teach_both_classes_and_the_first_ones_ends() -> None:
    found = targets(truth((9.0, 15.0, 2), (9.0, 15.0, 0), (9.0, 15.0, 2)))

    assert found.classes[0, 6].tolist() == [1.0, 0.0, 1.0]
    assert positives(found) == [5, 6, 7]


def test_a_window_without_segments_teaches_background() -> None:
    found = targets(truth())

    assert found.classes.shape == (1, 28, 3)
    assert not found.classes.any()
    assert not found.is_positive.any()


def test_a_batch_is_its_windows_one_by_one() -> None:
    first, second = [(9.0, 15.0, 1), (4.0, 20.0, 0)], [(2.0, 30.0, 2)]
    both = Truth.stack(
        [torch.tensor([row[:2] for row in rows]) for rows in (first, second)],
        [torch.tensor([row[2] for row in rows]) for rows in (first, second)],
    )

    found = targets(both)

    for index, rows in enumerate((first, second)):
        alone = targets(truth(*rows))
        assert torch.equal(found.classes[index], alone.classes[0])
        assert torch.equal(found.segments_frames[index], alone.segments_frames[0])


@given(start=st.floats(0, 28), length=st.floats(0.5, 32), radius=st.floats(0.5, 4))
def test_what_a_position_learns_can_be_found_by_a_loop(start: float, length: float, radius: float) -> None:
    segment = (float(np.float32(start)), float(np.float32(start + length)))
    found = targets(truth((*segment, 1)), PointConfig(centre_radius=radius))

    row = 0
    for level, stride in enumerate(STRIDES):
        for step in range(STEPS // 2**level):
            at = float(step * stride)
            middle = (segment[0] + segment[1]) / 2
            inside = max(middle - radius * stride, segment[0]) < at < min(middle + radius * stride, segment[1])
            farther = max(at - segment[0], segment[1] - at)
            low, high = (0 if level == 0 else 2 * stride), (math.inf if level == 2 else 4 * stride)
            near = any(
                abs(value) < 1e-3 for value in (farther - low, farther - high, abs(at - middle) - radius * stride)
            )
            near = near or min(abs(at - segment[0]), abs(at - segment[1])) < 1e-3
            assert near or bool(found.is_positive[0, row]) == (inside and low <= farther <= high)
            row += 1


def outputs(logits: Tensor, distances: Tensor, is_real: Tensor | None = None) -> PointOutputs:
    return PointOutputs(logits, distances, torch.ones(logits.shape[:2]).bool() if is_real is None else is_real)


def test_the_losses_of_one_position_are_those_worked_out_by_hand() -> None:
    wanted = targets(truth((9.0, 15.0, 1)))
    logits = torch.full((1, 28, 3), -50.0)
    logits[0, 6] = 0.0  # scores of one half
    logits[0, 5, 1] = logits[0, 7, 1] = 50.0
    distances = torch.zeros(1, 28, 2)
    distances[0, 5], distances[0, 7] = torch.tensor([0.5, 2.5]), torch.tensor([2.5, 0.5])
    distances[0, 6] = torch.tensor([1.5, 3.0])  # 9 to 18 where 9 to 15 is right

    found = point_losses(outputs(logits, distances), wanted, steps=STEPS, level_strides=STRIDES)

    focal = (0.25 + 2 * 0.75) * 0.5**2 * math.log(2)
    assert found.classification.item() == pytest.approx(focal / 3, rel=1e-4)
    diou = 1 - 6 / 9 + 1.5**2 / 9**2
    assert found.segment.item() == pytest.approx(diou / 3, rel=1e-4)


def test_positions_behind_the_video_have_no_loss() -> None:
    wanted = targets(truth((9.0, 15.0, 1)))
    is_real = torch.ones(1, 28).bool()
    is_real[0, 10:16] = False
    logits, distances = torch.zeros(1, 28, 3), torch.ones(1, 28, 2)
    wild = logits.clone()
    wild[0, 10:16] = 30.0

    here, there = (
        point_losses(outputs(value, distances, is_real), wanted, steps=STEPS, level_strides=STRIDES)
        for value in (logits, wild)
    )

    assert torch.equal(here.classification, there.classification)


def test_gradients_are_finite_where_nothing_is_learned() -> None:
    logits, distances = torch.zeros(1, 28, 3, requires_grad=True), torch.zeros(1, 28, 2, requires_grad=True)

    found = point_losses(outputs(logits, distances), targets(truth()), steps=STEPS, level_strides=STRIDES)
    (found.classification + found.segment).backward()

    assert found.segment.item() == 0
    assert distances.grad is not None
    assert not distances.grad.any()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_focal_loss_with_one_class_is_that_of_the_anchor_head() -> None:
    from tallformer_training.losses import focal_loss  # noqa: PLC0415

    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(50) % 5
    one_hot = torch.nn.functional.one_hot(labels, 5)[:, :4].float()

    torch.testing.assert_close(multi_label_focal(logits, one_hot), focal_loss(logits, labels))


def test_a_perfect_answer_decodes_to_the_truth() -> None:
    wanted = targets(truth((3.0, 7.5, 0), (9.0, 31.0, 1)))
    centres, strides = point_centres(STEPS, STRIDES)
    goal = wanted.segments_frames[0]
    distances = torch.stack([centres - goal[:, 0], goal[:, 1] - centres], dim=-1) / strides[:, None]

    found = point_segments(centres, strides, distances[None])[0]

    torch.testing.assert_close(found[wanted.is_positive[0]], goal[wanted.is_positive[0]])
    assert bool((distances[wanted.is_positive[0]] >= 0).all())


def test_what_losses_are_divided_by_follows_slowly() -> None:
    head = PointHead(8, PointHeadConfig(kind="points"), classes=2, levels=3)

    assert head.follow(20, momentum=0.9) == pytest.approx(92.0)
    assert head.follow(20, momentum=0.9) == pytest.approx(84.8)
    assert head.state_dict()["loss_normaliser"].item() == pytest.approx(84.8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"farthest": 0.0}, "farthest=0.0, centre_radius=1.5 must be above 0"),
        ({"normaliser_momentum": 1.0}, r"normaliser_momentum=1.0 must be in \[0, 1\)"),
        ({"segment_weight": -1.0}, "segment_weight=-1.0 must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PointConfig(**change)


LEARNS: Recipe = replace(
    WHOLE,
    name="points",
    model=replace(
        CLIPS.model,
        backbone=WHOLE.model.backbone,
        pyramid=PyramidConfig(
            kind="transformer", levels=6, heads=4, attention_steps=(), fpn_channels=32, drop_path=0.0
        ),
    ),
    suppress=SuppressConfig(method="soft_gaussian", sigma=0.7, score_threshold=0.001, max_per_video=200),
)
LEARNED, UNTRAINED = 0.2, 0.1
"""Least mAP (tIoU 0.5 to 0.95) after training, and most before; after twice as many epochs 0.59 was seen."""
SHORT = replace(LEARNING, epochs=13, schedule=replace(LEARNING.schedule, period_epochs=13))


def test_a_detector_with_points_learns_from_nothing_with_a_long_memory(tmp_path: Path) -> None:
    training = make_videos(tmp_path / "training", count=16, seed=1)
    validation = make_videos(tmp_path / "validation", count=8, seed=2)
    job = TrainingJob(
        recipe=LEARNS, config=SHORT, training=training, validation=validation, out=tmp_path / "run", quiet=True
    )
    material = prepare(job, Processes(), make_speaker(quiet=True))[1]
    assert material is not None
    untrained = make_detector(job, Processes(), make_speaker(quiet=True)).state_dict()

    result = train(job, Processes())

    before = measure(LEARNS, untrained, material, Processes())["average_map"]
    state = load_detector(result.model)[0].state_dict()
    trained = measure(LEARNS, state, material, Processes())["average_map"]
    assert all(np.isfinite(line["loss"]) for line in read_metrics(job.out) if line["kind"] == "step")
    assert state["head.loss_normaliser"] != 100
    assert before < UNTRAINED, before
    assert trained > LEARNED, trained


def test_recipes_with_points_are_trained_with_opentads_settings() -> None:
    whole, clips = (settings_of(preset(name)) for name in ("thumos14-opentad-swin-t", "thumos14-swin-t-actionformer"))

    assert whole.ratio == 1
    assert 0 < clips.ratio < 1
    assert whole.optimiser.kind == "adamw"
    assert whole.optimiser.base_lr * whole.optimiser.encoder_factor == pytest.approx(1e-5)
    clips.require_fit(preset("thumos14-swin-b-actionformer"))
    whole.require_fit(preset("thumos14-opentad-swin-t"))
