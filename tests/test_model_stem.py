"""The stem that sees motion, and pooling by the largest value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tallformer_infer.config import BackboneConfig
from tallformer_infer.errors import ConfigError
from tallformer_training.model.backbone import MotionStem, VideoSwin
from tests.small_detector import numbers

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = BackboneConfig(
    embed_channels=16, depths=(2, 2), heads=(2, 2), window=(4, 2, 2), patch=(2, 8, 8), stem="motion", frozen_stages=-1
)


def encoder(config: BackboneConfig = CONFIG) -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(config).eval()


@pytest.mark.parametrize("size", [(8, 32, 32), (7, 30, 17), (1, 8, 8), (2, 1, 1)])
def test_a_motion_stem_gives_the_map_that_patches_give(size: tuple[int, int, int]) -> None:
    clip = numbers(2, 3, *size)

    motion, patches = encoder()(clip), encoder(replace(CONFIG, stem="patch"))(clip)

    assert motion.shape == patches.shape


def test_a_motion_stem_looks_at_changes_only() -> None:
    still, moving = numbers(2, 3, 1, 32, 32).expand(-1, -1, 8, -1, -1), numbers(2, 3, 8, 32, 32, seed=1)

    stem = MotionStem((2, 8, 8), 16).eval()

    with torch.no_grad():
        assert torch.equal(stem(still)[0], stem(still)[1])
        assert torch.allclose(stem(moving), stem(moving + 5), atol=1e-4)
        assert (stem(moving)[0] - stem(moving)[1]).abs().max() > 1e-3


def test_a_motion_stem_does_not_look_ahead_of_its_two_convolved_steps() -> None:
    clip = numbers(1, 3, 16, 16, 16)
    later = clip.clone()
    later[:, :, 12:] += 1

    stem = MotionStem((2, 8, 8), 16).eval()  # three convolutions: each sees one step ahead

    with torch.no_grad():
        same = (stem(clip) == stem(later)).flatten(2).all(dim=2)[0]
    assert same[:4].all()


def test_max_pooling_finds_one_place_in_a_large_picture() -> None:
    small, large = numbers(1, 3, 8, 32, 32), torch.zeros(1, 3, 8, 96, 96)
    large[..., 32:64, 32:64] = small
    config = replace(CONFIG, depths=(1,), heads=(2,), window=(4, 1, 1))

    means, maxima = (encoder(replace(config, pooling=pooling)) for pooling in ("mean", "max"))

    with torch.no_grad():
        assert means(large).mean(dim=(2, 3)).transpose(1, 2).allclose(means.steps(large), atol=1e-6)
        inner = maxima.steps(large)
        assert inner.shape == means.steps(large).shape
        assert torch.allclose(inner, maxima.norm(maxima._maps(large).amax(dim=(2, 3))).transpose(1, 2))
        quiet = maxima.steps(torch.zeros_like(large))
        assert (inner - quiet).abs().mean() > (means.steps(large) - means.steps(torch.zeros_like(large))).abs().mean()


@pytest.mark.parametrize("patch", [(4, 8, 8), (2, 8, 4), (2, 6, 6), (2, 1, 1)])
def test_a_motion_stem_needs_two_frames_and_a_power_of_two(patch: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="must be 2 frames and a power of two of pixels"):
        replace(CONFIG, patch=patch)


def test_a_motion_stem_halves_channels_backwards() -> None:
    with pytest.raises(ConfigError, match="embed_channels=18 must be a multiple of 4"):
        replace(CONFIG, embed_channels=18)
