"""Files that hold no weights, or worse."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import file_kind, load_checkpoint
from tallformer_training.importing import import_checkpoint
from tests.official_file import official, saved
from tests.small_detector import SMALL


class Malicious:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool, protocol: int) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "evil.pth"
    value = {"state_dict": {"backbone.norm.weight": Malicious(f"touch {proof}")}}
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)

    with pytest.raises(
        CheckpointError, match=r"refused: (it would run or build posix\.system|not a file of plain tensors)"
    ) as caught:
        import_checkpoint(path, SMALL)

    assert "\n" not in str(caught.value)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the pickle is a real one: read carelessly, it runs
    assert proof.exists()


def test_a_plain_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Malicious(f"touch {proof}")))

    with pytest.raises(CheckpointError, match=r"evil\.pth: refused: it would run or build posix\.system") as caught:
        import_checkpoint(tmp_path / "evil.pth", SMALL)

    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_the_loss_history_of_mmengine_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(3.0)
            self._last = np.float64(0.5)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = saved(tmp_path, {"state_dict": official(), "message_hub": {"log_scalars": {"loss": HistoryBuffer()}}})
    monkeypatch.undo()

    _, report = import_checkpoint(path, SMALL)

    assert report.complete
    assert report.container == "state_dict"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "expected a state dict, got list"),
        ({}, "contains an empty state dict, no weights$"),
        ({"state_dict": {}}, "contains an empty state dict, no weights$"),
        ({"epoch": 3, "model": {"a": torch.zeros(1)}}, "not tensors: epoch, model"),
        ({"a": torch.eye(2).to_sparse()}, "not tensors: a"),
        (
            {"a": torch.zeros(1)},
            "neither a TALLFormer or OpenTAD detector nor a Video Swin backbone; first names: .'a'.",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(saved(tmp_path, value), SMALL)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint at all", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(tmp_path / name, SMALL)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "is a web page, not the file itself; open the download link in a browser"),
        (b"\n <html lang='en'>", "is a web page, not the file itself"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 351\n",
            "is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`$",
        ),
        (b"", "is empty$"),
        (b"hello", "expected a file of torch.save .* and it begins with 'hello'$"),
    ],
)
def test_a_file_of_something_else_is_recognised(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(CheckpointError, match=f"{name}: {message}"):
        import_checkpoint(tmp_path / name, SMALL)
    with pytest.raises(CheckpointError, match=message.replace("a file of torch.save .*", "a safetensors file,")):
        load_checkpoint(tmp_path / name)


def test_a_damaged_weight_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    """Torch reads zeros in the place of weights without a word; the zip has a checksum of each member."""
    path = saved(tmp_path, {"state_dict": official()})
    largest = max(zipfile.ZipFile(path).infolist(), key=lambda member: member.file_size)
    content = path.read_bytes()
    start = content.index(zipfile.ZipFile(path).read(largest))
    path.write_bytes(content[: start + 64] + bytes(4096) + content[start + 64 + 4096 :])

    assert torch.load(path, weights_only=True)
    with pytest.raises(CheckpointError, match=rf"damaged, the checksum of {largest.filename} does not match; download"):
        import_checkpoint(path, SMALL)


def test_a_file_that_was_saved_without_checksums_is_read_and_said_to_have_none(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, {"state_dict": official()})
    finally:
        torch.serialization.set_crc32_options(before)

    report = import_checkpoint(path, SMALL)[1]

    assert not report.has_checksums
    assert "the file has no checksums, so damage to single weights cannot be detected" in report.lines()


def test_a_zip_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({}))
        archive.writestr("bomb/data/0", bytes(10_000_000))

    with pytest.raises(CheckpointError, match=r"bomb\.pth: a compressed zip; torch\.save does not compress"):
        import_checkpoint(tmp_path / "bomb.pth", SMALL)


def test_a_file_under_the_name_of_another_kind_is_told_its_kind(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: is a safetensors file; rename it to end in \.safetensors"):
        import_checkpoint(tmp_path / "a.pth", SMALL)

    with pytest.raises(CheckpointError, match=r"b\.safetensors: is a file of torch\.save; rename it to end in \.pth"):
        import_checkpoint(saved(tmp_path, official(), "b.safetensors"), SMALL)


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_known(tmp_path: Path) -> None:
    """The length of its header is its first number, and 0x80 is how pickles begin."""
    for padding in range(200):
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"padding": "x" * padding})
        if (tmp_path / "a.safetensors").read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header of that length")

    assert file_kind(tmp_path / "a.safetensors") == "safetensors"


def test_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, expected a file"):
        import_checkpoint(tmp_path, SMALL)


def test_a_truncated_safetensors_file_is_one_line(tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in official().items()}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()

    for size in (len(content) - 1, len(content) // 2, 100):
        (tmp_path / "a.safetensors").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"not a readable safetensors file: .*; download or copy it again$"):
            import_checkpoint(tmp_path / "a.safetensors", SMALL)


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path, official())
    path.write_bytes(path.read_bytes()[:20000])

    with pytest.raises(
        CheckpointError, match=r"official\.pth: cut off, its end is missing; download or copy it again$"
    ):
        import_checkpoint(path, SMALL)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"none\.\w+: no such file$"):
        import_checkpoint(tmp_path / name, SMALL)
