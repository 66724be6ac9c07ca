"""What a training step keeps for the backward pass, and what encoding few clips saves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.bench_training import MOST_BYTES, MOST_TIME, Trial, measure_ratios
from benchmarks.measure import read_results
from benchmarks.training_step import SavedActivations, StepTrial
from tallformer_infer.config import Recipe, TcmConfig, WindowConfig
from tallformer_training.loop import TrainingConfig
from tests.small_detector import SMALL

TWENTY: Recipe = replace(
    SMALL,
    model=replace(SMALL.model, tcm=TcmConfig(layers=2, heads=4, max_steps=40)),
    window=WindowConfig(window_frames=320, clip_frames=16),
)
"""Windows of 20 clips, of which r = 0.15 encodes 3."""
CONFIG = TrainingConfig(batch_windows=2)
FLOAT_BYTES = 4

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_storage_that_is_kept_twice_counts_once() -> None:
    x = torch.ones(10, requires_grad=True)
    with SavedActivations([]) as saved:
        y = x.exp()  # keeps its result
        _ = y * y  # keeps it twice more

    assert saved.peak_bytes == 10 * FLOAT_BYTES


def test_a_part_of_a_storage_counts_as_the_whole() -> None:
    x = torch.ones(10, requires_grad=True)
    with SavedActivations([]) as saved:
        _ = (x * 1)[:3].pow(2)

    assert saved.peak_bytes == 10 * FLOAT_BYTES


def test_weights_do_not_count() -> None:
    linear = torch.nn.Linear(5, 7)
    with SavedActivations(linear.parameters()) as saved:
        _ = linear(torch.ones(3, 5))  # keeps its input and its weight

    assert saved.peak_bytes == 3 * 5 * FLOAT_BYTES


def test_two_backward_passes_count_as_the_larger_one() -> None:
    x = torch.ones(10, requires_grad=True)
    with SavedActivations([]) as saved:
        for size in (4, 10, 6):
            x[:size].exp().sum().backward()

    assert saved.peak_bytes == 10 * FLOAT_BYTES


def test_gradients_are_the_same_when_counted() -> None:
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    x.exp().square().sum().backward()
    assert x.grad is not None
    expected, x.grad = x.grad.clone(), None
    with SavedActivations([]):
        x.exp().square().sum().backward()

    assert torch.equal(x.grad, expected)


def test_three_of_twenty_clips_keep_at_most_a_fifth(tmp_path: Path) -> None:
    with StepTrial(TWENTY, CONFIG, tmp_path) as trial:
        kept = {ratio: trial.saved_bytes(ratio) for ratio in (0.0, 0.15, 1.0)}

    assert kept[0.15] <= MOST_BYTES * kept[1.0]
    assert kept[0.15] > 0.15 * (kept[1.0] - kept[0.0])  # and not less than three twentieths of the encoder's
    assert kept[0.0] < kept[0.15]


def test_computing_blocks_twice_keeps_less(tmp_path: Path) -> None:
    kept = {}
    for is_twice in (False, True):
        config = replace(CONFIG, checkpointing=is_twice)
        with StepTrial(SMALL, config, tmp_path / str(is_twice)) as trial:
            kept[is_twice] = trial.saved_bytes(1.0)

    assert kept[True] < 0.5 * kept[False]


def test_every_ratio_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure_ratios(Trial(recipe=SMALL, config=CONFIG, rounds=2), (0.0, 0.5, 1.0))

    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    facts = [line["inputs"] for line in lines]
    assert [(fact["ratio"], fact["clips_encoded"], fact["clips"]) for fact in facts] == [
        (0.0, 0, 4),
        (0.5, 2, 4),
        (1.0, 4, 4),
    ]
    assert [fact["saved_bytes"] for fact in facts] == [found[ratio][0] for ratio in (0.0, 0.5, 1.0)]
    assert facts[-1]["saved_part"] == facts[-1]["step_part"] == 1.0
    assert all(line["repeats"] == 2 and line["median_s"] > 0 for line in lines)


def test_the_committed_measurement_is_within_what_is_wanted() -> None:
    lines = [line["inputs"] for line in read_results("training")]
    at_few = [line for line in lines if line["ratio"] == 0.15]

    assert at_few
    for line in at_few:
        assert line["saved_part"] <= MOST_BYTES, line["recipe"]
        assert line["step_part"] <= MOST_TIME, line["recipe"]
