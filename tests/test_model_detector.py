"""Properties of the whole detector: encoding in clips, freezing, recomputation, initialisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tallformer_infer.config import PyramidConfig, Recipe, SamplingConfig
from tallformer_training.importing.naming import official_names
from tallformer_training.model.backbone import VideoSwin
from tests.small_detector import SMALL, build, numbers

pytestmark = pytest.mark.usefixtures("one_thread")


def with_backbone(**changes: object) -> Recipe:
    backbone = replace(SMALL.model.backbone, **changes)  # type: ignore[arg-type]
    return replace(SMALL, model=replace(SMALL.model, backbone=backbone))


def test_a_clip_alone_equals_it_in_a_batch() -> None:
    detector = build().eval()
    clips = numbers(3, 3, 16, 32, 32)

    with torch.no_grad():
        batch = detector.encode(clips)
        singles = torch.cat([detector.encode(clip[None]) for clip in clips])

    assert batch.shape == (3, 32, 8)
    assert_close(batch, singles, rtol=1e-5, atol=1e-6)


def test_a_sequence_equals_its_clips_one_after_another() -> None:
    detector = build().eval()
    sequence = numbers(2, 3, 48, 32, 32)

    with torch.no_grad():
        whole = detector.encode_frames(sequence)
        clip_major = detector.encode_clip_major(torch.stack(sequence.split(16, dim=2)))

    assert_close(whole, torch.cat(clip_major.unbind(0), dim=-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 15, 17, 31])
def test_a_last_clip_is_filled_with_zeros_and_its_filling_cut_off(length: int) -> None:
    detector = build().eval()
    sequence = numbers(1, 3, length, 32, 32)
    filled = torch.cat([sequence, torch.zeros(1, 3, -length % 16, 32, 32)], dim=2)

    with torch.no_grad():
        features, expected = detector.encode_frames(sequence), detector.encode_frames(filled)

    assert features.shape == (1, 32, -(-length // 2))
    assert_close(features, expected[..., : features.shape[-1]], rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_halves_equal_the_whole(batch: int) -> None:
    detector = build().eval()
    sequence = numbers(batch, 3, 32, 32, 32)

    with torch.no_grad():
        assert_close(detector.encode_halves(sequence), detector.encode_frames(sequence), rtol=1e-5, atol=1e-6)


def test_another_size_than_the_recipes_gets_its_own_masks() -> None:
    prepared, other = build(), build(replace(SMALL, sampling=SamplingConfig(resize="none", crop_px=64)))
    other.load_state_dict(prepared.state_dict())
    clips = numbers(1, 3, 16, 32, 32)

    with torch.no_grad():
        assert_close(other.eval().encode(clips), prepared.eval().encode(clips), rtol=0, atol=0)


def test_a_window_alone_equals_it_in_a_batch() -> None:
    detector = build().eval()
    features = numbers(3, 32, 32)

    with torch.no_grad():
        batch = detector.localize(features)
        second = detector.localize(features[1:2])

    for level in range(3):
        assert_close(batch.logits[level][1:2], second.logits[level], rtol=1e-5, atol=1e-6)
        assert_close(batch.regressions[level][1:2], second.regressions[level], rtol=1e-5, atol=1e-6)


def test_a_detector_without_tcm_and_with_convolutions_runs_and_has_official_names() -> None:
    pyramid = PyramidConfig(kind="convolution", levels=3, fpn_channels=32, norm="group")
    recipe = replace(SMALL, model=replace(SMALL.model, tcm=None, pyramid=pyramid))
    detector = build(recipe).eval()

    with torch.no_grad():
        outputs = detector(numbers(1, 3, 64, 32, 32))

    assert [level.shape[-1] for level in outputs.logits] == [8, 4, 2]
    names = official_names(recipe.model, detector.state_dict())
    assert names["pyramid.layers.1.gn.weight"] == "neck.1.layer2.0.gn.weight"
    assert names["fpn.fpn_convs.0.conv.weight"] == "neck.2.fpn_convs.0.conv.weight"


def test_what_follows_from_the_recipe_is_not_in_the_weights() -> None:
    names = set(build().state_dict())

    assert not [name for name in names if name.endswith(("index", "mask", "position", "dummy_tensor"))]


def test_batch_norms_can_be_synchronised_without_new_names() -> None:
    detector = build()

    converted = nn.SyncBatchNorm.convert_sync_batchnorm(detector)

    assert set(converted.state_dict()) == set(build().state_dict())
    assert isinstance(converted.get_submodule("head.cls_convs.0.bn"), nn.SyncBatchNorm)


@pytest.mark.parametrize(
    ("frozen_stages", "frozen"),
    [(-1, set()), (0, {"patch_embed"}), (1, {"patch_embed", "layers.0"}), (2, {"patch_embed", "layers.0", "layers.1"})],
)
def test_frozen_stages_stay_frozen_when_training_starts(frozen_stages: int, frozen: set[str]) -> None:
    detector = build(with_backbone(frozen_stages=frozen_stages))

    assert detector.eval().train() is detector
    assert detector.backbone.train() is detector.backbone

    for name in ("patch_embed", "layers.0", "layers.1", "norm"):
        module = detector.backbone.get_submodule(name)
        assert all(part.training == (name not in frozen) for part in module.modules()), name
        assert all(parameter.requires_grad == (name not in frozen) for parameter in module.parameters()), name


def test_stochastic_depth_grows_from_zero() -> None:
    backbone = VideoSwin(with_backbone(depths=(2, 3), drop_path=0.2).model.backbone)

    rates = [block.drop_path.rate for stage in backbone.layers for block in stage.blocks]

    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_recomputing_activations_changes_no_gradient() -> None:
    clips = numbers(2, 3, 16, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        detector = build(with_backbone(frozen_stages=1), checkpointing=checkpointing).train()
        with torch.random.fork_rng():
            torch.manual_seed(3)  # stochastic depth must draw the same when it is recomputed
            (detector.encode(clips) ** 2).sum().backward()
        gradients.append({name: p.grad for name, p in detector.named_parameters() if p.grad is not None})

    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert "backbone.layers.1.blocks.0.attn.qkv.weight" in plain
    for name, gradient in plain.items():
        assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-6)


def test_recomputing_activations_keeps_far_fewer_of_them() -> None:
    kept = []
    for checkpointing in (False, True):
        detector = build(checkpointing=checkpointing).train()
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(_counting(saved), lambda tensor: tensor):
            detector.encode(numbers(1, 3, 16, 32, 32))
        kept.append(sum(saved))

    assert kept[1] < 0.25 * kept[0]


def _counting(saved: list[int]):  # type: ignore[no-untyped-def]  # a callback of torch
    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    return pack


def test_initial_weights_follow_the_official_code() -> None:
    detector = build(with_backbone(embed_channels=64, heads=(2, 4)))

    block = detector.get_submodule("backbone.layers.0.blocks.0")
    assert block.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not block.attn.qkv.bias.any()
    assert block.attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)
    tcm = detector.get_submodule("tcm.layers.0.mlp.fc1")  # torch's own way: uniform within 1 / √32
    assert 0.16 < tcm.weight.abs().max().item() <= 32**-0.5
    assert tcm.bias.any()
    local = detector.get_submodule("pyramid.trans_layers.0.self_attn")
    limit = (6 / (32 + 96)) ** 0.5  # Xavier over the whole (96, 32) matrix
    assert 0.95 * limit < local.in_proj_weight.abs().max().item() <= limit
    assert not local.in_proj_bias.any()
    assert not local.out_proj.bias.any()
    lateral = detector.get_submodule("fpn.lateral_convs.0.conv")
    assert 0.95 * (6 / 64) ** 0.5 < lateral.weight.abs().max().item() <= (6 / 64) ** 0.5


def test_half_precision_gives_nearly_the_same() -> None:
    detector = build().eval()
    features = numbers(1, 32, 32)

    with torch.no_grad():
        full = detector.localize(features)
        half = detector.half().localize(features.half())

    for level in range(3):
        assert_close(half.logits[level].float(), full.logits[level], rtol=0, atol=2e-2)
