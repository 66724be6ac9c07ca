"""Which frame is shown when, how large, which way up, and in which colours."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import graph, open_video
from tallformer_infer.media.graph import UPRIGHT, PictureSampler, exact_rate, from_matrix, resized_px
from tallformer_infer.structures import VideoInfo
from tests.videos import noise_pictures, write_video

SIDE_PX = 16
INFO = VideoInfo(path="x", width_px=SIDE_PX, height_px=SIDE_PX, codec="x", source_fps=None, start_s=0, duration_s=None)
ONE = 1 << 16  # 1.0 in a display matrix


def grey_frame(value: int, side_px: int = SIDE_PX) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((side_px, side_px, 3), value, np.uint8), format="rgb24")


def sample(times_ms: list[int], end_ms: int, *, rate_fps: float, sizes_px: list[int] | None = None) -> list[int]:
    """Indices of the frames that a sampler shows, one per grid point."""
    sampling = SamplingConfig(sample_fps=rate_fps, resize="none", crop_px=SIDE_PX)
    sampler = PictureSampler(sampling, INFO, time_base=Fraction(1, 1000), orientation=UPRIGHT)
    shown = []
    for index, time_ms in enumerate(times_ms):
        side_px = sizes_px[index] if sizes_px else SIDE_PX
        shown += [int(picture[0, 0, 0]) for picture in sampler.push(grey_frame(index, side_px), time_ms)]
    return shown + [int(picture[0, 0, 0]) for picture in sampler.finish(end_ms)]


def nearest(times_ms: list[int], end_ms: int, rate_fps: float) -> list[int]:
    """The rule in plain words: a frame comes in at the nearest grid point, half up, and stays until the next one."""

    def grid(ms: int) -> int:
        return int(Fraction(ms) * Fraction(rate_fps) / 1000 + Fraction(1, 2))

    points = [grid(time_ms) for time_ms in times_ms]
    count = max(grid(end_ms), 1)
    return [max(index for index, point in enumerate(points) if point <= k) for k in range(count)]


variable_times = st.lists(st.integers(1, 400), min_size=0, max_size=40).map(
    lambda steps: [0, *np.cumsum(steps, dtype=int).tolist()]
)


@given(variable_times, st.integers(1, 300), st.sampled_from([5, 10, 15, 25, 30]))
@settings(deadline=None)
def test_at_any_variable_rate_each_grid_point_shows_the_frame_that_nearest_rounding_gives(times_ms, last_ms, rate_fps):
    end_ms = times_ms[-1] + last_ms

    assert sample(times_ms, end_ms, rate_fps=rate_fps) == nearest(times_ms, end_ms, rate_fps)


@given(variable_times, st.integers(1, 300), st.sampled_from([5, 15, 30]))
def test_a_frame_is_the_last_picture_that_begins_before_half_a_frame_after_its_time(times_ms, last_ms, rate_fps):
    shown = sample(times_ms, times_ms[-1] + last_ms, rate_fps=rate_fps)

    for frame, index in enumerate(shown):
        before_ms = Fraction(1000) * (frame + Fraction(1, 2)) / rate_fps
        assert index == max(i for i, time_ms in enumerate(times_ms) if time_ms < before_ms)


@given(variable_times, st.integers(1, 300), st.data())
@settings(deadline=None)
def test_changes_of_the_picture_size_leave_the_grid_as_it_is(times_ms, last_ms, data):
    sizes = st.sampled_from([SIDE_PX, SIDE_PX + 2])
    sizes_px = data.draw(st.lists(sizes, min_size=len(times_ms), max_size=len(times_ms)))
    end_ms = times_ms[-1] + last_ms

    assert sample(times_ms, end_ms, rate_fps=15, sizes_px=sizes_px) == nearest(times_ms, end_ms, 15)


@pytest.mark.parametrize(
    ("rate_fps", "expected"),
    [(15.0, Fraction(15)), (29.97002997, Fraction(30000, 1001)), (12.5, Fraction(25, 2)), (0.1, Fraction(1, 10))],
)
def test_rates_are_made_exact(rate_fps, expected):
    assert exact_rate(rate_fps) == expected


@pytest.mark.parametrize(
    ("size_px", "expected"),
    [((1280, 720), (455, 256)), ((720, 1280), (256, 455)), ((100, 100), (256, 256)), ((128, 3), (10923, 256))],
)
def test_the_short_side_gets_its_size_and_the_long_side_rounds_half_up(size_px, expected):
    # 256 * 1280 / 720 = 455.1; 256 * 128 / 3 = 10922.67
    assert resized_px(*size_px, SamplingConfig(resize="short_side")) == expected


def test_an_exact_half_rounds_up():
    sampling = SamplingConfig(resize="short_side", resize_px=10, crop_px=10)

    assert resized_px(25, 20, sampling) == (13, 10)  # 12.5


def test_squash_and_none_ignore_the_shape():
    assert resized_px(1280, 720, SamplingConfig(resize="squash")) == (256, 256)
    assert resized_px(1280, 720, SamplingConfig(resize="none")) == (1280, 720)


def test_a_bilinear_recipe_gives_the_pixels_of_opencv(tmp_path):
    """`cv2.resize(picture, (16, 16), interpolation=cv2.INTER_LINEAR)` of OpenCV 5.0 gives this row."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = 200
    path = write_video(tmp_path / "a.mkv", [picture] * 3, codec="ffv1", pixel_format="bgr0")
    sampling = SamplingConfig(resize_px=16, crop_px=16, resize_filter="bilinear")

    with open_video(path, sampling) as video:
        frame = next(video)

    assert frame[5, :, 0].tolist() == [0] * 7 + [50, 150] + [200] * 7


@pytest.mark.parametrize(("height_px", "width_px"), [(240, 320), (101, 57), (319, 239)])
def test_resizing_equals_swscale_bicubic_called_without_a_graph(tmp_path, height_px, width_px):
    path = write_video(
        tmp_path / "a.mkv",
        noise_pictures(3, height_px=height_px, width_px=width_px),
        codec="ffv1",
        pixel_format="yuv444p",
    )
    with av.open(str(path)) as container:
        expected = [
            frame.reformat(256, 256, "rgb24", interpolation="BICUBIC").to_ndarray()
            for frame in container.decode(video=0)
        ]

    with open_video(path, SamplingConfig(crop_px=256)) as video:
        frames = list(video)

    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("resize_filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "nv12", "yuv422p", "yuv444p", "yuv420p10le", "bgr0"])
@pytest.mark.parametrize(
    ("width_px", "height_px", "written"), [(160, 90, "gbrp"), (57, 33, "gbrp"), (57, 32, "rgb24"), (41, 23, "rgb24")]
)
def test_planes_of_an_odd_width_are_the_pixels_of_rgb24(
    monkeypatch, width_px, height_px, written, pixel_format, resize_filter
):
    (pixels,) = noise_pictures(1, height_px=height_px, width_px=width_px)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
    sampling = SamplingConfig(resize="short_side", resize_px=32, crop_px=32, resize_filter=resize_filter)
    width_resized_px, _ = resized_px(width_px, height_px, sampling)
    seen = []
    centre_crop = graph._centre_crop
    monkeypatch.setattr(
        graph, "_centre_crop", lambda *given: (seen.append(given[0].format.name), centre_crop(*given))[1]
    )
    size = {"width_px": width_px, "height_px": height_px}

    sampler = PictureSampler(sampling, replace(INFO, **size), time_base=Fraction(1, 15), orientation=UPRIGHT)
    (picture,) = [*sampler.push(frame, 0), *sampler.finish(1)]

    plain = av.filter.Graph()
    steps = ("scale", f"{width_resized_px}:32:flags={resize_filter}"), ("format", "rgb24")
    plain.link_nodes(
        plain.add_buffer(
            template=None, width=width_px, height=height_px, format=frame.format, name=None, time_base=Fraction(1, 15)
        ),
        *(plain.add(*step) for step in steps),
        plain.add("buffersink"),
    ).configure()
    plain.push(frame)
    left = (width_resized_px - 32) // 2
    assert np.array_equal(picture, plain.pull().to_ndarray()[:, left : left + 32])
    assert (seen, width_resized_px % 2) == ([written], 1)


def test_the_crop_is_the_middle_of_the_resized_picture(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise_pictures(2, height_px=120, width_px=160), codec="ffv1")

    with open_video(path, SamplingConfig(crop_px=256)) as video:
        whole = next(video)
    with open_video(path, SamplingConfig(crop_px=223)) as video:
        middle = next(video)

    np.testing.assert_array_equal(middle, whole[16:239, 16:239])  # int((256 - 223) / 2) = 16


@pytest.mark.parametrize("signs", list(product([1, -1], repeat=2)))
@pytest.mark.parametrize("transposed", [False, True])
def test_every_display_matrix_puts_each_pixel_where_it_says(tmp_path, transposed, signs):
    height_px, width_px = 64, 96
    stored = next(noise_pictures(1, height_px=height_px, width_px=width_px))
    first, second = (sign * ONE for sign in signs)
    a, b, c, d = (0, first, second, 0) if transposed else (first, 0, 0, second)
    path = write_video(
        tmp_path / "a.mp4", [stored], codec="libx264rgb", display_matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30]
    )

    with open_video(path, SamplingConfig(resize="none", crop_px=64)) as video:
        shown, info = next(video), video.info

    q, p = np.mgrid[:height_px, :width_px]
    x, y = (a * p + c * q) // ONE, (b * p + d * q) // ONE
    expected = np.zeros((height_px, width_px, 3) if not transposed else (width_px, height_px, 3), np.uint8)
    expected[y - y.min(), x - x.min()] = stored
    top, left = ((side - 64) // 2 for side in expected.shape[:2])
    np.testing.assert_array_equal(shown, expected[top : top + 64, left : left + 64])
    assert (info.height_px, info.width_px) == expected.shape[:2]


@pytest.mark.parametrize(("counterclockwise_deg", "clockwise_deg"), [(0, 0), (90, 270), (180, 180), (-90, 90)])
def test_the_rotation_told_is_clockwise(tmp_path, counterclockwise_deg, clockwise_deg):
    pictures = noise_pictures(2, height_px=64, width_px=64)
    path = write_video(tmp_path / "a.mp4", pictures, rotation_deg=counterclockwise_deg)

    with open_video(path, SamplingConfig(resize="none", crop_px=64)) as video:
        assert video.info.rotation_deg == clockwise_deg


def test_a_slanted_matrix_is_taken_to_the_nearest_quarter_turn():
    slanted = struct.pack("=9i", *(int(value * ONE) for value in (0.1, 0.99, 0, -0.99, 0.1, 0, 0, 0, 1)))

    assert from_matrix(slanted).clockwise_deg == 90


def test_an_empty_matrix_leaves_the_picture_alone():
    assert from_matrix(bytes(36)) == UPRIGHT


RED_BT601 = (81, 90, 240)
RED_BT709 = (63, 102, 240)
RED_FULL_BT709 = (54, 99, 256 - 1)


@pytest.mark.parametrize(
    ("tags", "luma_and_chroma", "expected"),
    [
        # Limited range: R = 1.164 (Y - 16) + 1.596 (Cr - 128) and so on for BT.601; 1.793 for BT.709.
        ({}, RED_BT601, (255, 0, 0)),
        ({"colorspace": "bt470bg"}, RED_BT601, (255, 0, 0)),
        ({"colorspace": "bt709"}, RED_BT709, (255, 0, 0)),
        ({}, RED_BT709, (234, 0, 0)),
        # Full range: R = Y + 1.575 (Cr - 128).
        ({"colorspace": "bt709", "color_range": "pc"}, RED_FULL_BT709, (254, 0, 0)),
        ({"color_range": "pc"}, (128, 128, 128), (128, 128, 128)),
        ({}, (128, 128, 128), (130, 130, 130)),
    ],
)
def test_matrix_and_range_are_those_the_stream_is_tagged_with_and_bt601_limited_if_not(
    tmp_path, tags, luma_and_chroma, expected
):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=15, options=tags)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv444p"
        frame = av.VideoFrame(64, 64, "yuv444p")
        for plane, value in zip(frame.planes, luma_and_chroma, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        if "color_range" in tags:
            frame.color_range = 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    with open_video(path, SamplingConfig(resize_px=64, crop_px=64)) as video:
        pixel = next(video)[32, 32]

    np.testing.assert_allclose(pixel, expected, atol=2)
