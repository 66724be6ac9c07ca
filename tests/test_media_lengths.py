"""How long a file says that it is, and whether it holds that much."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video, probe
from tests.videos import FINE_TICKS, cut_short, numbered_picture, numbered_pictures, write_video

AS_STORED = SamplingConfig(sample_fps=15, resize="none", crop_px=240)
AUDIO_HZ = 48_000
AUDIO_SAMPLES = 1024


def missing(path: Path, threads: int | None = None) -> tuple[float, int]:
    """Seconds that miss at the end, and errors."""
    with open_video(path, AS_STORED, threads=threads) as video:
        assert list(video)
        return video.missing_s, video.decode_errors


def write_with_audio(path: Path, times_s: list[float], audio_s: tuple[float, float], *, audio_codec: str) -> Path:
    """A film with pictures at `times_s` and silence from one time to another."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=15, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        video.codec_context.time_base = Fraction(1, FINE_TICKS)
        audio = container.add_stream(audio_codec, rate=AUDIO_HZ)
        packets = [packet for frame in pictures(times_s) for packet in video.encode(frame)] + video.encode(None)
        packets += [packet for frame in silence(*audio_s) for packet in audio.encode(frame)] + audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def pictures(times_s: list[float]) -> Iterator[av.VideoFrame]:
    for index, time_s in enumerate(times_s):
        frame = av.VideoFrame.from_ndarray(numbered_picture(index), format="rgb24")
        frame.pts, frame.time_base = round(time_s * FINE_TICKS), Fraction(1, FINE_TICKS)
        yield frame


def silence(start_s: float, end_s: float) -> Iterator[av.AudioFrame]:
    for start in range(int(start_s * AUDIO_HZ), int(end_s * AUDIO_HZ), AUDIO_SAMPLES):
        samples = np.zeros((2, AUDIO_SAMPLES), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = AUDIO_HZ, start, Fraction(1, AUDIO_HZ)
        yield frame


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".nut", ".ts", ".flv"])
@pytest.mark.parametrize("start_s", [0, 100])
def test_the_length_counts_from_the_first_frame(tmp_path, suffix, start_s):
    path = write_video(tmp_path / f"a{suffix}", numbered_pictures(60), start_s=start_s)

    info = probe(path)

    assert info.start_s == pytest.approx(start_s, abs=0.001)
    assert info.duration_s == pytest.approx(4, abs=0.07)  # NUT leaves out the last frame
    assert missing(path) == (0, 0)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    ("suffix", "start_s"),
    [(".avi", 0), (".mkv", 0), (".mkv", 100), (".flv", 0), (".flv", 100), (".mp4", 0), (".mp4", 100)],
)
def test_a_file_cut_short_misses_its_end_and_has_one_error_for_it(tmp_path, suffix, start_s, threads):
    whole = write_video(
        tmp_path / f"whole{suffix}",
        numbered_pictures(90, noisy=True),
        start_s=start_s,
        codec="mjpeg" if suffix == ".avi" else "libx264",
        pixel_format="yuvj420p" if suffix == ".avi" else None,
        container_options={"movflags": "faststart"} if suffix == ".mp4" else {},
    )
    path = cut_short(whole, tmp_path / f"short{suffix}", keep=0.5)

    missing_s, errors = missing(path, threads)

    assert probe(path).duration_s == pytest.approx(6, abs=0.07)
    assert missing_s == pytest.approx(3, abs=0.5)
    assert errors == 1


def test_less_than_a_second_is_not_missed(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", numbered_pictures(60, noisy=True), codec="ffv1")
    nearly = cut_short(whole, tmp_path / "nearly.mkv", keep=0.8)
    less = cut_short(whole, tmp_path / "less.mkv", keep=0.7)

    assert missing(nearly)[0] == 0
    assert missing(less)[0] == pytest.approx(1.2, abs=0.15)


@pytest.mark.parametrize(
    ("suffix", "audio_codec"), [(".mp4", "aac"), (".mov", "aac"), (".mkv", "aac"), (".flv", "aac"), (".avi", "mp3")]
)
@pytest.mark.parametrize("video_s", [(0, 4), (3, 4)])
def test_longer_and_earlier_audio_is_no_missing_video(tmp_path, suffix, audio_codec, video_s):
    times_s = np.arange(*video_s, 1 / 15).tolist()
    path = write_with_audio(tmp_path / f"a{suffix}", times_s, (0, 10), audio_codec=audio_codec)

    assert missing(path) == (0, 0)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_length_is_that_of_the_video_where_audio_is_longer(tmp_path, suffix):
    times_s = np.arange(3, 4, 1 / 15).tolist()
    path = write_with_audio(tmp_path / f"a{suffix}", times_s, (0, 10), audio_codec="aac")

    assert probe(path).duration_s == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv"])
def test_few_frames_far_apart_are_no_missing_video(tmp_path, suffix):
    times_s = [0, 0.1, 0.2, 3, 3.1, 7]
    path = write_with_audio(tmp_path / f"a{suffix}", times_s, (0, 12), audio_codec="aac")

    assert missing(path) == (0, 0)


@pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov", "frag_keyframe", "dash+frag_keyframe", "faststart"])
@pytest.mark.parametrize("start_s", [-2, 0, 7])
def test_fragments_edits_and_b_frames_are_no_missing_video(tmp_path, movflags, start_s):
    path = write_video(
        tmp_path / "a.mp4",
        numbered_pictures(90),
        start_s=start_s,
        codec_options={"bf": "3", "g": "15"},
        container_options={"movflags": movflags},
    )

    assert missing(path) == (0, 0)
