"""What an import says of files that do not fit: what they hold, and which recipe they fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tallformer_infer.config import preset
from tallformer_infer.errors import CheckpointError, ConfigError
from tallformer_training.importing import import_checkpoint, match_checkpoint
from tallformer_training.importing.naming import official_names
from tallformer_training.model import Detector
from tests import opentad_model
from tests.official_file import official, saved
from tests.small_detector import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def number(*shape: int) -> Tensor:
    """A tensor of that shape, of which a file stores one number."""
    return torch.tensor(0.5).expand(shape)


def detector_file(name: str) -> dict[str, Tensor]:
    """What the official code would save of a preset's model."""
    with torch.device("meta"):
        state = Detector(preset(name)).state_dict()
    names = official_names(preset(name).model, state)
    return {names[ours]: number(*tensor.shape) for ours, tensor in state.items() if "num_batches" not in ours}


def encoder_file(name: str) -> dict[str, Tensor]:
    """The encoder of it with a classifier, as the Video Swin project saves them."""
    file = {key: value for key, value in detector_file(name).items() if key.startswith("backbone.")}
    return file | {"cls_head.fc_cls.bias": number(400)}


def message(tmp_path: Path, file: object, recipe: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(saved(tmp_path, file), preset(recipe))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_file_of_opentad_is_refused_for_the_recipe_of_the_same_shapes(tmp_path: Path) -> None:
    file = {name: number(*shape) for name, shape in opentad_model.shapes(opentad_model.Sizes()).items()}
    file = {name: value for name, value in file.items() if not name.endswith("relative_position_index")}
    path = saved(tmp_path, {"state_dict_ema": file})

    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(path, preset("thumos14-swin-t-actionformer"))
    right = match_checkpoint(path, preset("thumos14-opentad-swin-t"))[1]

    assert "2 contradictory (OpenTAD's encoder sees a window as one clip" in str(caught.value)
    assert "clip_frames=32 of window_frames=1024" in str(caught.value)
    assert str(caught.value).endswith(
        "; the file contains an OpenTAD detector with Video Swin-T; it fits --recipe thumos14-opentad-swin-t"
    )
    assert right.complete
    assert right.twins == ()


def test_a_detector_of_another_size_names_its_recipes(tmp_path: Path) -> None:
    said = message(tmp_path, detector_file("thumos14-swin-t"), "thumos14-swin-s")

    assert "--allow-missing" not in said
    assert said.endswith(
        "; the file contains a TALLFormer detector with Video Swin-T; "
        "it fits --recipe thumos14-swin-t or thumos14-swin-t-112"
    )


def test_a_file_of_the_right_recipe_that_is_damaged_is_sent_to_no_other(tmp_path: Path) -> None:
    file = detector_file("thumos14-swin-t")
    file["backbone.norm.bias"] = torch.full((768,), torch.nan)

    assert message(tmp_path, file, "thumos14-swin-t").endswith("(backbone.norm.bias holds NaN or infinity)")


def test_two_recipes_of_the_same_shapes_are_named(tmp_path: Path) -> None:
    report = match_checkpoint(saved(tmp_path, detector_file("thumos14-swin-t")), preset("thumos14-swin-t"))[1]

    assert (
        "names and shapes are also those of thumos14-swin-t-112: use the recipe that the file was trained with"
        in report.lines()
    )


def test_an_encoder_alone_names_the_parts_to_leave_out(tmp_path: Path) -> None:
    said = message(tmp_path, encoder_file("thumos14-swin-t"), "thumos14-swin-t")

    assert said.endswith(
        "; the file contains Video Swin-T and no detector; "
        "to start training from it, add --allow-missing 'head.*' --allow-missing 'neck.*'"
    )


def test_an_encoder_of_another_size_names_recipes_and_nothing_to_leave_out(tmp_path: Path) -> None:
    said = message(tmp_path, encoder_file("thumos14-swin-t"), "thumos14-swin-s")

    assert "--allow-missing" not in said
    assert said.endswith(
        "the file contains Video Swin-T and no detector; training can start from it with --recipe thumos14-swin-t or "
        "thumos14-swin-t-112 or anet-swin-t or thumos14-opentad-swin-t or thumos14-swin-t-actionformer"
    )


def test_an_encoder_without_a_recipe_is_named(tmp_path: Path) -> None:
    file = encoder_file("thumos14-swin-s")
    file["backbone.patch_embed.proj.weight"] = number(192, 3, 2, 4, 4)

    said = message(tmp_path, file, "thumos14-swin-s")

    assert "--allow-missing" not in said
    assert said.endswith("Video Swin-L and no detector; no recipe has that encoder")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            # `libs/modeling/meta_archs.py` of actionformer_release
            ["backbone.embd.0.conv.weight", "neck.fpn_norms.0.weight", "cls_head.cls_head.conv.bias"],
            "a checkpoint of actionformer_release: ActionFormer on stored features, without a video encoder",
        ),
        (
            ["projection.embed.0.conv.weight", "neck.fpn_norms.0.weight", "rpn_head.cls_head.bias"],
            "an OpenTAD detector on stored features, without a video encoder",
        ),
        (
            ["backbone.model.backbone.blocks.0.attn.qkv.weight", "projection.embed.0.conv.weight"],
            "an OpenTAD detector with an encoder other than Video Swin, which no recipe has",
        ),
    ],
)
def test_other_detectors_are_recognised(tmp_path: Path, names: list[str], expected: str) -> None:
    file = {"epoch": 35, "state_dict_ema": {f"module.{name}": number(8) for name in names}}

    assert message(tmp_path, file, "tiny").startswith(f"{tmp_path / 'official.pth'}: {expected}")


@pytest.mark.parametrize("pattern", ["*", "**", "?*", "*.*"])
def test_a_pattern_that_allows_all_weights_to_be_missing_is_refused(tmp_path: Path, pattern: str) -> None:
    path = saved(tmp_path, official())

    with pytest.raises(ConfigError, match=r"--allow-missing '.*' matches all weights; name only the parts"):
        import_checkpoint(path, SMALL, allow_missing=["head.*", pattern])


@pytest.mark.parametrize("pattern", ["heads.*", "head", "neck", ""])
def test_a_pattern_that_matches_no_parameter_is_refused(tmp_path: Path, pattern: str) -> None:
    expected = (
        rf"--allow-missing '{pattern}': no parameter of .* small .*; its parts are backbone\.\*, head\.\*, neck\.\*$"
    )

    with pytest.raises(ConfigError, match=expected):
        import_checkpoint(saved(tmp_path, official()), SMALL, allow_missing=[pattern])


def test_a_missing_weight_of_the_encoder_is_never_to_be_left_out(tmp_path: Path) -> None:
    file = official()
    del file["backbone.norm.bias"]

    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(saved(tmp_path, file), SMALL)

    assert "1 missing (backbone.norm.bias)" in str(caught.value)
    assert "--allow-missing" not in str(caught.value)
