"""Files of weights on the disk: what they are, and errors in words of ours."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tallformer_infer.errors import OutputError
from tallformer_training.checkpoint import file_kind, reason, save_checkpoint
from tests.small_detector import SMALL

PROVENANCE = {"trained": True}


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_known(tmp_path: Path, zipped: bool) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a", _use_new_zipfile_serialization=zipped)

    assert file_kind(tmp_path / "a") == "torch"


@pytest.mark.parametrize("content", [b"", b"P", b"hello, this is text", bytes(16), b"\xff" * 8 + b"{}"])
def test_other_files_are_other(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)

    assert file_kind(tmp_path / "a") == "other"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), "no such file"),
        (IsADirectoryError(21, "Is a directory"), "is a folder, expected a file"),
        (OSError(28, "No space left on device", "/run/.tmp123"), "No space left on device"),
        (OSError("No such device (os error 19)"), "No such device"),
        (
            SafetensorError('Error while serializing: I/O error: No space left (os error 28) at path "/run/.tmp12"'),
            "No space left",
        ),
        (SafetensorError("Error while deserializing header: header too small"), "header too small"),
        (ValueError(""), "ValueError"),
        (ValueError("first\nsecond"), "first"),
    ],
)
def test_a_reason_has_no_class_no_number_and_no_temporary_name(error: Exception, expected: str) -> None:
    assert reason(error) == expected


def test_a_checkpoint_that_cannot_be_written_names_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        save_checkpoint(tmp_path / "gone" / "m.safetensors", {}, SMALL, provenance=PROVENANCE)

    assert str(caught.value) == f"{tmp_path / 'gone' / 'm.safetensors'}: cannot be written: No such file or directory"


def test_what_is_no_file_is_not_replaced_by_a_checkpoint(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)

    with pytest.raises(OutputError, match=r"pipe\.safetensors: is a folder or a device, expected a file"):
        save_checkpoint(pipe, {}, SMALL, provenance=PROVENANCE)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_checkpoint_is_written_through_a_link(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    (tmp_path / "link.safetensors").symlink_to("m.safetensors")

    save_checkpoint(tmp_path / "link.safetensors", {"b": torch.ones(1)}, SMALL, provenance=PROVENANCE)

    assert (tmp_path / "link.safetensors").is_symlink()
    assert b"recipe" in (tmp_path / "m.safetensors").read_bytes()
