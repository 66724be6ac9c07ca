"""Clips of many attention windows go through the encoder slab by slab, and give the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tallformer_infer.config import preset
from tallformer_training.model import backbone
from tallformer_training.model.backbone import VideoSwin
from tests.small_detector import SMALL, numbers

SWIN = replace(SMALL.model.backbone, drop_path=0.0)
"""Windows of 4 steps in time, shifted by 2, and of 3 x 3 positions, shifted by 1."""


@pytest.mark.parametrize("frames", [24, 32, 80, 96, 62])
@pytest.mark.parametrize("is_known", [False, True])
def test_slabs_give_what_all_windows_at_once_give(frames: int, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = numbers(2, 3, frames, 32, 28, seed=1)
    size = (frames, 32, 28) if is_known else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = VideoSwin(SWIN, clip_size=size).eval()
    monkeypatch.setattr(backbone, "_MASK_WINDOWS", 10**6)
    whole = VideoSwin(SWIN, clip_size=size).eval()
    whole.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        expected = whole(clips)
    monkeypatch.undo()

    with torch.no_grad():
        found = encoder(clips)

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_recomputed_slabs_have_the_same_gradients() -> None:
    clips = numbers(1, 3, 40, 32, 32, seed=2)
    gradients = []
    for checkpointing in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = VideoSwin(SWIN, checkpointing=checkpointing).train()
        encoder(clips).square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])

    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_the_masks_of_a_minute_are_those_of_two_windows() -> None:
    recipe = preset("thumos14-opentad-swin-t")
    minute, clip = (
        VideoSwin(recipe.model.backbone, clip_size=(frames, 64, 64)).layers[0].mask
        for frames in (recipe.window.clip_frames, 32)
    )

    assert torch.equal(minute, clip)  # at 224 px 79 MB, where those of all 64 windows in time would be 2.5 GB
