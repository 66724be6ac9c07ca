"""Inception-I3D: sizes as published, padding at odd sizes, frozen norms, and the widely used weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tallformer_infer.config import I3dConfig
from tallformer_infer.errors import CheckpointError
from tallformer_training.importing.reading import read_tensors
from tallformer_training.model.i3d import ConvUnit, InceptionI3d, load_kinetics, same_max_pool
from tests.small_detector import numbers

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = (  # of 16 frames of 64 pixels
    ("Conv3d_1a_7x7", (64, 8, 32, 32)),
    ("Conv3d_2b_1x1", (64, 8, 16, 16)),
    ("Conv3d_2c_3x3", (192, 8, 16, 16)),
    ("Mixed_3b", (256, 8, 8, 8)),
    ("Mixed_3c", (480, 8, 8, 8)),
    ("Mixed_4b", (512, 4, 4, 4)),
    ("Mixed_4c", (512, 4, 4, 4)),
    ("Mixed_4d", (512, 4, 4, 4)),
    ("Mixed_4e", (528, 4, 4, 4)),
    ("Mixed_4f", (832, 4, 4, 4)),
    ("Mixed_5b", (832, 2, 2, 2)),
    ("Mixed_5c", (1024, 2, 2, 2)),
)
CLASSIFIER_PARAMETERS = 400 * 1024 + 400
PUBLISHED_PARAMETERS = 12_697_264
"""Of the PyTorch conversion for RGB, its classifier of 400 classes included."""


@pytest.fixture(scope="module")
def model() -> InceptionI3d:
    torch.manual_seed(0)
    return InceptionI3d().eval()


def giga_multiplications(model: InceptionI3d, *size: int) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size))
    return counter.get_total_flops() / 2e9


def test_every_layer_has_the_published_shape(model: InceptionI3d) -> None:
    shapes: list[tuple[str, tuple[int, ...]]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: shapes.append((name, tuple(out.shape[1:]))))
        for name, layer in model.named_children()
    ]

    with torch.inference_mode():
        model(torch.zeros(1, 3, 16, 64, 64))

    for hook in hooks:
        hook.remove()
    assert tuple(shapes) == LAYERS


def test_parameters_are_as_many_as_published(model: InceptionI3d) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())

    assert count + CLASSIFIER_PARAMETERS == PUBLISHED_PARAMETERS


def test_multiplications_are_as_many_as_published(model: InceptionI3d) -> None:
    """108 at 64 frames of 224 pixels in the literature, 245.0 at AFSD's 768 of 96: all are multiples of 8 and 32."""
    smallest = giga_multiplications(model, 8, 32, 32)

    assert 64 / 8 * 7 * 7 * smallest == pytest.approx(108, rel=0.03)
    assert 768 / 8 * 3 * 3 * smallest == pytest.approx(245.0, abs=0.05)


@pytest.mark.parametrize("size", [(1, 1, 1), (8, 32, 32), (9, 33, 31), (7, 97, 45), (2, 3, 5)])
def test_every_size_is_halved_and_rounded_up(model: InceptionI3d, size: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        taps = model.taps(torch.zeros(2, 3, *size))

    frames, height, width = size
    assert taps.mixed_4f.shape == (2, 832, -(-frames // 4), -(-height // 16), -(-width // 16))
    assert taps.mixed_5c.shape == (2, 1024, -(-frames // 8), -(-height // 32), -(-width // 32))


@pytest.mark.parametrize("size", [(4, 6, 6), (5, 7, 6), (1, 1, 2), (3, 8, 5)])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_sees_the_odd_zero_behind(size: tuple[int, int, int], kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    unit = ConvUnit(2, 3, (kernel,) * 3, stride=(stride,) * 3).eval()
    x = numbers(2, 2, *size)

    with torch.no_grad():
        found = unit(x)
        wanted = F.relu(unit.bn(F.conv3d(padded(x, kernel, stride), unit.conv3d.weight, stride=stride)))

    assert torch.allclose(found, wanted, atol=1e-5)
    assert found.shape[2:] == tuple(-(-length // stride) for length in size)


@pytest.mark.parametrize("size", [(4, 6, 6), (5, 7, 6), (1, 1, 2), (3, 8, 5)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2)])
def test_a_pool_sees_zeros_around_the_map(size: tuple[int, int, int], kernel: int, stride: int) -> None:
    x = numbers(2, 2, *size).abs()

    found = same_max_pool(x, (kernel,) * 3, (stride,) * 3)

    assert torch.equal(found, F.max_pool3d(padded(x, kernel, stride), kernel, stride))


def padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros by the rule of the library of the original, one axis at a time."""
    for axis in (2, 3, 4):
        size = x.shape[axis]
        total = max(kernel - stride if size % stride == 0 else kernel - size % stride, 0)
        before, behind = (x.new_zeros([*x.shape[:axis], n, *x.shape[axis + 1 :]]) for n in (total // 2, -(-total // 2)))
        x = torch.cat([before, x, behind], dim=axis)
    return x


def test_clips_are_encoded_on_their_own(model: InceptionI3d) -> None:
    clips = numbers(2, 3, 8, 32, 32)

    with torch.no_grad():
        together = model.steps(clips)
        alone = torch.cat([model.steps(clip[None]) for clip in clips])

    assert together.shape == (2, 1024, 1)
    assert torch.allclose(together, alone, atol=1e-5 * float(together.abs().max()))


def test_the_earlier_tap_is_the_same_map_without_the_layers_behind_it(model: InceptionI3d) -> None:
    clips = numbers(1, 3, 12, 40, 40)
    earlier = InceptionI3d(I3dConfig(kind="i3d", tap="mixed_4f")).eval()
    own = earlier.state_dict()

    earlier.load_state_dict({name: value for name, value in model.state_dict().items() if name in own})

    assert model.state_dict().keys() - own.keys() == {name for name in model.state_dict() if name.startswith("Mixed_5")}
    with torch.no_grad():
        assert torch.equal(earlier(clips), model.taps(clips).mixed_4f)
        assert earlier.steps(clips).shape == (1, 832, 3)


@pytest.mark.parametrize("narrowing", [2, 4, 8])
def test_a_narrow_encoder_has_that_part_of_every_layer(narrowing: int) -> None:
    narrow = InceptionI3d(I3dConfig(kind="i3d", narrowing=narrowing)).state_dict()
    with torch.device("meta"):
        whole = InceptionI3d().state_dict()

    assert {name: len(value) * narrowing for name, value in narrow.items()} == {
        name: len(value) for name, value in whole.items()
    }


def test_fresh_weights_neither_swell_nor_fade(model: InceptionI3d) -> None:
    with torch.no_grad():
        maps = model(numbers(2, 3, 16, 64, 64))

    assert 0.1 < float(maps.square().mean().sqrt()) < 30


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    config = I3dConfig(kind="i3d", narrowing=8)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = InceptionI3d(config, checkpointing=checkpointing).train()
        model.steps(numbers(2, 3, 8, 32, 32)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])

    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_training_leaves_batch_norms_as_they_are() -> None:
    model = InceptionI3d().train()
    before = {name: value.clone() for name, value in model.state_dict().items() if ".bn." in name}

    model.steps(numbers(1, 3, 8, 32, 32)).sum().backward()

    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert not any(".bn." in name for name in trained)
    assert model.Conv3d_1a_7x7.conv3d.weight.grad is not None


def kinetics_file(folder: Path, in_channels: int = 3) -> Path:
    """As the published files are: names of the conversion, a classifier, and no counters."""
    torch.manual_seed(1)
    state = InceptionI3d(in_channels=in_channels).state_dict()
    state |= {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
    torch.save(state, folder / "imagenet.pt")
    return folder / "imagenet.pt"


@pytest.mark.parametrize("in_channels", [3, 2])
def test_a_file_of_kinetics_weights_fits_exactly(tmp_path: Path, in_channels: int) -> None:
    _, tensors, _ = read_tensors(kinetics_file(tmp_path, in_channels))
    model = InceptionI3d(in_channels=in_channels)

    load_kinetics(model, tensors)

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_the_names_are_those_of_the_published_files(model: InceptionI3d) -> None:
    names = model.state_dict()

    assert names["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert names["Mixed_4f.b1b.conv3d.weight"].shape == (320, 160, 3, 3, 3)
    assert names["Mixed_5c.b3b.bn.running_var"].shape == (128,)
    assert {name.split(".")[1] for name in names if name.startswith("Mixed")} == {
        "b0",
        "b1a",
        "b1b",
        "b2a",
        "b2b",
        "b3b",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Mixed_5c.b0.conv3d.weight": None}, "1 missing tensor, such as Mixed_5c.b0.conv3d.weight"),
        ({"stem.weight": torch.zeros(1)}, "1 unknown tensor, such as stem.weight"),
        ({"Conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 2, 7, 7, 7)}, r"Conv3d_1a_7x7.conv3d.weight: expected shape"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    model: InceptionI3d, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    _, tensors, _ = read_tensors(kinetics_file(tmp_path))
    changed = {name: value for name, value in (tensors | change).items() if value is not None}

    with pytest.raises(CheckpointError, match=message):
        load_kinetics(model, changed)
