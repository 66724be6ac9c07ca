"""Our own checkpoint files."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tallformer_infer.errors import CheckpointError, OutputError
from tallformer_training.checkpoint import load_checkpoint, load_detector, save_checkpoint
from tests.small_detector import SMALL, build, numbers

PROVENANCE = {"trained": True, "source": {"sha256": "ab"}, "note": "Größe"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build().state_dict(), SMALL, provenance=PROVENANCE)
    return path


def with_header(path: Path, header: str) -> Path:
    save_file(load_file(path), path, metadata={"tallformer": header})
    return path


def test_a_checkpoint_comes_back_as_it_was(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)

    assert checkpoint.recipe == SMALL
    assert checkpoint.provenance == PROVENANCE
    expected = build().state_dict()
    assert checkpoint.state.keys() == expected.keys()
    assert all(torch.equal(checkpoint.state[name], tensor) for name, tensor in expected.items())


def test_a_loaded_detector_computes_what_the_saved_one_did(saved: Path) -> None:
    detector, checkpoint = load_detector(saved)

    assert not detector.training
    assert checkpoint.recipe == SMALL
    features = numbers(1, 32, 32)
    with torch.no_grad():
        assert torch.equal(detector.localize(features).logits[0], build().eval().localize(features).logits[0])


def test_saving_leaves_no_other_file(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_a_failed_save_keeps_the_previous_file_and_leaves_no_other(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tallformer_infer.files.os.fsync", full_disk)
    with pytest.raises(OutputError, match=r"model\.safetensors: cannot be written: .*No space left"):
        save_checkpoint(saved, build(seed=1).state_dict(), SMALL, provenance=PROVENANCE)

    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(tmp_path / "no" / "m.safetensors", {}, SMALL, provenance=PROVENANCE)


def test_provenance_must_say_whether_the_weights_are_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must say whether the weights are trained"):
        save_checkpoint(tmp_path / "m.safetensors", {}, SMALL, provenance={})


def test_weights_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    tensor = torch.arange(4.0)
    path = tmp_path / "m.safetensors"

    save_checkpoint(path, {"a": tensor, "b": tensor[1:], "c": tensor.reshape(2, 2).T}, SMALL, provenance=PROVENANCE)

    state = load_checkpoint(path).state
    assert state["b"].tolist() == [1, 2, 3]
    assert state["c"].tolist() == [[0, 2], [1, 3]]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such checkpoint$"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_a_damaged_file_is_one_line(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])

    with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_a_changed_weight_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1  # of the last tensor: still a number, and finite
    saved.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged, its weights do not match their hash"):
        load_checkpoint(saved)


def test_a_checkpoint_of_before_there_was_a_hash_is_read(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["tallformer"])
    del header["weights_sha256"]

    assert load_checkpoint(with_header(saved, json.dumps(header))).recipe == SMALL


def test_a_pickle_is_pointed_to_import(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps({"a": 1}))

    with pytest.raises(
        CheckpointError, match="not a tallformer checkpoint but a pickle; to make one of it: tallformer"
    ):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_foreign_safetensors_file_is_pointed_to_import(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")

    with pytest.raises(CheckpointError, match=r"not a tallformer checkpoint.*tallformer import"):
        load_checkpoint(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "damaged `tallformer` metadata"),
        ("[]", "damaged `tallformer` metadata"),
        ('{"schema": 1}', "damaged `tallformer` metadata: KeyError: 'provenance'"),
        ('{"schema": 9}', "schema 9, expected 1"),
        ('{"schema": 1, "provenance": {"trained": 1}}', "`trained` is not true or false"),
        ('{"schema": 1, "provenance": {"trained": true}, "recipe": {"size": 1}}', "recipe.size: no such key"),
    ],
)
def test_a_damaged_header_is_one_line(saved: Path, header: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message.replace(".", r"\.")):
        load_checkpoint(with_header(saved, header))


def test_weights_that_do_not_fit_their_recipe_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = build().state_dict()
    save_checkpoint(path, state, replace(SMALL, classes=("one",)), provenance=PROVENANCE)
    with pytest.raises(CheckpointError, match=r"do not fit their recipe: size mismatch for head\.retina_cls\.weight"):
        load_detector(path)

    del state["reduction.conv1.bias"]
    save_checkpoint(path, state, SMALL, provenance=PROVENANCE)
    with pytest.raises(CheckpointError, match=r"do not fit their recipe: Missing key.*reduction\.conv1\.bias"):
        load_detector(path)


def test_the_header_is_json_that_others_can_read(saved: Path) -> None:
    with safe_open(saved, framework="np") as file:
        header = json.loads(file.metadata()["tallformer"])

    assert header["schema"] == 1
    assert header["recipe"]["model"]["backbone"]["embed_channels"] == 16
