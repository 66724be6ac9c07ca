"""Frames of a file at the recipe's rate: which ones, when, and their pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe
from tests.videos import noise_pictures, numbered_pictures, read_number, write_video

AS_STORED = SamplingConfig(sample_fps=15, resize="none", crop_px=240)
SHOWN_OF_WIDTH = 240 / 320


def numbers(path: Path, sampling: SamplingConfig = AS_STORED) -> list[int]:
    with open_video(path, sampling) as video:
        return [read_number(frame, shown_of_width=SHOWN_OF_WIDTH) for frame in video]


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".mkv"), ("png", ".mov"), ("libx264rgb", ".mp4")])
@pytest.mark.parametrize(("height_px", "width_px"), [(64, 64), (57, 101), (239, 319)])
def test_a_lossless_file_at_the_recipes_rate_gives_each_frame_once_and_unchanged(
    tmp_path, codec, suffix, height_px, width_px
):
    pictures = list(noise_pictures(7, height_px=height_px, width_px=width_px))
    path = write_video(tmp_path / f"noise{suffix}", pictures, codec=codec)
    crop_px = min(height_px, width_px)

    with open_video(path, SamplingConfig(sample_fps=15, resize="none", crop_px=crop_px)) as video:
        frames = list(video)

    top, left = int((height_px - crop_px) / 2), int((width_px - crop_px) / 2)
    expected = [picture[top : top + crop_px, left : left + crop_px] for picture in pictures]
    np.testing.assert_array_equal(frames, expected)


def test_frames_are_contiguous_and_belong_to_the_caller(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise_pictures(3, height_px=60, width_px=70), codec="ffv1")

    with open_video(path, SamplingConfig(resize="none", crop_px=50)) as video:
        frames = list(video)

    assert all(frame.flags.c_contiguous and frame.flags.owndata and frame.flags.writeable for frame in frames)
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((50, 50, 3), "uint8")}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".nut", ".mov"])
@pytest.mark.parametrize("fps", [12.5, 15, 24, 25, Fraction(30000, 1001), 30, 60])
def test_every_frame_comes_exactly_once_in_every_container_and_rate(tmp_path, suffix, fps):
    path = write_video(tmp_path / f"a{suffix}", numbered_pictures(40), fps=fps, codec_options={"bf": "3"})

    found = numbers(path, SamplingConfig(sample_fps=float(fps), resize="none", crop_px=240))

    assert found == list(range(40))


@pytest.mark.parametrize("start_s", [1 / 30, 0.1, 0.5, 1.4, 7200.033])
def test_times_rounded_to_milliseconds_and_a_start_between_grid_points_drop_and_repeat_nothing(tmp_path, start_s):
    path = write_video(tmp_path / "a.mkv", numbered_pictures(60), codec="ffv1", start_s=start_s)

    assert numbers(path) == list(range(60))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_the_first_timestamp_of_the_file_is_kept(tmp_path, suffix):
    path = write_video(tmp_path / f"a{suffix}", numbered_pictures(6), start_s=2.5)

    assert probe(path).start_s == pytest.approx(2.5, abs=0.001)


def test_an_avi_without_presentation_times_starts_at_zero_in_spite_of_b_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", numbered_pictures(30), codec_options={"bf": "3", "b_strategy": "0"})

    assert probe(path).start_s == 0
    assert numbers(path) == list(range(30))


@pytest.mark.parametrize("threads", [1, 2, None])
def test_a_bare_stream_without_timestamps_runs_at_the_rate_it_tells(tmp_path, threads):
    path = write_video(tmp_path / "a.h264", numbered_pictures(30), fps=30, codec_options={"bf": "2"})

    with open_video(path, AS_STORED, threads=threads) as video:
        found = [read_number(frame, shown_of_width=SHOWN_OF_WIDTH) for frame in video]

    assert len(found) == 15
    assert found == sorted(set(found))


def test_variable_frame_rate_shows_each_frame_for_as_long_as_it_stands(tmp_path):
    times_s = [0.0, 0.1, 0.3, 0.35, 0.9, 1.0, 2.5, 2.6]
    path = write_video(tmp_path / "a.mkv", numbered_pictures(8), fps=10, codec="ffv1", times_s=times_s)

    found = numbers(path, SamplingConfig(sample_fps=10, resize="none", crop_px=240))

    # Grid points 0 1 2 3 4 | 5..9 → frames whose rounded time is the last at or before it; 0.35 s rounds up to point 4.
    assert found == [0, 1, 1, 2, 3, 3, 3, 3, 3, 4, 5] + [5] * 14 + [6, 7]


@pytest.mark.parametrize(
    ("source_fps", "count", "expected"),
    # The last three are 1.5, 1.25 and 0.25 frames of 1/15 s.
    [(30, 30, 15), (10, 20, 30), (7.5, 15, 30), (60, 60, 15), (30, 3, 2), (60, 5, 1), (60, 1, 1)],
)
def test_the_number_of_frames_is_the_duration_times_the_rate_rounded_half_up_and_at_least_one(
    tmp_path, source_fps, count, expected
):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(count), fps=source_fps)

    found = numbers(path)

    assert len(found) == expected
    assert found == sorted(found)


@pytest.mark.parametrize("fps", [1, 15, 120])
def test_a_video_of_one_frame_gives_at_least_one(tmp_path, fps):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(1, first=77), fps=fps)

    assert set(numbers(path)) == {77}


def test_sampling_slower_than_one_frame_per_video_gives_one(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(3), fps=30)

    assert len(numbers(path, SamplingConfig(sample_fps=0.1, resize="none", crop_px=240))) == 1


def test_info_tells_what_the_file_is(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(30), fps=Fraction(30000, 1001))

    info = probe(str(path))

    assert (info.path, info.codec, info.width_px, info.height_px) == (str(path), "h264", 320, 240)
    assert (info.start_s, info.rotation_deg) == (0, 0)
    assert info.source_fps == pytest.approx(29.97003)
    assert info.duration_s == pytest.approx(30 * 1.001 / 30, abs=0.001)


def test_progress_and_counts_grow_with_the_frames_taken(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(30), start_s=3)

    with open_video(path, AS_STORED) as video:
        assert (video.frame_count, video.position_s) == (0, pytest.approx(3))
        for _ in range(15):
            next(video)
        assert (video.frame_count, video.position_s) == (15, pytest.approx(4))
        assert video.decode_errors == 0
        assert 0 < video.decode_s < 10


def test_a_picture_smaller_than_the_crop_is_refused_with_both_sizes(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(3, height_px=100, width_px=320))

    with pytest.raises(MediaError, match=r"a.mp4: picture of 320x100 px is below the crop of 224x224 px .*resize=none"):
        open_video(path, SamplingConfig(resize="none"))


def test_the_picture_may_be_exactly_as_small_as_the_crop(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(3, height_px=224, width_px=224))

    with open_video(path, SamplingConfig(resize="none")) as video:
        assert next(video).shape == (224, 224, 3)


@pytest.mark.parametrize("resize", ["squash", "short_side"])
def test_a_change_of_size_in_mid_stream_loses_no_frame(tmp_path, resize):
    wide = write_video(tmp_path / "wide.h264", numbered_pictures(20, height_px=240, width_px=320))
    tall = write_video(tmp_path / "tall.h264", numbered_pictures(20, first=20, height_px=400, width_px=320))
    both = tmp_path / "both.h264"
    both.write_bytes(wide.read_bytes() + tall.read_bytes())
    sampling = SamplingConfig(resize=resize, resize_px=240, crop_px=240)

    with open_video(both, sampling) as video:
        frames = list(video)

    shown = {"squash": (1, 1), "short_side": (SHOWN_OF_WIDTH, 1)}[resize]
    found = [read_number(frame, shown_of_width=shown[index >= 20]) for index, frame in enumerate(frames)]
    assert found == list(range(40))


def test_frames_before_a_change_to_too_small_a_size_still_come(tmp_path):
    large = write_video(tmp_path / "large.h264", numbered_pictures(10))
    small = write_video(tmp_path / "small.h264", numbered_pictures(10, height_px=120, width_px=160))
    both = tmp_path / "both.h264"
    both.write_bytes(large.read_bytes() + small.read_bytes())
    found = []

    with open_video(both, AS_STORED) as video, pytest.raises(MediaError, match="picture of 160x120 px is below"):
        found.extend(read_number(frame, shown_of_width=SHOWN_OF_WIDTH) for frame in video)

    assert found == list(range(10))


def test_reading_works_with_any_number_of_threads(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(40), codec_options={"bf": "2"})

    for threads in (1, 2, 5):
        with open_video(path, AS_STORED, threads=threads, queue_frames=1) as video:
            found = [read_number(frame, shown_of_width=SHOWN_OF_WIDTH) for frame in video]
        assert found == list(range(40))


def test_settings_that_cannot_work_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_pictures(2))

    with pytest.raises(ValueError, match="expected at least 1 thread, got 0"):
        open_video(path, AS_STORED, threads=0)
    with pytest.raises(ValueError, match="expected a queue of at least 1 item, got 0"):
        open_video(path, AS_STORED, queue_frames=0)
