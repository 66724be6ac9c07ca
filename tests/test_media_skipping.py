"""Frames that no picture is taken from are not decoded, and nothing else is different for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import decoding, open_video, probe
from tallformer_infer.media.byte_sources import open_source
from tallformer_infer.media.decoding import LeftOut
from tallformer_infer.structures import VideoInfo
from tests.videos import damage, numbered_pictures, write_video

SIDE_PX = 48
KINDS = {
    "pyramid.mp4": {"codec_options": {"bf": "3", "g": "40"}},
    "short groups.ts": {"codec_options": {"bf": "2", "g": "9", "b-pyramid": "none"}},
    "open groups.mkv": {"codec_options": {"bf": "3", "g": "20", "x264-params": "open-gop=1"}, "start_s": 7.3},
    "many.mov": {"codec_options": {"bf": "8", "g": "80", "preset": "veryfast"}},
    "bare.h264": {"codec_options": {"bf": "3"}},
    "old.avi": {"codec_options": {"bf": "2"}},
    "fields.mp4": {"codec_options": {"bf": "2", "flags": "+ilme+ildct"}},
    "none.mp4": {"codec_options": {"bf": "0"}},
    "uneven.mp4": {"times_s": [index / 30 + 0.011 * (index % 3) for index in range(90)], "codec_options": {"bf": "3"}},
}


@dataclass(frozen=True)
class Reading:
    """All that a reader tells of a video."""

    info: VideoInfo
    frames: list[bytes]
    errors: int
    missing_s: float
    position_s: float


def read(path: Path, rate_fps: float, *, threads: int | None = None) -> Reading:
    sampling = SamplingConfig(sample_fps=rate_fps, resize="squash", resize_px=SIDE_PX, crop_px=SIDE_PX)
    with open_video(path, sampling, threads=threads) as video:
        frames = [frame.tobytes() for frame in video]
        return Reading(video.info, frames, video.decode_errors, video.missing_s, video.position_s)


def read_all(path: Path, rate_fps: float, monkeypatch: pytest.MonkeyPatch) -> Reading:
    """The same with every frame decoded."""
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "SKIPPED_CODECS", frozenset())
        return read(path, rate_fps, threads=1)


def count_left_out(path: Path, rate_fps: int) -> int:
    source = open_source(path)
    decoder = decoding.Decoder(source, str(path), threads=1)
    frames = decoder.frames()
    first = next(frames)
    assert not isinstance(first, LeftOut)
    decoder.skip_unused(first, Fraction(rate_fps))
    count = sum(isinstance(frame, LeftOut) for frame in frames)
    decoder.close()
    source.close()
    return count


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    pictures = list(numbered_pictures(90, noisy=True))
    return {name: write_video(folder / name, pictures, fps=30, **options) for name, options in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rate_fps", [30, 15, 12.5, 4])
def test_pictures_and_counts_are_those_of_decoding_everything(videos, name, rate_fps, monkeypatch):
    expected = read_all(videos[name], rate_fps, monkeypatch)

    assert read(videos[name], rate_fps, threads=1) == expected
    assert read(videos[name], rate_fps) == expected


def test_real_files_give_what_decoding_everything_gives(shared_videos, monkeypatch):
    damaged = []
    for path in sorted(shared_videos.iterdir()):
        try:
            if probe(path).codec not in decoding.SKIPPED_CODECS:
                continue
        except MediaError:
            continue
        expected = read_all(path, 5, monkeypatch)
        found = read(path, 5, threads=1)
        if expected.errors:  # what the decoder patches pictures with depends on what it decoded before
            damaged.append(path.name)
            expected, found = replace(expected, frames=[]), replace(found, frames=[])
        assert found == expected, path.name
    assert damaged == ["decord_corrupted.mp4"]


@pytest.mark.parametrize(
    ("name", "at_15", "at_4"), [("pyramid.mp4", 30, 30), ("short groups.ts", 15, 25), ("uneven.mp4", 15, 30)]
)
def test_frames_that_are_never_used_are_left_out(videos, name, at_15, at_4):
    assert at_15 <= count_left_out(videos[name], 15) <= 45
    assert at_4 <= count_left_out(videos[name], 4) <= 78


@pytest.mark.parametrize("name", ["pyramid.mp4", "none.mp4", "bare.h264"])
def test_nothing_is_left_out_where_every_frame_is_used_or_none_is_known_to_be_unused(videos, name):
    assert count_left_out(videos[name], 30) == 0
    assert name == "pyramid.mp4" or count_left_out(videos[name], 4) == 0


def test_codecs_that_do_not_say_what_is_used_are_decoded_whole(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(40), fps=30, codec="libx265")

    assert count_left_out(path, 4) == 0


@pytest.mark.parametrize("seconds", [0.5, 0.55])
def test_a_picture_of_another_size_begins_where_it_did(tmp_path, seconds, monkeypatch):
    path = tmp_path / "two sizes.ts"
    options = {"fps": 30, "codec_options": {"bf": "3"}}
    parts = [
        write_video(tmp_path / "a.ts", numbered_pictures(40, noisy=True), start_s=1, **options),
        write_video(
            tmp_path / "b.ts", numbered_pictures(40, height_px=480, width_px=640), start_s=1 + 40 / 30, **options
        ),
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))

    expected = read_all(path, 1 / seconds, monkeypatch)

    assert read(path, 1 / seconds) == expected
    assert read(path, 1 / seconds, threads=1) == expected


def test_a_clock_that_starts_again_ends_skipping(tmp_path, monkeypatch):
    part = write_video(tmp_path / "a.ts", numbered_pictures(40, noisy=True), fps=30, codec_options={"bf": "3"})
    path = tmp_path / "twice.ts"
    path.write_bytes(2 * part.read_bytes())

    assert read(path, 5) == read_all(path, 5, monkeypatch)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_never_counted_more_often_and_spoils_no_more_than_its_surroundings(tmp_path, seed, monkeypatch):
    places = np.random.default_rng(seed).uniform(0.3, 0.6, 2).tolist()
    whole = write_video(
        tmp_path / "a.mkv", numbered_pictures(90, noisy=True), fps=30, codec_options={"bf": "3", "g": "15"}
    )
    path = damage(whole, tmp_path / "b.mkv", places=places, run_bytes=8)
    expected = read_all(path, 10, monkeypatch)

    found = read(path, 10, threads=1)

    differing = [k for k, (one, two) in enumerate(zip(found.frames, expected.frames, strict=True)) if one != two]
    assert len(differing) <= 2
    assert found.errors <= expected.errors
