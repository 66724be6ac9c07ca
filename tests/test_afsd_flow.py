"""Flow as AFSD is fed with it, and the frames that it is made from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("cv2", reason="needs tallformer[bench]")

import cv2

from benchmarks.afsd import material
from benchmarks.afsd.flow import FlowPool, as_stored, tv_l1
from benchmarks.afsd.network import ACTIVITYNET
from benchmarks.afsd.pipeline import consecutive, network_input


def texture(shift_px: int = 0) -> NDArray[np.uint8]:
    """A smooth pattern, moved to the right."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 3)[:, 16 - shift_px : 80 - shift_px] * 2)


def test_flow_is_where_a_pattern_has_moved_to() -> None:
    flow = tv_l1(texture(), texture(2))

    assert flow.shape == (64, 64, 2)
    assert np.median(flow[8:-8, 8:-8], axis=(0, 1)) == pytest.approx([2, 0], abs=0.2)


@pytest.mark.parametrize(("displacement_px", "byte"), [(0, 128), (20, 255), (-20, 0), (35, 255), (-35, 0), (10, 191)])
def test_displacements_of_20_pixels_fill_a_byte(displacement_px: float, byte: int) -> None:
    stored = as_stored(np.full((16, 16, 2), displacement_px, np.float32))

    assert stored.shape == (16, 16, 2)
    assert abs(stored.astype(int) - byte).max() <= 1


def test_a_pool_gives_what_one_thread_gives_in_order() -> None:
    pairs = [(texture(), texture(shift)) for shift in (0, 1, 3)]

    flows, seconds = FlowPool(2).flows(pairs)

    assert all(np.array_equal(flow, as_stored(tv_l1(*pair))) for flow, pair in zip(flows, pairs, strict=True))
    assert len(seconds) == 3
    assert min(seconds) > 0


def test_no_frame_and_one_frame_make_no_pair() -> None:
    assert consecutive([]) == []
    assert consecutive([texture()]) == []


def test_a_short_video_is_filled_with_gray() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    white[:8] = 0  # outside of the crop

    clip = network_input([white, white], ACTIVITYNET)

    assert clip.shape == (3, 768, 96, 96)
    assert (clip[:, :2] == 1).all()
    assert (clip[:, 2:] == 0).all()


def test_generated_videos_stand_in_for_real_ones(tmp_path) -> None:
    videos = material.videos(None, tmp_path)

    shown = material.snippets(videos[0], threads=1)

    assert len(videos) == 2
    assert len(shown) == 15  # a second each
    assert shown[0].frame.shape == (256, 340, 3)
    assert [gray.shape for gray in shown[0].grays] == [(256, 340)] * 6
    assert len(material.clip_frames(videos[0], 10, threads=1)) == 150
