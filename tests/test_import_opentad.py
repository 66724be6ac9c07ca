"""OpenTAD's Video Swin with ActionFormer: names, shapes and arithmetic against a second derivation of all three."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from tallformer_infer.cli import app
from tallformer_infer.config import Recipe, preset, to_json
from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import load_detector
from tallformer_training.importing import import_checkpoint
from tallformer_training.importing.naming import official_names
from tallformer_training.model import Detector
from tallformer_training.model.transformer_pyramid import ConvTransformerBlock
from tests.official_file import saved
from tests.opentad_model import Sizes, detect, run_block, shapes
from tests.point_recipe import CLIPS, SIZES, WHOLE_WINDOW, opentad_weights

WEIGHTS = {"rtol": 1e-4, "atol": 1e-4}


def imported(tmp_path: Path, weights: dict[str, Tensor], recipe: Recipe = WHOLE_WINDOW) -> Detector:
    file = {"epoch": 79, "state_dict_ema": {f"module.{name}": value for name, value in weights.items()}}
    state, _ = import_checkpoint(saved(tmp_path, file), recipe)
    detector = Detector(recipe).eval()
    detector.load_state_dict(state)
    return detector


def test_the_preset_has_the_names_and_shapes_of_the_published_model() -> None:
    recipe = preset("thumos14-opentad-swin-t")
    with torch.device("meta"):
        detector = Detector(recipe)
    state = detector.state_dict()
    names = official_names(recipe.model, state)

    ours = {names[name]: tuple(tensor.shape) for name, tensor in state.items()}
    inside, last = "backbone.model.backbone.", "backbone.norm3."
    theirs = {
        name.replace(inside, "backbone.").replace(last, "backbone.norm."): shape
        for name, shape in shapes(Sizes()).items()
        if not name.endswith("relative_position_index")
    }
    assert ours == theirs
    # Encoder: 12 blocks of 14, three mergings of 3, the rest; 7 blocks of 27; embedding, norms of levels, head.
    assert len(shapes(Sizes())) == (12 * 14 + 3 * 3 + 4 + 2) + 7 * 27 + 2 * 3 + 6 * 2 + (4 * 3 + 4 + 6 + 1)
    # Counted by hand: a block of 512 channels has 4 C² (attention) + 8 C² (MLP) + 9 C (three convolutions) + 10 C
    # (five norms) + 4 C + 5 C (biases) + 2 C (scales); seven of them, and what is around them.
    c = 512
    block = 12 * c * c + 30 * c
    embed = 3 * c * 768 + 3 * c * c + 4 * c
    head = 4 * (3 * c * c + 2 * c) + (20 + 2) * (3 * c + 1) + 6
    after_encoder = sum(p.numel() for name, p in detector.named_parameters() if not name.startswith("backbone."))
    assert after_encoder == 7 * block + embed + 6 * 2 * c + head


def test_every_name_of_the_file_is_accounted_for(tmp_path: Path) -> None:
    weights = opentad_weights()
    index = {
        f"backbone.model.backbone.{name.removeprefix('backbone.')}": buffer
        for name, buffer in Detector(WHOLE_WINDOW).named_buffers(remove_duplicate=False)
        if name.endswith("relative_position_index")
    }
    path = saved(tmp_path, {"state_dict": opentad_weights(seed=1), "state_dict_ema": weights | index})

    state, report = import_checkpoint(path, WHOLE_WINDOW)

    assert report.layout == "OpenTAD detector"
    assert report.container == "state_dict_ema"
    assert len(report.loaded) + len(report.ignored) == len(shapes(SIZES)) == len(weights) + 4
    assert torch.equal(state["backbone.norm.bias"], weights["backbone.model.backbone.norm1.bias"])
    assert torch.equal(state["pyramid.branch.2.fc2.weight"], weights["projection.branch.2.mlp.3.weight"])
    assert state["head.loss_normaliser"] == 143.5


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("projection.stem.1.attn.key_norm.bias", None, r"1 missing \(pyramid\.stem\.1\.attn\.key_norm\.bias\)"),
        ("projection.stem.1.attn.rel_pe", torch.zeros(4), r"1 unexpected \(projection\.stem\.1\.attn\.rel_pe\)"),
        ("rpn_head.cls_head.bias", torch.zeros(7), r"rpn_head\.cls_head\.bias is \[7\]"),
        ("neck.fpn_norms.3.bias", torch.full((32,), torch.nan), r"neck\.fpn_norms\.3\.bias holds NaN"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    weights = opentad_weights()
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor

    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(saved(tmp_path, weights), WHOLE_WINDOW)


def test_a_file_of_opentad_does_not_fit_an_anchor_model(tmp_path: Path) -> None:
    path = saved(tmp_path, opentad_weights())

    with pytest.raises(CheckpointError, match="missing"):
        import_checkpoint(path, preset("tiny"))


def test_a_recipe_with_other_clips_or_pixels_is_refused_though_all_names_and_shapes_fit(tmp_path: Path) -> None:
    path = saved(tmp_path, opentad_weights())

    with pytest.raises(
        CheckpointError, match=r"OpenTAD's encoder sees a window as one clip, .* clip_frames=16 of window"
    ):
        import_checkpoint(path, CLIPS)
    with pytest.raises(CheckpointError, match=r"OpenTAD repeats the last frame .*, but the recipe says fill=black"):
        import_checkpoint(path, replace(WHOLE_WINDOW, sampling=replace(WHOLE_WINDOW.sampling, fill="black")))


def test_a_normaliser_saved_before_training_is_a_whole_number(tmp_path: Path) -> None:
    weights = opentad_weights() | {"rpn_head.loss_normalizer": torch.tensor(100)}

    state, _ = import_checkpoint(saved(tmp_path, weights), WHOLE_WINDOW)

    assert state["head.loss_normaliser"].dtype == torch.float32


@pytest.mark.parametrize(
    ("real_frames", "width"), [(64, None), (41, None), (42, None), (6, None), (2, None), (64, 5), (41, 5), (6, 3)]
)
def test_scores_and_segments_are_those_of_the_second_derivation(
    tmp_path: Path, real_frames: int, width: int | None
) -> None:
    weights = opentad_weights()
    pyramid = replace(WHOLE_WINDOW.model.pyramid, attention_steps=() if width is None else (width,) * 4)
    recipe = replace(WHOLE_WINDOW, model=replace(WHOLE_WINDOW.model, pyramid=pyramid))
    detector = imported(tmp_path, weights, recipe)
    features = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(5))
    start, real = torch.tensor([64]), torch.tensor([real_frames])

    with torch.no_grad():
        outputs = detector.localize(features, real)
        found = detector.decode(outputs, start, real)

    scores, segments = detect(weights, features[0], real_frames // 2, SIZES, width=width)
    is_real = outputs.is_real[0]
    assert int(is_real.sum()) == len(scores)
    np.testing.assert_allclose(found.scores[0, is_real], scores, **WEIGHTS)
    expected = (segments * 2).clamp(min=0, max=real_frames) + 64  # OpenTAD's are limited to the video only
    np.testing.assert_allclose(found.segments_frames[0, is_real], expected, rtol=1e-4, atol=1e-3)
    assert not found.scores[0, ~is_real].any()


@pytest.mark.parametrize(
    ("stride", "steps", "valid", "expected"),
    [
        (1, 4, 2, [[0.673642, 0.258225, -0.293878, 1.168522], [0.236484, 1.164262, -1.050951, 1.251881]]),
        (2, 8, 3, [[0.690563, 0.744501, -0.420671, 1.322749], [0.214473, 0.918526, 0.504958, 1.296818]]),
    ],
)
def test_a_block_whose_window_is_not_full_gives_the_values_of_opentad(
    stride: int, steps: int, valid: int, expected: list[list[float]]
) -> None:
    """Computed with OpenTAD's `TransformerBlock` (commit 3dd7b03), rows are steps of the video.

    Weights are .5 sin(n + k) for the n-th number of the k-th tensor, sorted by our names.
    """
    config = replace(WHOLE_WINDOW.model.pyramid, heads=2, drop_path=0.0)
    block = ConvTransformerBlock(4, config, stride=stride, width=None).eval()
    state = block.state_dict()
    for number, name in enumerate(sorted(state)):
        state[name] = (0.5 * torch.sin(torch.arange(state[name].numel()) + number)).reshape(state[name].shape)
    block.load_state_dict(state)
    is_real = (torch.arange(steps) < valid).float()
    x = torch.cos(torch.arange(4 * steps).float()).reshape(4, steps) * is_real

    with torch.no_grad():
        found = block(x[None], is_real[None, None, ::stride])[0]
    names = official_names(WHOLE_WINDOW.model, (f"pyramid.stem.0.{name}" for name in state))
    weights = {official: state[name.removeprefix("pyramid.stem.0.")] for name, official in names.items()}
    again = run_block(weights, "projection.stem.0", x, -(-valid // stride), (stride, 2, None))

    np.testing.assert_allclose(found[:, :2].T, expected, atol=2e-6)
    np.testing.assert_allclose(again[:, :2].T, expected, atol=2e-6)
    assert not found[:, 2:].any()


def test_what_lies_behind_the_video_changes_at_most_what_its_last_step_sees(tmp_path: Path) -> None:
    detector = imported(tmp_path, opentad_weights())
    features = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(6))
    other = features.clone()
    other[..., 21:] = 7.0  # the first convolution reads step 20 when it is at step 19, the last one

    with torch.no_grad():
        here, there = (detector.localize(value, torch.tensor([40])) for value in (features, other))

    assert torch.equal(here.logits[here.is_real], there.logits[here.is_real])
    assert torch.equal(here.distances[here.is_real], there.distances[here.is_real])


def test_the_command_imports_it(tmp_path: Path) -> None:
    path, recipe, out = saved(tmp_path, opentad_weights()), tmp_path / "recipe.json", tmp_path / "model.safetensors"
    recipe.write_text(json.dumps(to_json(WHOLE_WINDOW)))

    done = CliRunner().invoke(app, ["import", str(path), "--recipe", str(recipe), "--out", str(out)])

    assert done.exit_code == 0, done.output
    detector, checkpoint = load_detector(out)
    assert checkpoint.provenance["trained"]
    assert checkpoint.provenance["source"]["layout"] == "OpenTAD detector"
    assert float(detector.head.loss_normaliser) == 143.5
