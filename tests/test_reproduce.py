"""The commands of docs/reproduce.md, run on stand-ins of the data sets; and the numbers that stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.full_size import PAPER_GB, STEPS, WINDOWS, encoder_gigaflop, training_gigaflop
from tallformer_infer.config import Recipe, TcmConfig, preset, to_json
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.loop import TrainingConfig, read_training_config
from tallformer_training.loop.plan import Planner
from tallformer_training.loop.record import read_metrics
from tests.test_import_backbones import mmaction2, prefixed, torchvision
from tests.training_set import RECIPE
from tests.videos import write_video
from tests.whole_video_set import WHOLE

BIN = Path(sys.executable).parent
FPS = 15

INSTEAD = {
    "--recipe thumos14-swin-b": "--recipe stand-in.json",
    "--recipe anet-swin-b": "--recipe whole.json",
    "--recipe hacs-swin-b": "--recipe whole.json",
    "--nproc-per-node 4": "--nproc-per-node 2",
    '"ratio": 0.15': '"ratio": 0.5',
    '"epochs": 1000': '"epochs": 1',
    '"batch_windows": 4': '"batch_windows": 1',
    "000007800 000009100 000010400 000011700 000013000": "000000002",
}
"""All that is changed in the document's commands: model, processes, and how much is learned."""

STAND_IN: Recipe = replace(
    RECIPE,
    name="stand-in",
    classes=preset("thumos14-swin-b").classes,
    model=replace(
        RECIPE.model,
        tcm=TcmConfig(layers=1, heads=4, max_steps=16),
        pyramid=replace(RECIPE.model.pyramid, levels=2, attention_steps=(3,)),
    ),
)
"""For thumos14-swin-b: its classes, 4 clips of 16 frames per window, 32 px."""

WHOLE_STAND_IN: Recipe = replace(
    WHOLE,
    name="whole-stand-in",
    classes=preset("anet-swin-b").classes,
    model=replace(WHOLE.model, pyramid=replace(WHOLE.model.pyramid, levels=2)),
)
"""For anet-swin-b and hacs-swin-b: their classes, and at most 256 frames of 32 px per video."""

THUMOS_FRAMES: Mapping[str, int] = {
    "val/video_validation_0000051": 150,
    "val/video_validation_0000266": 130,
    "val/video_validation_0000364": 40,
    "val/video_validation_0000411": 90,
    "val/video_validation_0000001": 30,  # not annotated, as most of the set
    "test/video_test_0000004": 120,
    "test/video_test_0000270": 100,
    "test/video_test_0000001": 30,
}
VAL_LINES = {
    "BaseballPitch": "video_validation_0000266  1.2 3.4\nvideo_validation_0000266  4.0 5.5\n",
    "CliffDiving": "video_validation_0000051  0.5 2.0\n",
    "Diving": "video_validation_0000051  0.5 2.0\nvideo_validation_0000364  1.0 30.5\n",  # ends behind the video
    "Ambiguous": "video_validation_0000411  2.0 3.0\n",
}
TEST_LINES = {
    "CricketShot": "video_test_0000004  1.5 2.7\nvideo_test_0000004  3.0 4.5\n",
    "Diving": "video_test_0000270  1.0 4.0\n",
    "Ambiguous": "video_test_0000001  0.2 1.0\n",
}


def blocks(root: Path, title: str) -> list[str]:
    """The shell commands of one chapter."""
    text = (root / "docs" / "reproduce.md").read_text(encoding="utf-8")
    chapter = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", chapter, re.DOTALL | re.M)


def changed(commands: str) -> str:
    for said, done in INSTEAD.items():
        commands = commands.replace(said, done)
    return commands


def run(commands: str, folder: Path) -> str:
    """Run as one shell script that ends at the first failure; returns what was printed."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", changed(commands)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def write_noise(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(frames).integers(0, 256, (frames, 36, 48, 3), np.uint8)
    write_video(path, list(pictures), fps=FPS)


def prepare(folder: Path, backbone: str, tensors: Callable[[], dict[str, Tensor]]) -> None:
    (folder / "stand-in.json").write_text(json.dumps(to_json(STAND_IN)))
    (folder / "whole.json").write_text(json.dumps(to_json(WHOLE_STAND_IN)))
    torch.save({"state_dict": tensors(), "meta": {}}, folder / backbone)


def require_started_from(path: Path, tensors: Callable[[], dict[str, Tensor]]) -> None:
    own = load_checkpoint(path).state
    drawn = next(tensor for name, tensor in tensors().items() if name.endswith("patch_embed.proj.weight"))
    assert torch.equal(own["backbone.patch_embed.proj.weight"], drawn)


def write_activitynet_form(path: Path, videos: Path, suffix: str) -> None:
    """Two videos to learn from, two to measure on; a missing one, one of the test set, a segment without length."""
    database: dict[str, Any] = {}
    for number, (subset, label) in enumerate(
        [("training", "Long jump"), ("training", "Archery"), ("validation", "Long jump"), ("validation", "Archery")]
    ):
        name, frames = f"{'abcd'[number]}-_{number}Xy", 135 + 10 * number
        write_noise(videos / subset / f"v_{name}{suffix}", frames)
        segments = [[0.1 * number, 8 + 0.1 * number], *([[0, 0]] if number == 0 else [])]
        rows = [{"segment": segment, "label": label} for segment in segments]
        database[name] = {"duration": frames / FPS, "subset": subset, "annotations": rows}
    gone = {"segment": [1.0, 9.0], "label": "Archery"}
    database["gone-from-web"] = {"duration": 20.0, "subset": "training", "annotations": [gone]}
    database["held-back"] = {"duration": 20.0, "subset": "testing", "annotations": []}
    path.write_text(json.dumps({"version": "VERSION 1.3", "taxonomy": [], "database": database}))


def test_the_commands_for_thumos14_run_on_its_layout(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path, "swin_base_patch244_window877_kinetics400_22k.pth", mmaction2)
    for name, frames in THUMOS_FRAMES.items():
        write_noise(tmp_path / f"thumos14/videos/{name}.mp4", frames)
    for subset, lines in (("val", VAL_LINES), ("test", TEST_LINES)):
        folder = tmp_path / "thumos14/annotations" / subset
        folder.mkdir(parents=True)
        for label, text in lines.items():
            (folder / f"{label}_{subset}.txt").write_text(text)

    encoder, training, test, without = blocks(root, "THUMOS14")
    run(encoder, tmp_path)
    require_started_from(tmp_path / "thumos14/start.safetensors", mmaction2)
    said = run(training, tmp_path)
    for part in (
        "4 videos, 5 segments of 3 classes",
        "class Ambiguous, left as background: 1",
        "their video, clipped: 1",
    ):
        assert part in said
    assert [line["step"] for line in read_metrics(tmp_path / "thumos14/run") if line["kind"] == "step"] == [1, 2]
    assert "2 videos scored" in run(test, tmp_path)
    predicted = json.loads((tmp_path / "thumos14/actions-000000002.json").read_text())
    assert [Path(video["path"]).stem for video in predicted["videos"]] == ["video_test_0000004", "video_test_0000270"]
    assert predicted["model"]["trained"]
    assert "1 video scored" in run(without, tmp_path)


@pytest.mark.parametrize(
    ("title", "folder", "annotations", "suffix", "tensors"),
    [
        ("ActivityNet-1.3", "activitynet", "activity_net.v1-3.min.json", ".mkv", prefixed),
        ("HACS Segments", "hacs", "HACS_segments_v1.1.1.json", ".mp4", torchvision),
    ],
)
def test_the_commands_for_activitynet_and_hacs_run_on_their_layout(
    root: Path,
    tmp_path: Path,
    title: str,
    folder: str,
    annotations: str,
    suffix: str,
    tensors: Callable[[], dict[str, Tensor]],
) -> None:
    prepare(tmp_path, "swin_base_patch244_window877_kinetics600_22k.pth", tensors)
    (tmp_path / folder).mkdir()
    write_activitynet_form(tmp_path / folder / annotations, tmp_path / folder / "videos", suffix)
    (commands,) = blocks(root, title)

    said = run(commands, tmp_path)

    require_started_from(tmp_path / folder / "start.safetensors", tensors)
    for part in ("segments without length, skipped: 1", "videos without a file: 1", "mAP", "2 videos scored"):
        assert part in said
    results = json.loads((tmp_path / folder / "results.json").read_text())["results"]
    assert len(results) == 2
    labels = {row["label"] for rows in results.values() for row in rows}
    assert labels
    assert labels <= set(WHOLE_STAND_IN.classes)


def test_every_change_to_the_commands_is_needed(root: Path) -> None:
    text = (root / "docs" / "reproduce.md").read_text(encoding="utf-8")

    assert [said for said in INSTEAD if said not in text] == []


def settings_of(root: Path, folder: str, tmp_path: Path) -> TrainingConfig:
    text = (root / "docs" / "reproduce.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^cat > {folder}/settings.json <<'END'\n(.*?)^END\n", text, re.DOTALL | re.M)
    (tmp_path / "settings.json").write_text(found)
    return read_training_config(tmp_path / "settings.json")


def test_the_settings_for_thumos14_are_the_official_ones(root: Path, tmp_path: Path) -> None:
    settings = settings_of(root, "thumos14", tmp_path)

    official = TrainingConfig(
        checkpointing=True, memory_dtype="float32", checkpoint_every_steps=1300, keep_checkpoints=10
    )
    assert settings == official
    settings.require_fit(preset("thumos14-swin-b"))
    planner = Planner(preset("thumos14-swin-b"), settings, {str(i): 3000 for i in range(200)}, processes=4)
    assert planner.steps_per_epoch * settings.epochs == STEPS
    assert planner.steps_per_epoch * 100 == settings.checkpoint_every_steps
    assert settings.batch_windows == WINDOWS
    assert settings.ratio in PAPER_GB


def test_counted_flop_add_up() -> None:
    """563 GFLOP are the published cost of the encoder; computing twice adds the forward pass of what is trained."""
    recipe = preset("thumos14-swin-b")
    whole = replace(recipe, model=replace(recipe.model, backbone=replace(recipe.model.backbone, frozen_stages=-1)))
    forward = encoder_gigaflop(recipe)
    kept, repeated = (training_gigaflop(recipe, checkpointing=repeats)[0] for repeats in (False, True))
    trained = repeated - kept

    assert forward == pytest.approx(563, abs=1)
    assert 0.75 * forward < trained < 0.8 * forward  # stages 3 and 4 of 4
    assert kept == pytest.approx(forward + 2 * trained, rel=0.01)
    # Nothing frozen: backward takes twice the forward pass, but for the gradient of the pixels.
    assert training_gigaflop(whole, checkpointing=False)[0] == pytest.approx(3 * forward, rel=0.01)
