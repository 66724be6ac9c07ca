"""From the head's outputs to segments: values worked out by hand, and properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tallformer_infer.config import HeadConfig
from tallformer_training.model import HeadOutputs
from tallformer_training.model.head import decode_segments, decode_windows
from tests.small_detector import numbers


@pytest.mark.parametrize(
    ("anchor", "delta", "segment"),
    [
        ((-8.0, 8.0), (0.1, 0.2), (-8.1712, 11.3712)),
        ((100.0, 200.0), (0.5, 3.0), (64.0859, 335.9141)),  # the stretch is limited to e
        ((100.0, 200.0), (0.0, 1.0), (14.0859, 285.9141)),
        ((100.0, 200.0), (-2.0, -1.0), (-68.3940, -31.6060)),  # the shrinking is not
        ((100.0, 200.0), (0.0, -9.0), (149.9938, 150.0062)),
        ((100.0, 200.0), (0.0, 0.0), (100.0, 200.0)),
    ],
)
def test_anchors_move_by_their_length_and_stretch_at_most_by_e(
    anchor: tuple[float, float], delta: tuple[float, float], segment: tuple[float, float]
) -> None:
    assert_close(decode_segments(torch.tensor(anchor), torch.tensor(delta)), torch.tensor(segment), rtol=0, atol=1e-4)


def outputs(steps: int = 4, *, batch: int = 2, classes: int = 3) -> HeadOutputs:
    """One level of stride 8 with two scales."""
    return HeadOutputs([numbers(batch, 2 * classes, steps)], [0.1 * numbers(batch, 4, steps, seed=1)])


def decode(head_outputs: HeadOutputs, *, start: int = 0, real: int = 32, keep: int = 1000) -> tuple[Tensor, Tensor]:
    return decode_windows(
        head_outputs,
        HeadConfig(scales=2),
        strides=(8,),
        anchors_per_level=keep,
        window_start_frames=torch.tensor([start, start + 7]),
        real_frames=torch.tensor([real, real]),
    )


def test_segments_are_limited_to_the_real_frames_before_they_move_to_their_window() -> None:
    segments, scores = decode(outputs(), start=360, real=20)

    assert segments.shape == (2, 8, 2)
    assert scores.shape == (2, 8, 3)
    assert segments[0].min() == 360
    assert segments[0].max() == 380
    assert segments[1].min() == 367


def test_anchors_in_the_padding_become_segments_of_no_length_and_stay() -> None:
    segments, _ = decode(outputs(steps=12), real=8)

    assert segments.shape[1] == 24
    assert segments[0, -1].tolist() == [8, 8]


def test_the_kept_anchors_are_those_with_the_best_class() -> None:
    everything, scores = decode(outputs())

    best, best_scores = decode(outputs(), keep=3)

    order = scores.amax(-1).argsort(dim=-1, descending=True)[:, :3]
    for window in range(2):
        assert_close(best[window], everything[window, order[window]])
        assert_close(best_scores[window], scores[window, order[window]])


def test_as_many_anchors_as_are_kept_stay_in_their_own_order() -> None:
    everything, _ = decode(outputs())

    kept, _ = decode(outputs(), keep=8)

    assert torch.equal(kept, everything)


def test_a_window_is_decoded_alike_alone_and_in_a_batch() -> None:
    both = outputs()
    second = HeadOutputs([both.logits[0][1:]], [both.regressions[0][1:]])

    alone = decode_windows(
        second,
        HeadConfig(scales=2),
        strides=(8,),
        anchors_per_level=5,
        window_start_frames=torch.tensor([7]),
        real_frames=torch.tensor([32]),
    )

    segments, scores = decode(both, keep=5)
    assert torch.equal(alone.segments_frames[0], segments[1])
    assert torch.equal(alone.scores[0], scores[1])


def test_channels_are_scale_major() -> None:
    head_outputs = HeadOutputs([torch.full((1, 6, 2), -9.0)], [torch.zeros(1, 4, 2)])
    head_outputs.logits[0][0, 1 * 3 + 2, 1] = 9.0  # second scale, third class, second step

    segments, scores = decode_windows(
        head_outputs,
        HeadConfig(scales=2),
        strides=(8,),
        anchors_per_level=99,
        window_start_frames=torch.tensor([0]),
        real_frames=torch.tensor([100]),
    )

    assert scores[0].argmax().item() == 3 * 3 + 2  # anchor 3 of (step, scale), class 2
    assert_close(segments[0, 3], torch.tensor([0.0, 8 + 8 * 2**0.5]))  # centre 8, length 16 √2
