"""Properties of the parts behind the encoder, and values worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from tallformer_infer.config import HeadConfig, PyramidConfig, TcmConfig
from tallformer_infer.errors import ConfigError
from tallformer_training.model.attention import DropPath
from tallformer_training.model.head import AnchorHead
from tallformer_training.model.pyramid import (
    AttentionPyramid,
    ConvNorm,
    ConvolutionPyramid,
    LocalTransformerLayer,
    sinusoids,
    upsample,
)
from tallformer_training.model.tcm import TemporalConsistency, step_index
from tests.small_detector import numbers

# Stochastic depth


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    layer = DropPath(0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = layer(torch.ones(4000, 3))

    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1]).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)


def test_drop_path_does_nothing_outside_training() -> None:
    x = numbers(3, 2)

    assert DropPath(0.9).eval()(x) is x


# Temporal consistency module


def test_the_layers_of_the_tcm_start_as_copies_of_one() -> None:
    tcm = TemporalConsistency(32, TcmConfig(heads=4, max_steps=5))
    first, *others = (dict(layer.named_parameters()) for layer in tcm.layers)

    for other in others:
        assert all(torch.equal(first[name], parameter) for name, parameter in other.items())
        assert all(first[name] is not parameter for name, parameter in other.items())


def test_a_short_window_uses_the_same_biases_as_a_long_one() -> None:
    index = step_index(60)

    assert torch.equal(index[:12, :12] - index[0, 0], step_index(12) - step_index(12)[0, 0])
    assert (index[3, 1], index[0, 59], index[59, 0]) == (61, 0, 118)


def test_a_window_beyond_the_position_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most tcm\.max_steps=5 feature steps"):
        TemporalConsistency(8, TcmConfig(heads=2, max_steps=5))(numbers(1, 8, 6))
    with pytest.raises(ValueError, match="at most 5 feature steps"):
        AttentionPyramid(8, PyramidConfig(heads=2), max_steps=5)(numbers(1, 8, 6))


# Pyramids


def test_positions_are_scaled_by_the_root_of_the_channels() -> None:
    pyramid = AttentionPyramid(16, PyramidConfig(heads=2), max_steps=9).eval()

    first = pyramid(torch.zeros(1, 16, 9))[0]

    assert_close(first[0].T, sinusoids(9, 16) / 4)
    assert first[0, 0, 1].item() == pytest.approx(0.8415 / 4, abs=1e-4)  # sin 1
    assert first[0, 1, 1].item() == pytest.approx(0.5403 / 4, abs=1e-4)  # cos 1


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_local_layer_equals_the_transformer_layer_of_torch(steps: int) -> None:
    ours = LocalTransformerLayer(16, 4, reach=1, max_steps=5, dropout=0.1).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, dim_feedforward=64, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    x = numbers(3, steps, 16)
    distance = torch.arange(steps)[:, None] - torch.arange(steps)

    mask = torch.where(distance.abs() <= 1, 0.0, -1e9)

    assert_close(ours(x), theirs(x, src_mask=mask), rtol=1e-5, atol=1e-5)


def test_a_step_of_a_level_does_not_depend_on_distant_ones() -> None:
    layer = LocalTransformerLayer(16, 4, reach=2, max_steps=9, dropout=0.0).eval()
    x = numbers(1, 9, 16)
    changed = x.clone()
    changed[:, 7:] += 5

    before, after = layer(x), layer(changed)

    assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_an_odd_level_is_filled_with_a_zero_step_at_its_end() -> None:
    pyramid = AttentionPyramid(8, PyramidConfig(heads=2, levels=2, attention_steps=(3,)), max_steps=8).eval()
    x = numbers(1, 8, 5)
    longer = torch.cat([x, -pyramid.position[5:6].T[None]], dim=-1)  # a zero once its position is added

    assert_close(pyramid(x)[1], pyramid(longer)[1])


@pytest.mark.parametrize("kind", ["attention", "convolution"])
def test_levels_halve_and_round_up(kind: str) -> None:
    config = PyramidConfig(kind=kind, heads=2)  # type: ignore[arg-type]
    pyramid = AttentionPyramid(8, config, max_steps=60) if kind == "attention" else ConvolutionPyramid(8, config)

    assert [level.shape[-1] for level in pyramid(numbers(2, 8, 60))] == [60, 30, 15, 8, 4]


@pytest.mark.parametrize("steps", range(1, 30))
def test_upsampling_equals_nearest_interpolation(steps: int) -> None:
    x = numbers(2, 3, -(-steps // 2))

    assert torch.equal(upsample(x, steps), F.interpolate(x, size=steps, mode="nearest"))


def test_what_does_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="heads=3 must divide 32 channels"):
        TemporalConsistency(32, TcmConfig(heads=3))
    with pytest.raises(ConfigError, match="pyramid: heads=5 must divide 32 channels"):
        AttentionPyramid(32, PyramidConfig(heads=5), max_steps=8)
    with pytest.raises(ConfigError, match="norm=group needs a multiple of 32 channels, got 48"):
        ConvNorm(48, 48, 3, norm="group")


# Head


def test_every_score_starts_at_one_percent() -> None:
    head = AnchorHead(8, 3, HeadConfig(channels=8))
    for parameter in (head.retina_cls.weight, head.retina_reg.weight):
        assert parameter.std().item() == pytest.approx(0.01, rel=0.2)

    outputs = head.eval()([torch.zeros(1, 8, 4)])

    assert_close(outputs.logits[0].sigmoid(), torch.full((1, 15, 4), 0.01))
    assert not outputs.regressions[0].any()


def test_levels_share_one_batch_norm_that_sees_them_one_by_one() -> None:
    head = AnchorHead(4, 1, HeadConfig(channels=4, stacked_convs=1)).train()

    head([numbers(2, 4, 6), numbers(2, 4, 3) + 10])

    (layer,) = head.cls_convs
    assert layer.bn.num_batches_tracked == 2
