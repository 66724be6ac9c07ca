"""Changes of whole windows: exact where they can be, the same for every frame, and labels that follow a mirror."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import ConfigError
from tallformer_training.augmentation import (
    NO_AUGMENTATION,
    AugmentationConfig,
    Change,
    apply_change,
    draw_change,
    middle_crop,
    mirrored,
    normalise,
)

CROP = 24
PLAIN = np.zeros(3)


def noise(*, clips: int = 2, frames: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (clips, frames, side, side, 3), generator=generator, dtype=torch.uint8)


def seeds(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_without_augmentation_the_middle_is_exact() -> None:
    pixels = noise()

    changed = apply_change(pixels, draw_change(NO_AUGMENTATION, np.random.default_rng(0)), crop_px=CROP)

    assert changed.shape == (2, 3, 3, CROP, CROP)
    assert torch.equal(changed, pixels[:, :, 4:28, 4:28].permute(0, 4, 1, 2, 3).float())


def test_a_mirrored_middle_is_exact() -> None:
    pixels = noise()

    plain = apply_change(pixels, middle_crop(), crop_px=CROP)
    changed = apply_change(pixels, middle_crop(is_mirrored=True), crop_px=CROP)

    assert torch.equal(changed, plain.flip(-1))


@pytest.mark.parametrize("is_flipped", [False, True])
def test_a_rotation_by_a_quarter_turn_is_clockwise(is_flipped: bool) -> None:
    pixels = noise()

    change = Change((0.5, 0.5), is_flipped, 90.0, None, PLAIN)
    changed = apply_change(pixels, change, crop_px=CROP)

    upright = apply_change(pixels, middle_crop(), crop_px=CROP)
    expected = upright.rot90(-1, dims=(-2, -1))  # rot90 turns rows towards columns: once back is clockwise
    expected = expected.flip(-1) if is_flipped else expected  # mirrored after the rotation, as in the official code
    torch.testing.assert_close(changed, expected, rtol=0, atol=0.05)


def test_a_tiny_rotation_hardly_changes_the_crop() -> None:
    flat = torch.arange(32, dtype=torch.uint8)[None, None, :, None, None].expand(1, 1, 32, 32, 3) * 8

    for offset in ((0.0, 0.0), (1.0, 0.25)):
        plain = apply_change(flat, Change(offset, False, 0.0, None, PLAIN), crop_px=CROP)
        turned = apply_change(flat, Change(offset, False, 1e-3, None, PLAIN), crop_px=CROP)
        torch.testing.assert_close(plain, turned, rtol=0, atol=0.02)


def test_every_frame_of_a_window_is_changed_alike() -> None:
    config = AugmentationConfig(rotate=1.0, colour=1.0)
    frame = noise(clips=1, frames=1)
    pixels = frame.expand(3, 4, -1, -1, -1).contiguous()

    for generator in seeds(5):
        changed = apply_change(pixels, draw_change(config, generator), crop_px=CROP)
        assert torch.equal(changed, changed[:1, :, :1].expand_as(changed))


def test_a_batch_of_clips_is_each_clip_alone() -> None:
    config = AugmentationConfig(rotate=1.0, colour=1.0)
    pixels = noise()
    change = draw_change(config, np.random.default_rng(3))

    alone = torch.cat([apply_change(clip[None], change, crop_px=CROP) for clip in pixels])

    torch.testing.assert_close(apply_change(pixels, change, crop_px=CROP), alone)


def test_pixels_stay_in_their_range_whatever_is_drawn() -> None:
    config = AugmentationConfig(rotate=0.5, colour=1.0, contrast=(0.1, 5.0), brightness=200.0)
    for generator in seeds(30):
        changed = apply_change(noise(), draw_change(config, generator), crop_px=CROP)
        assert changed.min() >= 0
        assert changed.max() <= 255


def test_the_same_seed_draws_the_same_change() -> None:
    config = AugmentationConfig(rotate=1.0, colour=1.0)
    one, other = (draw_change(config, np.random.default_rng(7)) for _ in range(2))

    assert torch.equal(apply_change(noise(), one, crop_px=CROP), apply_change(noise(), other, crop_px=CROP))


def test_hue_and_saturation_leave_grey_alone() -> None:
    config = AugmentationConfig(rotate=0, flip=0, colour=1.0, brightness=0, contrast=(1.0, 1.0), hue_deg=180.0)
    grey = torch.full((1, 1, 32, 32, 3), 100, dtype=torch.uint8)
    for generator in seeds(10):
        changed = apply_change(grey, draw_change(config, generator), crop_px=CROP)
        torch.testing.assert_close(changed, torch.full_like(changed, 100.0), rtol=0, atol=1e-3)


def test_a_third_of_the_circle_turns_red_into_green() -> None:
    config = AugmentationConfig(colour=1.0, brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue_deg=120.0)
    red = torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8)
    red[..., 0] = 200
    found = {
        tuple(round(value) for value in apply_change(red, change, crop_px=CROP)[0, :, 0, 0, 0].tolist())
        for generator in seeds(200)
        if abs(abs((change := draw_change(config, generator)).matrix[0, 0])) < 0.02  # near 120 degrees either way
    }

    assert any(green > 190 and blue < 20 for _, green, blue in found)
    assert any(blue > 190 and green < 20 for _, green, blue in found)


def test_brightness_is_added_and_contrast_multiplied() -> None:
    pixels = torch.full((1, 1, 32, 32, 3), 100, dtype=torch.uint8)
    steady = {"colour": 1.0, "rotate": 0.0, "hue_deg": 0.0, "saturation": (1.0, 1.0)}
    darker = AugmentationConfig(**steady, brightness=0.0, contrast=(0.5, 0.5))
    brighter = AugmentationConfig(**steady, brightness=30.0, contrast=(1.0, 1.0))

    contrasts = {
        round(apply_change(pixels, draw_change(darker, generator), crop_px=CROP).mean().item(), 3)
        for generator in seeds(20)
    }
    means = [
        apply_change(pixels, draw_change(brighter, generator), crop_px=CROP).mean().item() for generator in seeds(60)
    ]

    assert contrasts == {50.0, 100.0}
    assert 70 <= min(means) < 80
    assert 120 < max(means) <= 130
    assert 15 < sum(mean == 100 for mean in means) < 45  # a chance of a half each


def test_frames_beyond_the_video_are_zero_after_normalising() -> None:
    clips = torch.full((2, 3, 4, 5, 5), 50.0)

    out = normalise(clips, torch.tensor([4, 1]), SamplingConfig(mean=(10, 20, 30), std=(2, 4, 5)))

    assert out[0, :, 3, 0, 0].tolist() == [20, 7.5, 4]
    assert out[1, :, 0, 0, 0].tolist() == [20, 7.5, 4]
    assert not out[1, :, 1:].any()


def test_mirrored_labels_change_places() -> None:
    classes = ("left", "jump", "right")

    assert mirrored(np.array([0, 1, 2, 0]), classes, (("left", "right"),)).tolist() == [2, 1, 0, 2]
    assert mirrored(np.array([0, 1]), classes, ()).tolist() == [0, 1]
    assert mirrored(np.zeros(0, np.int64), classes, (("left", "right"),)).tolist() == []
    with pytest.raises(ConfigError, match="mirrored_classes names 'up'"):
        mirrored(np.array([0]), classes, (("left", "up"),))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, r"flip=1.5 must be in \[0, 1\]"),
        ({"contrast": (1.5, 0.5)}, "must be ascending and at least 0"),
        ({"mirrored_classes": (("a", "b"), ("b", "c"))}, "names a class twice"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentationConfig(**settings)  # type: ignore[arg-type]
