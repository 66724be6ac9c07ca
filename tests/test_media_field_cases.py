"""Files as cameras, recorders and damaged disks leave them: odd times, lengths, pixel shapes and colour tags."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video
from tallformer_infer.media.graph import SUPPORTED_MATRICES, SUPPORTED_TRANSFERS, UPRIGHT, PictureSampler, resized_px
from tallformer_infer.structures import VideoInfo
from tests.videos import cut_short, numbered_picture, numbered_pictures, read_number, write_video

FPS = 30
EVERY_FRAME = SamplingConfig(sample_fps=FPS, resize="none", crop_px=240)
WHOLE = SamplingConfig(sample_fps=FPS, resize="none", crop_px=240, most_frames=60)
GOOD = list(range(60))


def write_timed(path: Path, pts: Sequence[int]) -> Path:
    """A film of pictures that stand alone; packet i has picture i and the time pts[i], in frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for index, ticks in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(numbered_picture(index), format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            for packet in stream.encode(frame):
                packet.pts, packet.dts, packet.time_base = ticks, index, Fraction(1, FPS)
                container.mux(packet)
    return path


def read(path: Path, sampling: SamplingConfig = EVERY_FRAME, threads: int | None = None):
    """Numbers of the pictures at each point of the grid, and the stream."""
    with open_video(path, sampling, threads=threads) as video:
        return [read_number(picture, shown_of_width=240 / 320) for picture in video], video


def with_strays(strays: dict[int, int]) -> list[int]:
    return [strays.get(index, index) for index in GOOD]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".nut"])
@pytest.mark.parametrize("strays", [{30: 9480, 31: 9480}, {30: 216_000}, {10: 50, 40: 9480}, {59: 9480}])
def test_stray_times_freeze_and_move_nothing(tmp_path, suffix, strays, threads):
    numbers, video = read(write_timed(tmp_path / f"a{suffix}", with_strays(strays)), threads=threads)

    assert numbers == GOOD
    assert (video.decode_errors, video.missing_s, video.notes) == (len({*strays.values()}), 0, ())


def test_a_gap_is_kept_and_reported(tmp_path):
    path = write_timed(tmp_path / "trap.mkv", [*range(30), *range(30 + 300 * FPS, 60 + 300 * FPS)])

    numbers, video = read(path)

    assert numbers == [*range(30), *[29] * 300 * FPS, *range(30, 60)]
    assert video.decode_errors == 0
    assert video.notes == ("timestamps jump ahead in 1 place, by 300.0 s in total; the frame before is repeated",)


def test_a_time_lapse_keeps_its_times(tmp_path):
    numbers, video = read(write_timed(tmp_path / "lapse.mkv", [picture * 20 * FPS for picture in range(5)]))

    assert numbers[: 4 * 20 * FPS] == [picture for picture in range(4) for _ in range(20 * FPS)]
    assert set(numbers[4 * 20 * FPS :]) == {4}
    assert (video.decode_errors, video.notes) == (0, ())


def glue(tmp_path: Path) -> Path:
    """Two transport streams joined: from 600 s on, then from 0 s on. FFmpeg says that they last 26 hours."""
    late = write_video(tmp_path / "late.ts", numbered_pictures(30), fps=FPS, start_s=600)
    early = write_video(tmp_path / "early.ts", numbered_pictures(30, first=30), fps=FPS)
    path = tmp_path / "glued.ts"
    path.write_bytes(late.read_bytes() + early.read_bytes())
    return path


@pytest.mark.parametrize("sampling", [EVERY_FRAME, WHOLE])
def test_joined_transport_streams_follow_one_another(tmp_path, sampling):
    numbers, video = read(glue(tmp_path), sampling)

    assert numbers == GOOD
    assert (video.sample_fps, video.info.start_s, video.info.duration_s, video.decode_errors) == (FPS, 600, None, 1)


def test_a_stray_time_does_not_set_the_rate_of_a_whole_video(tmp_path):
    numbers, video = read(write_timed(tmp_path / "a.mkv", with_strays({30: 9480})), WHOLE)

    assert (numbers, video.sample_fps) == (GOOD, FPS)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
def test_a_file_cut_short_is_sampled_over_what_exists(tmp_path, suffix):
    whole = write_video(
        tmp_path / f"whole{suffix}",
        numbered_pictures(600, noisy=True),
        fps=FPS,
        codec="mjpeg",
        pixel_format="yuvj420p",
        container_options={"movflags": "faststart"} if suffix == ".mp4" else {},
    )
    path = cut_short(whole, tmp_path / f"short{suffix}", keep=0.2)

    numbers, video = read(path, WHOLE)

    assert video.info.duration_s == pytest.approx(20, abs=0.1)
    assert 55 <= len(numbers) <= 60  # half of about 120 pictures
    assert video.sample_fps == pytest.approx(15, abs=1)
    assert np.diff(numbers).min() >= 1


def test_a_whole_video_that_tells_no_length_is_measured(tmp_path):
    path = write_video(
        tmp_path / "a.webm",
        numbered_pictures(120),
        fps=FPS,
        codec="libvpx",
        container_options={"live": "1"},  # as a browser records: no length, no index
    )

    numbers, video = read(path, WHOLE)

    assert video.info.duration_s is None
    assert (len(numbers), video.sample_fps) == (60, 15)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_picture_of_an_avi_with_b_frames_is_there_once(tmp_path, threads):
    path = write_video(
        tmp_path / "a.avi", numbered_pictures(60), fps=FPS, codec="mpeg4", codec_options={"bf": "2", "q": "2"}
    )

    numbers, video = read(path, threads=threads)

    assert numbers == GOOD
    assert (video.info.start_s, video.decode_errors) == (0, 0)


def write_shaped(path: Path, width_px: int, height_px: int, pixel_aspect: Fraction, rotation_deg: int = 0) -> Path:
    """A ramp from 0 on the left to 255 on the right; its pixels are not square."""
    ramp = np.broadcast_to(np.linspace(0, 255, width_px)[None, :, None], (height_px, width_px, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv444p"
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(ramp), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def first_picture(path: Path, sampling: SamplingConfig) -> np.ndarray:
    with open_video(path, sampling) as video:
        return next(video).astype(int)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_shorter_side_keeps_the_shape_that_is_shown(tmp_path, suffix):
    # PAL, 16:9: 720x576 with pixels of 64:45 is shown as 1024x576. 96 px high it is 171 px wide; the middle 96 are
    # columns 37 to 133 of 171: from 22 % to 78 % of the ramp.
    path = write_shaped(tmp_path / f"a{suffix}", 720, 576, Fraction(64, 45))

    picture = first_picture(path, SamplingConfig(sample_fps=FPS, resize="short_side", resize_px=96, crop_px=96))

    assert picture[48, 0].mean() == pytest.approx(255 * 37.5 / 171, abs=3)
    assert picture[48, -1].mean() == pytest.approx(255 * 132.5 / 171, abs=3)


def test_pixels_of_a_turned_picture_are_turned_as_well(tmp_path):
    # Stored 64x96 with pixels twice as wide as high is shown as 128x96, and turned as 96x128: rows 16 to 112 remain.
    path = write_shaped(tmp_path / "a.mp4", 64, 96, Fraction(2), rotation_deg=-90)

    picture = first_picture(path, SamplingConfig(sample_fps=FPS, resize="short_side", resize_px=96, crop_px=96))

    ends = sorted(picture[row, 48].mean() for row in (0, -1))
    assert ends == pytest.approx([255 * 16.5 / 128, 255 * 111.5 / 128], abs=4)


@pytest.mark.parametrize("pixel_aspect", [Fraction(1), Fraction(100), Fraction(1, 100)])
def test_a_shape_that_no_camera_has_is_not_believed(tmp_path, pixel_aspect):
    path = write_shaped(tmp_path / "a.mp4", 120, 96, pixel_aspect)

    picture = first_picture(path, SamplingConfig(sample_fps=FPS, resize="short_side", resize_px=96, crop_px=96))

    assert picture[48, 0].mean() == pytest.approx(255 * 12.5 / 120, abs=3)


def test_only_the_shorter_side_asks_for_the_shape():
    wide = Fraction(64, 45)

    assert resized_px(720, 576, SamplingConfig(resize="short_side"), pixel_aspect=wide) == (455, 256)  # 256 * 16 / 9
    assert resized_px(720, 576, SamplingConfig(resize="squash"), pixel_aspect=wide) == (256, 256)
    assert resized_px(720, 576, SamplingConfig(resize="none"), pixel_aspect=wide) == (720, 576)


def retag(source: Path, target: Path, tags: str) -> Path:
    """Copy an H.264 film with other colour tags."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        tagger = av.bitstream.BitStreamFilterContext(f"h264_metadata={tags}", stream, copy)
        for packet in [*(packet for packet in given.demux(stream) if packet.dts is not None), None]:
            for tagged in tagger.filter(packet):
                tagged.stream = copy
                container.mux(tagged)
    return target


@pytest.mark.parametrize(
    ("tags", "as_if", "note"),
    [
        ("matrix_coefficients=8", "matrix_coefficients=2", "colour matrix 8 (YCgCo) is not supported; read as BT.601"),
        (
            "matrix_coefficients=10",
            "matrix_coefficients=9",
            "colour matrix 10 (BT.2020 constant luminance) is not supported; read as BT.2020",
        ),
        (
            "matrix_coefficients=14",
            "matrix_coefficients=9",
            "colour matrix 14 (ICtCp) is not supported; read as BT.2020",
        ),
        (
            "matrix_coefficients=13:colour_primaries=1",
            "matrix_coefficients=1",
            "colour matrix 13 (derived from primaries, constant luminance) is not supported; read as BT.709",
        ),
        (
            "transfer_characteristics=9",
            "transfer_characteristics=1",
            "colour transfer 9 (logarithmic 100:1) is not supported; ignored",
        ),
        (
            "transfer_characteristics=10:matrix_coefficients=1",
            "matrix_coefficients=1",
            "colour transfer 10 (logarithmic 316:1) is not supported; ignored",
        ),
    ],
)
def test_colour_tags_that_the_scaler_refuses_are_read_as_the_nearest_and_noted(tmp_path, tags, as_if, note):
    base = write_video(tmp_path / "base.mp4", numbered_pictures(5), fps=FPS)
    expected = first_picture(retag(base, tmp_path / "as_if.mp4", as_if), EVERY_FRAME)

    with open_video(retag(base, tmp_path / "a.mp4", tags), EVERY_FRAME) as video:
        pictures = list(video)

        assert video.notes == (note,)
    np.testing.assert_array_equal(pictures[0], expected)


@pytest.mark.parametrize("kind", ["colorspace", "color_trc", "color_primaries", "color_range"])
@pytest.mark.parametrize("tag", [*range(24), 255])
def test_every_colour_tag_gives_a_picture(kind, tag):
    info = VideoInfo(path="x", width_px=32, height_px=32, codec="x", source_fps=None, start_s=0, duration_s=None)
    sampling = SamplingConfig(sample_fps=FPS, resize="squash", resize_px=16, crop_px=16)
    sampler = PictureSampler(sampling, info, time_base=Fraction(1, FPS), orientation=UPRIGHT)
    frame = av.VideoFrame(32, 32, "yuv420p")
    setattr(frame, kind, tag)

    (picture,) = [*sampler.push(frame, 0), *sampler.finish(1)]

    assert picture.shape == (16, 16, 3)
    known = {"colorspace": SUPPORTED_MATRICES, "color_trc": SUPPORTED_TRANSFERS}.get(kind)
    assert bool(sampler.notes) == (known is not None and tag not in known)


def test_a_still_picture_is_the_callers_own_each_time():
    info = VideoInfo(path="x", width_px=16, height_px=16, codec="x", source_fps=None, start_s=0, duration_s=None)
    sampling = SamplingConfig(sample_fps=FPS, resize="none", crop_px=16)
    sampler = PictureSampler(sampling, info, time_base=Fraction(1, FPS), orientation=UPRIGHT)
    frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 7, np.uint8), format="rgb24")

    for picture in [*sampler.push(frame, 0), *sampler.finish(5)]:
        assert picture.max() == 7
        picture[:] = 0
