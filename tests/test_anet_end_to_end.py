"""From video files to actions with the ActivityNet model, through import, export and detect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_infer.bundle import load_bundle
from tallformer_infer.cli import run
from tallformer_infer.config import to_json
from tests import anet_golden as g
from tests.model_golden import official_weights
from tests.videos import write_video


def run_tallformer(*arguments: str | Path) -> int:
    """Exit code of the command line."""
    return run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official tiny checkpoint, imported and exported by the command line."""
    folder = tmp_path_factory.mktemp("anet")
    torch.save(official_weights(golden, "anet_tiny_weights.npz"), folder / "checkpoint-10.ckpt")
    (folder / "recipe.json").write_text(json.dumps(to_json(g.tiny_recipe(golden))))
    weights = folder / "m.safetensors"

    assert (
        run_tallformer("import", folder / "checkpoint-10.ckpt", "--recipe", folder / "recipe.json", "-o", weights) == 0
    )
    assert run_tallformer("export", weights, "--out", folder / "bundle", "--licence", "Apache-2.0") == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def videos(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three fake videos as files; of the long one the first 768 frames, all that the official code sees."""
    folder = tmp_path_factory.mktemp("videos")
    info = g.official_config(golden)["video_info"]
    return {
        name: write_video(
            folder / f"{name}.mkv",
            g.arrays(golden, "anet_tiny_videos.npz", f"{name}/")["frames_rgb"][:768],
            fps=info[name]["fps"],
            codec="ffv1",
        )
        for name in info
    }


def test_the_exported_graphs_are_torch_s_equal(bundle: Path) -> None:
    parity = load_bundle(bundle).parity

    assert parity is not None
    assert parity.beyond == ()
    assert {"localizer.proposal_segments", "localizer.proposal_scores", "localizer.class_scores"} <= set(
        parity.differences
    )


@pytest.mark.parametrize("classifier", ["builtin", "cuhk", "gt"])
def test_video_files_give_the_official_detections(
    golden: Path, bundle: Path, videos: dict[str, Path], tmp_path: Path, classifier: str
) -> None:
    out = tmp_path / "actions.json"
    scores = ["--class-scores", g.class_score_file(golden, tmp_path, classifier)] if classifier != "builtin" else []

    code = run_tallformer(
        "detect", *videos.values(), "--model", bundle, "--windows", "reference", *scores, "--out", out
    )

    assert code == 0
    official = json.loads((golden / "anet_tiny_detections.json").read_text())[classifier]["results"]
    for video in json.loads(out.read_text())["videos"]:
        found = [(action["label"], *action["segment"], action["score"]) for action in video["actions"]]
        g.assert_same_actions(found, official[Path(video["path"]).stem.removeprefix("v_")])


def test_by_default_the_same_segments_come_without_the_official_faults(
    golden: Path, bundle: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "actions.json"

    assert run_tallformer("detect", videos["v_full"], "--model", bundle, "--out", out) == 0

    document = json.loads(out.read_text())
    video = document["videos"][0]
    assert (video["frame_count"], video["sample_fps"]) == (768, 12.8)
    official = json.loads((golden / "anet_tiny_detections.json").read_text())["builtin"]["results"]["full"]
    assert len(video["actions"]) == len(official) + 2  # the proposal that is never taken, in two classes
    ours = np.array([(*action["segment"], action["score"]) for action in video["actions"]])
    theirs = np.array([(*row["segment"], row["score"]) for row in official])
    assert np.abs(ours[:, None] - theirs[None]).max(axis=2).min(axis=0).max() < 1e-3


def test_windows_of_some_seconds_cover_a_long_file(bundle: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "actions.json"

    assert run_tallformer("detect", videos["v_short"], "--model", bundle, "--windows", "30", "-o", out) == 0

    document = json.loads(out.read_text())
    assert document["settings"]["window_s"] == 30
    assert document["videos"][0]["frame_count"] == 500  # its own rate, as 30 s have 150 frames
    ends = np.array([action["segment"][1] for action in document["videos"][0]["actions"]])
    assert ends.max() <= 100
