"""Clips of frames: the same from the cache and from the video, and a cache that is whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import ConfigError, OutputError
from tallformer_infer.files import file_sha256
from tallformer_infer.media import open_video
from tallformer_training.datasets import DecodedFrames, FrameCache, FrameSource, TrainingVideo
from tests.videos import write_video

SAMPLING = SamplingConfig(sample_fps=10, resize_px=40, crop_px=32)
FRAMES = 50


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    pictures = list(generator.integers(0, 256, (FRAMES, 40, 40, 3), np.uint8))
    return write_video(tmp_path_factory.mktemp("video") / "a.mkv", pictures, fps=10, codec="ffv1")


@pytest.fixture(params=["cache", "decoder"])
def source(request: pytest.FixtureRequest, tmp_path: Path, video: Path) -> FrameSource:
    if request.param == "decoder":
        return DecodedFrames(SAMPLING)
    cache = FrameCache(tmp_path / "cache", SAMPLING)
    cache.add(video)
    return cache


def everything(video: Path) -> np.ndarray:
    with open_video(video, SamplingConfig(sample_fps=10, resize_px=40, crop_px=40)) as stream:
        return np.stack(list(stream))


def test_clips_are_the_frames_of_the_video_and_zero_beyond_it(source: FrameSource, video: Path) -> None:
    frames = everything(video)
    padded = np.zeros((16 + FRAMES + 16, 40, 40, 3), np.uint8)
    padded[16 : 16 + FRAMES] = frames
    starts = [7, 0, -4, FRAMES - 3, FRAMES + 1, -9, 7]

    clips = source.read_clips(video, starts, 8)

    assert len(frames) == FRAMES
    np.testing.assert_array_equal(clips, np.stack([padded[16 + start : 24 + start] for start in starts]))


@pytest.mark.parametrize("starts", [[], [-20]])
def test_nothing_is_read_where_there_is_nothing(source: FrameSource, video: Path, starts: list[int]) -> None:
    clips = source.read_clips(video, starts, 8)

    assert clips.shape == (len(starts), 8, 40, 40, 3)
    assert not clips.any()


def test_frames_are_counted_alike(tmp_path: Path, video: Path) -> None:
    assert FrameCache(tmp_path, SAMPLING).add(video) == DecodedFrames(SAMPLING).count_frames(video) == FRAMES


def test_a_video_is_decoded_once(tmp_path: Path, video: Path) -> None:
    decoded: list[None] = []
    for _ in range(2):
        FrameCache(tmp_path, SAMPLING).add(video, on_frame=lambda: decoded.append(None))

    assert len(decoded) == FRAMES


def test_a_changed_video_or_another_rate_is_decoded_anew(tmp_path: Path, video: Path) -> None:
    copy = tmp_path / "a.mkv"
    copy.write_bytes(video.read_bytes())
    FrameCache(tmp_path / "cache", SAMPLING).add(copy)
    os.utime(copy, ns=(1, 1))

    for sampling in (SAMPLING, SamplingConfig(sample_fps=5, resize_px=40, crop_px=32)):
        decoded: list[None] = []
        FrameCache(tmp_path / "cache", sampling).add(copy, on_frame=lambda seen=decoded: seen.append(None))
        assert decoded


def test_frames_without_their_entry_are_no_frames(tmp_path: Path, video: Path) -> None:
    FrameCache(tmp_path, SAMPLING).add(video)
    (entry,) = tmp_path.glob("*.json")
    for content in ("", '{"frames": 50}', '{"frames": 49, "side_px": 40, "sha256": ""}'):
        entry.write_text(content)
        decoded: list[None] = []
        FrameCache(tmp_path, SAMPLING).add(video, on_frame=lambda seen=decoded: seen.append(None))
        assert len(decoded) == FRAMES


def test_damaged_frames_are_found_and_remade(tmp_path: Path, video: Path) -> None:
    cache = FrameCache(tmp_path, SAMPLING)
    cache.add(video)
    cache.verify(video)
    (frames,) = tmp_path.glob("*.rgb")
    content = bytearray(frames.read_bytes())
    content[1000] ^= 1
    frames.write_bytes(content)

    with pytest.raises(OutputError, match="damaged, and removed from the cache; start the run again to add it again"):
        cache.verify(video)
    cache.add(video)
    cache.verify(video)


def test_frames_are_hashed_once_and_again_only_where_their_file_changed(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FrameCache(tmp_path, SAMPLING).add(video)
    hashed: list[Path] = []

    def hashing(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr("tallformer_training.datasets.frames.file_sha256", hashing)

    def start() -> int:
        cache = FrameCache(tmp_path, SAMPLING)
        cache.add(video)
        cache.verify(video)
        return len(hashed)

    assert start() == start() == 0
    (frames,) = tmp_path.glob("*.rgb")
    os.utime(frames)  # a copy of the cache has another time
    assert (start(), start()) == (1, 1)


def test_a_cache_of_before_there_was_a_time_is_hashed_once(tmp_path: Path, video: Path) -> None:
    FrameCache(tmp_path, SAMPLING).add(video)
    (entry,) = tmp_path.glob("*.json")
    known = json.loads(entry.read_text())
    del known["mtime_ns"]
    entry.write_text(json.dumps(known))

    cache = FrameCache(tmp_path, SAMPLING)
    cache.add(video)
    cache.verify(video)

    (frames,) = tmp_path.glob("*.rgb")
    assert json.loads(entry.read_text()) == {**known, "mtime_ns": frames.stat().st_mtime_ns}


def test_the_size_is_estimated_and_a_full_disk_is_told_before(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = np.zeros((0, 2))
    labelled = TrainingVideo("a", video, 0.0, 5.0, none, np.zeros(0, np.int64))
    cache = FrameCache(tmp_path, SAMPLING)
    assert cache.estimated_bytes([labelled]) == 5 * 10 * 40 * 40 * 3
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 1000}))

    with pytest.raises(ConfigError, match=r"need about 0\.0 GB, 0\.0 GB are free; choose another folder"):
        cache.require_space([labelled])
    cache.add(video)
    assert cache.estimated_bytes([labelled]) == 0
    cache.require_space([labelled])


@pytest.mark.parametrize(("resize", "side"), [("short_side", 40), ("none", 32)])
def test_stored_pictures_are_squares(tmp_path: Path, resize: str, side: int) -> None:
    wide = write_video(tmp_path / "wide.mkv", [np.zeros((48, 96, 3), np.uint8)] * 5, fps=10, codec="ffv1")
    cache = FrameCache(tmp_path / "cache", SamplingConfig(sample_fps=10, resize=resize, resize_px=40, crop_px=32))
    cache.add(wide)

    assert cache.read_clips(wide, [0], 2).shape == (1, 2, side, side, 3)
