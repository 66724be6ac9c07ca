"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallformer_infer.evaluation import protocol_named
from tallformer_training.loop.record import draw_curves

LINES = [
    {
        "kind": "step",
        "step": step,
        "classification_loss": 1 / step,
        "segment_loss": 2 / step,
        "learning_rate": 0.1,
        "memory_age_mean_steps": step,
    }
    for step in range(1, 9)
] + [{"kind": "validation", "step": 8, "average_map": 0.5}]


def test_the_picture_names_the_overlaps_of_the_protocol(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = {}
    for name in ("thumos14", "activitynet"):
        (tmp_path / name).mkdir()
        path = draw_curves(tmp_path / name, LINES, protocol_named(name))
        assert path is not None
        pictures[name] = path.read_bytes()

    assert pictures["thumos14"] != pictures["activitynet"]  # nothing but the title differs


def test_a_run_without_a_step_has_no_picture(tmp_path: Path) -> None:
    assert draw_curves(tmp_path, [], protocol_named("thumos14")) is None
