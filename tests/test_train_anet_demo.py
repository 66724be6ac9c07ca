"""The script that trains the small model of whole videos, on a handful of short ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.tables import demo_rows
from benchmarks.train_demo import ANET_DEMO, DemoTraining, parse_options, run
from tallformer_infer.config import RefinedHeadConfig, preset
from tallformer_infer.evaluation import protocol_named
from tallformer_training.loop.config import EncoderStageConfig
from tallformer_training.model import Detector

pytestmark = pytest.mark.usefixtures("one_thread")


def in_little(demo: DemoTraining) -> DemoTraining:
    """The same with two videos of 6 s in each set, and a few steps."""
    sets = {name: replace(getattr(demo, name), videos=2, minutes=0.1) for name in ("training", "validation", "testing")}
    config = replace(
        demo.config,
        epochs=1,
        batch_windows=2,
        encoder_stage=EncoderStageConfig(steps=2, batch_clips=2),
        checkpoint_every_steps=1,
    )
    return replace(demo, config=config, **sets)


def test_the_recipe_sees_whole_videos_and_is_small() -> None:
    recipe = preset("anet-demo")

    assert recipe.classes == preset("demo").classes
    assert isinstance(recipe.model.head, RefinedHeadConfig)
    assert (recipe.sampling.most_frames, recipe.sampling.fill) == (recipe.window.window_frames, "black")
    assert recipe.suppress == preset("anet-swin-b").suppress
    parameters = sum(weight.numel() for weight in Detector(recipe).parameters())
    assert 4 * parameters < 12e6


def test_training_goes_on_where_it_stopped_and_ends_with_figures(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--result", str(tmp_path / "result.jsonl"), "--jobs", "1"]
    demo = in_little(ANET_DEMO)

    sessions = 0
    while not (tmp_path / "result.jsonl").exists():
        run(demo, parse_options([*arguments, "--minutes", "0"]))
        sessions += 1
        assert sessions < 10

    (line,) = (tmp_path / "result.jsonl").read_text().splitlines()
    figures = json.loads(line)
    assert sessions == 3  # each does one step
    assert figures["name"] == "train_anet_demo"
    assert figures["steps"] == {"encoder_stage": 2, "detector": 1}
    assert len(figures["test"]["map_per_tiou"]) == 10
    assert figures["videos"] == {"training": 2, "validation": 2, "testing": 2}
    assert set(figures["minutes"]) == {"encoder_stage", "first_memory", "detector", "validation"}
    table = demo_rows(figures, protocol_named("activitynet"))
    assert table.startswith("| tIoU | 0.5 | 0.55 |")
    assert "on 1 core" in table
