"""Real and odd files of other projects."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe
from tests.videos import cut_short

SIDES = {0: (568, 320), 90: (320, 568), 180: (568, 320), 270: (320, 568)}


def count(path: Path, sample_fps: float = 15, threads: int | None = None) -> tuple[int, int]:
    with open_video(path, SamplingConfig(sample_fps=sample_fps), threads=threads) as video:
        frames = list(video)
        assert {frame.shape for frame in frames} == {(224, 224, 3)}
        return len(frames), video.decode_errors


def test_every_file_gives_frames_or_says_in_one_line_why_not(shared_videos):
    refused = {}
    for path in sorted(shared_videos.iterdir()):
        try:
            frames, _ = count(path)
        except MediaError as error:
            refused[path.name] = str(error).replace(str(path), "")
        else:
            assert frames > 0
    assert refused == {
        "INDEX.md": ": cannot be opened as video: Invalid data found when processing input",
        "tfio_audio_only.mp4": ": no video stream",
    }


@pytest.mark.parametrize(
    ("name", "fps", "frames", "errors"),
    [
        ("moviepy_chaplin.mp4", 25, 241, 0),
        ("decord_unordered.mov", 32, 4, 0),
        ("decord_corrupted.mp4", 10, 50, 1),  # 49 decodable; the one before stands in for the lost one
        ("ffmpegpy_in.mp4", 30000 / 1001, 209, 0),
        ("moviepy_bbb_432_433.webm", 24, 24, 0),
        ("moviepy_smpte-2997.mp4", 25, 251, 0),
        ("torchcodec_av1_video.mkv", 25, 125, 0),
        ("torchcodec_h265_video.mp4", 10, 10, 0),
        ("torchcodec_nasa_13013.mp4", 30000 / 1001, 390, 0),  # the larger of its two video streams
        ("vpf_test_res_change.h264", 30, 96, 0),
    ],
)
def test_at_the_files_own_rate_every_frame_comes_once(shared_videos, name, fps, frames, errors):
    assert count(shared_videos / name, fps) == (frames, errors)


@pytest.mark.parametrize("seed", range(3))
def test_pictures_patched_by_the_decoder_are_counted_and_kept(shared_videos, tmp_path, seed):
    data = bytearray((shared_videos / "moviepy_long_example.mp4").read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(len(data) // 4, 3 * len(data) // 4, 6):
        data[at : at + 60] = random.bytes(60)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)

    frames, errors = count(path, 25, threads=1)

    assert frames == 400
    assert 5 <= errors <= 6  # two places may hit one picture


def test_a_file_cut_short_tells_what_is_missing(shared_videos, tmp_path):
    path = cut_short(shared_videos / "torchcodec_av1_video.mkv", tmp_path / "short.mkv", keep=2 / 3)

    with open_video(path, SamplingConfig(sample_fps=25)) as video:
        assert video.missing_s == 0  # not known before the end
        assert len(list(video)) == 67
        assert (video.info.duration_s, video.missing_s, video.decode_errors) == (5, pytest.approx(2.32), 1)


def test_no_whole_file_misses_anything(shared_videos):
    missing_s = {}
    for path in sorted(shared_videos.iterdir()):
        with suppress(MediaError), open_video(path, SamplingConfig()) as video:
            assert list(video)
            missing_s[path.name] = video.missing_s
    assert len(missing_s) > 20
    assert set(missing_s.values()) == {0.0}


def test_the_stream_that_ffmpeg_takes_for_the_best_is_read(shared_videos):
    info = probe(shared_videos / "torchcodec_nasa_13013.mp4")

    assert (info.width_px, info.height_px) == (480, 270)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_phone_videos_are_shown_upright(shared_videos, turn):
    path = shared_videos / f"decord_video_{turn}.mov"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")

    with open_video(path, SamplingConfig(sample_fps=30, resize="none", crop_px=320)) as video:
        shown, info = next(video), video.info

    turned = np.rot90(stored, -turn // 90)  # rot90 turns anticlockwise
    top, left = ((side - 320) // 2 for side in turned.shape[:2])
    error = np.abs(shown.astype(int) - turned[top : top + 320, left : left + 320])
    assert error.mean() < 1  # the same picture, but for where chroma is interpolated
    assert info.rotation_deg == turn
    assert (info.width_px, info.height_px) == SIDES[turn]


def test_a_codec_is_named_by_its_standard_not_its_decoder(shared_videos):
    assert probe(shared_videos / "torchcodec_av1_video.mkv").codec == "av1"


def test_a_video_filmed_upside_down_is_turned(shared_videos):
    assert probe(shared_videos / "moviepy_fire2.mp4").rotation_deg == 180


def test_a_file_without_a_duration_is_read_to_its_end(shared_videos):
    path = shared_videos / "moviepy_no_duration.webm"

    assert probe(path).duration_s is None
    assert count(path) == (74, 0)
