"""Assignment of ground truth to anchors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tallformer_infer.config import HeadConfig
from tallformer_training.model.head import anchors_in_video, level_anchors
from tallformer_training.targets import (
    BACKGROUND,
    IGNORED,
    INVALID,
    AssignmentConfig,
    Truth,
    assign,
    make_targets,
    tiou,
)

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 20
ANCHORS = torch.cat([level_anchors(-(-480 // stride), stride, HeadConfig()) for stride in STRIDES])


def truth(*windows: list[tuple[float, float]]) -> Truth:
    """Ground truth whose labels are 0, 1, 2, ... in every window."""
    return Truth.stack(
        [torch.tensor(window, dtype=torch.float32).reshape(-1, 2) for window in windows],
        [torch.arange(len(window)) for window in windows],
    )


def one(*segments: tuple[float, float], anchors: Tensor = ANCHORS) -> list[int]:
    """Assignment of one window."""
    return assign(anchors, truth(list(segments)))[0].tolist()


def test_overlaps_at_the_thresholds_are_positive_and_ignored() -> None:
    # Overlap with [0, 10): 1, exactly 0.6, just below, exactly 0.4, just below.
    anchors = torch.tensor([[0, 10], [0, 6], [0, 5.9], [0, 4], [0, 3.9]])

    assert one((0, 10), anchors=anchors) == [1, 1, IGNORED, IGNORED, BACKGROUND]


def test_a_short_segment_takes_its_best_anchors_however_small_the_overlap() -> None:
    assigned = one((300, 302))

    assert [index for index, value in enumerate(assigned) if value == 1] == [185, 190]
    assert IGNORED not in assigned


def test_every_anchor_that_ties_for_a_segments_best_overlap_gets_it() -> None:
    anchors = torch.tensor([[0.0, 10], [20, 30], [40, 50]])

    assert one((9, 21), anchors=anchors) == [1, 1, BACKGROUND]


def test_a_later_segment_takes_the_best_anchor_from_an_equal_earlier_one() -> None:
    anchors = torch.tensor([[0.0, 10], [0, 8]])

    assert one((0, 10), (0, 10), anchors=anchors) == [2, 1]


def test_an_anchor_between_equal_overlaps_learns_the_first_segment() -> None:
    # Both segments overlap the anchor by 8/12; each has a better anchor of its own.
    anchors = torch.tensor([[0.0, 10], [2, 12], [-2, 8]])

    assert one((2, 12), (-2, 8), anchors=anchors) == [1, 1, 2]


def test_the_five_segments_of_the_specification_get_the_anchors_it_names() -> None:
    """Hand-checked numbers of appendix A.5 of the reference specification."""
    assigned = one((100, 130), (100, 130), (300, 302), (10, 470), (5, 12))

    rows = {value: [index for index, got in enumerate(assigned) if got == value] for value in range(1, 6)}
    assert rows == {
        1: [71, 72, 73, 74, 76, 77, 78, 79, 336, 337, 338],
        2: [335],
        3: [185, 190],
        4: [574, 576, 577, 578, 579],
        5: [5],
    }
    assert (assigned.count(BACKGROUND), assigned.count(IGNORED)) == (532, 33)


def test_without_segments_every_anchor_is_background() -> None:
    assert set(one()) == {BACKGROUND}


def test_a_window_without_segments_is_not_touched_by_its_neighbours() -> None:
    assigned = assign(ANCHORS, truth([], [(100, 130)]))

    assert set(assigned[0].tolist()) == {BACKGROUND}
    assert (assigned[1] == 1).any()


def test_anchors_that_reach_beyond_the_window_take_part() -> None:
    assigned = one((-8, 8))

    assert ANCHORS[0].tolist() == [-8, 8]
    assert assigned[0] == 1


def test_an_anchor_at_a_padded_position_is_left_out_even_as_the_best_one() -> None:
    is_valid = torch.ones(1, len(ANCHORS), dtype=torch.bool)
    is_valid[0, 0] = False

    assigned = assign(ANCHORS, truth([(-8, 8)]), is_valid=is_valid)

    assert assigned[0, 0] == INVALID
    assert assigned[0, 1] == 1


def test_without_valid_anchors_nothing_is_assigned() -> None:
    is_valid = torch.zeros(1, len(ANCHORS), dtype=torch.bool)

    targets = make_targets(ANCHORS, truth([(100, 130)]), classes=CLASSES, is_valid=is_valid)

    assert set(targets.assigned.flatten().tolist()) == {INVALID}
    assert targets.label_weights.sum() == 0


SEGMENTS = st.lists(
    st.tuples(st.integers(-50, 500), st.integers(1, 300)).map(lambda pair: (float(pair[0]), float(sum(pair)))),
    max_size=6,
)


@given(first=SEGMENTS, second=SEGMENTS)
def test_a_batch_is_assigned_as_its_windows_alone(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    together = assign(ANCHORS, truth(first, second))

    assert together[0].tolist() == one(*first)
    assert together[1].tolist() == one(*second)


@given(segments=SEGMENTS)
def test_every_segment_keeps_an_anchor_unless_another_one_ties_for_it(segments: list[tuple[float, float]]) -> None:
    assigned = torch.tensor(one(*segments))

    overlaps = tiou(ANCHORS, truth(segments).segments_frames)[0]
    for row in range(len(segments)):
        best = overlaps[:, row].max()
        if best > 0:
            assert (assigned[overlaps[:, row] == best] >= row + 1).all()


def test_segments_that_only_touch_overlap_by_zero() -> None:
    overlap = tiou(torch.tensor([[0.0, 10]]), torch.tensor([[[10.0, 20], [0, 10], [5, 15]]]))

    torch.testing.assert_close(overlap, torch.tensor([[[0.0, 1, 1 / 3]]]))


def test_segments_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match=r"expected segments \(N, 2\) and labels \(N,\)"):
        Truth.stack([torch.zeros(3, 2)], [torch.zeros(2, dtype=torch.int64)])


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="background_tiou <= positive_tiou"):
        AssignmentConfig(positive_tiou=0.4, background_tiou=0.6)


def golden_cases(golden: Path) -> list[dict[str, Any]]:
    """The official criterion's cases."""
    cases: list[dict[str, Any]] = json.loads((golden / "losses_thumos.json").read_text())["cases"]
    return cases


def golden_truth(arrays: Any, case: dict[str, Any]) -> Truth:
    """Ground truth of one case."""
    windows = range(len(case["n_gt"]))
    return Truth.stack(
        [torch.from_numpy(arrays[f"{case['name']}/gt{index}"]) for index in windows],
        [torch.from_numpy(arrays[f"{case['name']}/gt_label{index}"]) for index in windows],
    )


def golden_anchors(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Anchors (A, 2) and which of them are valid (B, A)."""
    sizes = list(zip(case["featmap_tsizes"], STRIDES, strict=True))
    anchors = torch.cat([level_anchors(steps, stride, HeadConfig()) for steps, stride in sizes])
    valid = [
        torch.cat([anchors_in_video(steps, stride, HeadConfig(), frames=frames) for steps, stride in sizes])
        for frames in case["pad_tsize"]
    ]
    return anchors, torch.stack(valid)


def test_golden_assignments_are_equal(golden: Path) -> None:
    arrays = np.load(golden / "losses_thumos.npz")
    for case in golden_cases(golden):
        anchors, is_valid = golden_anchors(case)
        assigned = assign(anchors, golden_truth(arrays, case), is_valid=is_valid)
        for index in range(len(assigned)):
            expected = arrays[f"{case['name']}/assign_gt_inds{index}"]
            np.testing.assert_array_equal(assigned[index].numpy(), expected, err_msg=f"{case['name']} {index}")


def test_golden_targets_are_equal(golden: Path) -> None:
    arrays = np.load(golden / "losses_thumos.npz")
    for case in golden_cases(golden):
        anchors, is_valid = golden_anchors(case)
        targets = make_targets(anchors, golden_truth(arrays, case), classes=CLASSES, is_valid=is_valid)
        got = {
            "labels": targets.labels,
            "label_weights": targets.label_weights,
            "segment_targets": targets.segments_frames,
            "segment_weights": targets.is_positive[..., None].expand(-1, -1, 2),
        }
        for name, value in got.items():
            expected = np.concatenate(
                [arrays[f"{case['name']}/{name}{level}"] for level in range(len(STRIDES))], axis=1
            )
            np.testing.assert_array_equal(value.numpy(), expected, err_msg=f"{case['name']} {name}")
