"""What only a CUDA device can show. Off by default: pytest -m gpu."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallformer_infer.pipeline import Detector
from tallformer_infer.structures import Candidates
from tests.videos import textured_pictures, write_video

pytestmark = pytest.mark.gpu

FEATURE_TOLERANCE = 5e-3
"""Relative to the largest feature: CUDA multiplies in TF32 by default, with 10 bits of mantissa."""


@pytest.fixture(scope="module")
def detectors() -> tuple[Detector, Detector]:
    return Detector.load(device="cpu"), Detector.load(device="cuda")


def test_auto_takes_cuda() -> None:
    detector = Detector.load(device="auto")

    assert detector.device == "cuda"
    assert detector.runtime.device_reason


def test_features_on_cuda_equal_those_on_the_cpu(detectors: tuple[Detector, Detector]) -> None:
    cpu, cuda = detectors
    recipe = cpu.bundle.recipe
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    clips = np.random.default_rng(0).integers(0, 256, (5, frames, side, side, 3), dtype=np.uint8)
    real = np.array([frames, 1, 7, frames, 0], np.int64)

    here, there = cpu.runtime.encode(clips, real), cuda.runtime.encode(clips, real)

    np.testing.assert_allclose(there, here, atol=FEATURE_TOLERANCE * float(np.abs(here).max()), rtol=0)


def test_suppression_on_cuda_equals_that_on_the_cpu(detectors: tuple[Detector, Detector]) -> None:
    random = np.random.default_rng(0)
    starts = random.uniform(0, 3000, (5000, 1))
    segments = np.concatenate([starts, starts + random.uniform(1, 400, (5000, 1))], axis=1).astype(np.float32)
    scores = (random.permutation(5000) / 5000 * 0.9 + 0.05).astype(np.float32)
    candidates = Candidates(segments, scores, random.integers(0, 8, 5000))

    here, there = (detector.runtime.suppress(candidates) for detector in detectors)

    np.testing.assert_array_equal(there.classes, here.classes)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-6)
    np.testing.assert_allclose(there.segments_frames, here.segments_frames, atol=1e-2)


def test_a_video_gives_the_same_number_of_windows_on_both(detectors: tuple[Detector, Detector], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", textured_pictures(600, height_px=96, width_px=96), fps=15)

    results = [detector.detect(path) for detector in detectors]

    assert results[0].frame_count == results[1].frame_count == 600
    assert results[1].provenance.device == "cuda"
    assert results[1].actions
