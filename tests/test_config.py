"""Recipes: what they refuse, and that JSON carries all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallformer_infer.config import (
    RECIPES,
    BackboneConfig,
    PyramidConfig,
    Recipe,
    SamplingConfig,
    SuppressConfig,
    from_json,
    preset,
    read_recipe,
    recipe_from_json,
    to_json,
)
from tallformer_infer.errors import ConfigError


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(to_json(preset(name))))

    assert read_recipe(tmp_path / "recipe.json") == preset(name)


def test_the_official_numbers_are_the_defaults() -> None:
    recipe = preset("thumos14-swin-b")

    assert recipe.model.level_strides == (8, 16, 32, 64, 128)
    assert recipe.window.clips == 15
    assert recipe.window_steps == 240
    assert recipe.model.backbone.out_channels == 1024
    assert len(recipe.classes) == 20


def changed(path: str, value: object) -> object:
    """The Swin-B recipe as JSON with one value changed, or removed where the value is `...`."""
    data = to_json(preset("thumos14-swin-b"))
    *folders, key = path.split(".")
    place = data
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("window.clip_frames", "32", r"recipe\.window\.clip_frames: expected a whole number, got \"32\""),
        ("window.clip_frames", True, r"expected a whole number, got true"),
        ("window.clipframes", 32, r"recipe\.window\.clipframes: no such key; there are window_frames, clip_frames"),
        ("sampling.resize", "stretch", r"expected one of squash, short_side, none, got \"stretch\""),
        ("sampling.mean", [1, 2], r"recipe\.sampling\.mean: expected 3 values, got 2"),
        ("sampling.mean", 3, r"recipe\.sampling\.mean: expected a list, got 3"),
        ("model.backbone.depths", [2, "2"], r"recipe\.model\.backbone\.depths\[1\]: expected a whole number"),
        ("model.backbone", [], r"recipe\.model\.backbone: expected an object, got \[\]"),
        ("classes", ..., r"recipe\.classes: missing"),
        ("window.window_frames", 500, "clip_frames=32 must divide window_frames=500"),
        ("window.overlap", 1, r"overlap=1\.0 must be in \[0, 1\)"),
        ("classes", ["a", "a"], "classes must be given, each once"),
        ("model.tcm.max_steps", 59, r"tcm\.max_steps=59 must be at least 60"),
        ("sampling.crop_px", 300, "crop_px=300 must not exceed resize_px=256"),
        ("sampling.sample_fps", 0, r"sample_fps=0\.0 must be in \[0\.01, 1000\]"),
        ("sampling.sample_fps", float("inf"), r"sample_fps=inf must be in"),
        ("sampling.crop_px", 0, "crop_px=0 must be at least 1"),
        ("sampling.std", [1, 0, 1], r"std=\[1\.0, 0\.0, 1\.0\] above 0"),
        ("window.window_frames", 0, "clip_frames=32 must divide window_frames=0"),
        ("model.backbone.embed_channels", 0, "backbone: embed_channels=0 must be at least 1"),
        ("model.backbone.window", [8, 0, 7], r"backbone: window=\[8, 0, 7\] must be at least 1"),
        ("model.channels", -1, "model: channels=-1 must be at least 1"),
        ("model.head.scale_base", 0, r"head: scale_base=0\.0 must be above 0"),
        ("model.tcm.layers", 0, "tcm: layers=0 must be at least 1"),
        ("candidates.per_video", 0, "candidates: per_video=0 must be at least 1"),
        ("suppress.tiou_threshold", 0, r"tiou_threshold=0\.0 must be in \(0, 1\]"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key_and_what_was_expected(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_json(changed(path, value))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        read_recipe(tmp_path / "recipe.json")
    assert str(caught.value).startswith(f"{tmp_path / 'recipe.json'}: not JSON: ")
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json: No such file"):
        read_recipe(tmp_path / "gone.json")
    with pytest.raises(ConfigError, match="swin: no such recipe; there are thumos14-swin-b, "):
        preset("swin")


def test_architectures_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads=5 must divide the 96 channels of stage 0"):
        BackboneConfig(embed_channels=96, depths=(2,), heads=(5,))
    with pytest.raises(ConfigError, match=r"depths=\[2, 2\] and heads=\[3\] must be as many"):
        BackboneConfig(embed_channels=96, depths=(2, 2), heads=(3,))
    with pytest.raises(ConfigError, match=r"attention_steps=\[7, 7, 5, 5\] must have 3 entries"):
        PyramidConfig(levels=4)
    with pytest.raises(ConfigError, match="max_per_video=0 must be at least 1"):
        SuppressConfig(max_per_video=0)
    with pytest.raises(ConfigError, match="clip_frames=3 must"):
        Recipe(
            name="odd",
            classes=("a",),
            model=preset("tiny").model,
            sampling=SamplingConfig(),
            window=type(preset("tiny").window)(window_frames=480, clip_frames=3),
        )


def test_the_resize_filter_changes_no_description_that_has_the_default():
    default, other = SamplingConfig(), SamplingConfig(resize_filter="bilinear")

    assert "resize_filter" not in to_json(default)  # feature stores and caches hash it
    assert to_json(other)["resize_filter"] == "bilinear"
    for sampling in (default, other):
        assert from_json(SamplingConfig, to_json(sampling), where="sampling") == sampling
