"""From a video file to actions.json, number for number like the official code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_infer.bundle import load_bundle
from tallformer_infer.cli import run
from tallformer_infer.config import to_json
from tallformer_infer.config.presets import THUMOS14_CLASSES
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Cancellation
from tests.model_golden import tiny_recipe
from tests.videos import write_video

SEGMENT_TOLERANCE_FRAMES = 1e-2
SCORE_TOLERANCE = 1e-4
SAMPLE_FPS = 15


def run_tallformer(*arguments: str | Path) -> int:
    """Exit code of the command line."""
    return run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def official_bundle(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official tiny checkpoint, imported and exported by the command line."""
    folder = tmp_path_factory.mktemp("official")
    with np.load(golden / "thumos_tiny_weights.npz") as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    torch.save({"state_dict": state}, folder / "official.pth")
    (folder / "recipe.json").write_text(json.dumps(to_json(tiny_recipe(golden, crop_px=64))))

    assert (
        run_tallformer(
            "import", folder / "official.pth", "--recipe", folder / "recipe.json", "--out", folder / "m.safetensors"
        )
        == 0
    )
    assert (
        run_tallformer("export", folder / "m.safetensors", "--out", folder / "bundle", "--licence", "Apache-2.0") == 0
    )
    return folder / "bundle"


@pytest.fixture(scope="module")
def official_video(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official test video, without loss."""
    with np.load(golden / "thumos_tiny_64x64.npz") as arrays:
        frames = arrays["frames_rgb"]
    return write_video(tmp_path_factory.mktemp("video") / "official.mkv", frames, fps=SAMPLE_FPS, codec="ffv1")


def test_the_exported_official_checkpoint_is_torch_s_equal(official_bundle: Path) -> None:
    parity = load_bundle(official_bundle).parity

    assert parity is not None
    assert parity.beyond == ()
    assert parity.differences["actions.unmatched"].worst == 0
    assert parity.actions.matched == parity.actions.in_torch > 100


def test_a_video_gives_the_official_detections(
    golden: Path, official_bundle: Path, official_video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "actions.json"
    code = run_tallformer("detect", official_video, "--model", official_bundle, "--windows", "reference", "--out", out)

    assert code == 0
    found = json.loads(out.read_text())["videos"][0]["actions"]
    with np.load(golden / "thumos_tiny_64x64.npz") as arrays:
        expected, labels = arrays["aug_det"], arrays["aug_det_label"]
    assert_same_detections(found, expected, labels)


def assert_same_detections(found: list[dict], expected: np.ndarray, labels: np.ndarray) -> None:
    """Same labels, and each segment and score within tolerance, compared in the order of class and falling score."""
    names = THUMOS14_CLASSES
    rows = sorted(found, key=lambda action: (names.index(action["label"]), -action["score"]))
    order = np.lexsort((-expected[:, 2], labels))
    assert [names.index(action["label"]) for action in rows] == labels[order].tolist()
    np.testing.assert_allclose([action["score"] for action in rows], expected[order, 2], atol=SCORE_TOLERANCE, rtol=0)
    segments = np.array([action["segment"] for action in rows]) * SAMPLE_FPS
    apart = np.abs(segments - expected[order, :2]).max(axis=1)
    # Scores closer to each other than the tolerance may change places: such rows look for their partner nearby.
    for row in np.flatnonzero(apart > SEGMENT_TOLERANCE_FRAMES):
        near = (np.abs(expected[:, 2] - rows[row]["score"]) < SCORE_TOLERANCE) & (labels == labels[order][row])
        assert np.abs(expected[near, :2] - segments[row]).max(axis=1).min() <= SEGMENT_TOLERANCE_FRAMES


def test_every_clip_is_encoded_once_unless_windows_are_laid_as_the_official_code_does(
    official_bundle: Path, official_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector.load(official_bundle, device="cpu", threads=1)
    encoded: list[int] = []
    encode = detector.runtime.encode

    def counting(clips: np.ndarray, real_frames: np.ndarray, cancellation: Cancellation) -> np.ndarray:
        encoded.append(len(clips))
        return encode(clips, real_frames, cancellation)

    monkeypatch.setattr(detector.runtime, "encode", counting)
    detector.detect(official_video)
    shared = sum(encoded)
    detector.detect(official_video, windows="reference")

    assert shared == 5  # 150 frames, the last clip partly empty
    assert sum(encoded) - shared == 6  # two windows of three clips
