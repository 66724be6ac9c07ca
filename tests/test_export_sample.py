"""The video that an export is compared on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_export.exporting import ExportOptions, export_random
from tallformer_export.sample import generated_frames, sample_video
from tallformer_infer.config import Recipe, SamplingConfig, preset
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video
from tallformer_training.model import Detector
from tests.small_detector import SMALL, build
from tests.videos import textured_pictures, write_video


def recipe_with(**sampling: object) -> Recipe:
    return dataclasses.replace(SMALL, sampling=SamplingConfig(**sampling))  # type: ignore[arg-type]


def pictures_of(path: Path, sampling: SamplingConfig) -> Iterator[np.ndarray]:
    with open_video(path, sampling, threads=1) as stream:
        yield from stream


@pytest.mark.parametrize(
    "recipe",
    [
        recipe_with(resize_px=40, crop_px=32),
        recipe_with(resize="short_side", resize_px=40, crop_px=34),
        recipe_with(resize="none", crop_px=31, sample_fps=7.5),
    ],
)
def test_a_user_s_video_is_compared_on_as_detect_would_see_it(recipe: Recipe, tmp_path: Path) -> None:
    video = write_video(tmp_path / "mine.mp4", textured_pictures(60, height_px=48, width_px=64), fps=15)

    with sample_video(build(recipe), video) as sample:
        seen = list(pictures_of(sample.path, recipe.sampling))

    expected = list(pictures_of(video, recipe.sampling))
    assert sample.told.source == "mine.mp4"
    assert sample.told.sha256 is not None
    assert sample.told.frames == len(seen) == len(expected)
    np.testing.assert_array_equal(np.stack(seen), np.stack(expected))


def test_only_two_windows_of_a_long_video_are_taken(tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mp4", textured_pictures(150, height_px=32, width_px=32), fps=15)

    with sample_video(build(), video) as sample:
        assert sample.told.frames == 48 + 64


@pytest.mark.parametrize("recipe", [SMALL, recipe_with(resize_px=9, crop_px=7, sample_fps=0.5)])
def test_the_generated_video_is_always_the_same_and_as_long_as_told(recipe: Recipe) -> None:
    detector = build(recipe)
    videos = []
    for _ in range(2):
        with sample_video(detector) as sample:
            videos.append(np.stack(list(pictures_of(sample.path, recipe.sampling))))

    assert len(videos[0]) == sample.told.frames == generated_frames(detector) == 120
    assert np.ptp(videos[0]) > 0
    np.testing.assert_array_equal(*videos)
    assert not sample.path.exists()


@pytest.mark.parametrize(
    ("name", "clips"), [("tiny", 7.5), ("demo", 7.5), ("thumos14-swin-b", 1.5), ("thumos14-opentad-swin-t", 0.5)]
)
def test_large_models_are_compared_on_fewer_clips(name: str, clips: float) -> None:
    with torch.device("meta"):
        detector = Detector(preset(name))

    assert generated_frames(detector) == clips * preset(name).window.clip_frames


def test_a_sample_that_is_no_video_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    steps: list[str] = []

    for path, message in ((tmp_path / "notes.txt", "cannot be opened as video"), (tmp_path, "expected a video file")):
        with pytest.raises(MediaError, match=message):
            export_random(SMALL, tmp_path / "out", options=ExportOptions(sample=path), on_step=steps.append)
    assert steps == []
