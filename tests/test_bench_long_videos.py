"""The long videos of `bench_memory`: packets of a short one, again and again."""

from __future__ import annotations

import pytest

from benchmarks.bench_memory import fit, repeat
from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video
from tests.videos import numbered_pictures, read_number, write_video


def test_a_repeated_video_shows_the_same_pictures_again(tmp_path):
    short = write_video(tmp_path / "short.mp4", numbered_pictures(20), codec_options={"bf": "3"})

    repeat(short, tmp_path / "long.mkv", 3)

    with open_video(tmp_path / "long.mkv", SamplingConfig(sample_fps=15, resize="none", crop_px=240)) as video:
        assert [read_number(frame, shown_of_width=240 / 320) for frame in video] == 3 * list(range(20))
        assert video.decode_errors == 0


def test_a_time_that_grows_with_the_length_fits_a_line_and_one_that_grows_with_its_square_does_not():
    linear = fit([{"minutes": minutes, "cpu_s": 0.5 + minutes, "peak_mb": 100} for minutes in (1, 10, 60, 240)])
    square = fit([{"minutes": minutes, "cpu_s": minutes**2, "peak_mb": 100} for minutes in (1, 10, 60, 240)])

    assert linear["r2"] == pytest.approx(1)
    assert linear["cpu_s_per_minute"] == pytest.approx(1)
    assert square["r2"] < 0.99
    assert square["exponent"] == pytest.approx(2)
