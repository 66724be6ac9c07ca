"""Files and folders are whole or absent, whenever the program is stopped."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tallformer_export.exporting import ModelCard
from tallformer_export.exporting import write_bundle as export_bundle
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import MatchedActions, ParityReport, ParitySample
from tallformer_infer.files import file_sha256, replace_folder, replacing, write_whole
from tests.small_bundle import RECIPE, write_bundle


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_at_rename(monkeypatch: pytest.MonkeyPatch, number: int, *, is_done: bool) -> None:
    """Have Ctrl-C come at the `number`th rename of a folder, counted from 1: just after it, or in its place."""
    real: Callable[[Path, Path], Path] = Path.rename
    count = 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number and not is_done:
            raise KeyboardInterrupt
        renamed = real(self, target)
        if count == number:
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "rename", rename)


def test_a_file_is_replaced_and_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"before")
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a.txt", b"after")
    finally:
        os.umask(before)

    assert (tmp_path / "a.txt").read_bytes() == b"after"
    assert names(tmp_path) == ["a.txt"]
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_bytes(b"before")

    def write_half() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises((KeyboardInterrupt, OSError)):
        write_half()

    assert (tmp_path / "a.txt").read_bytes() == b"before"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "new").touch()
    if is_there:
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "old").touch()

    replace_folder(tmp_path / "made", tmp_path / "place")

    assert names(tmp_path) == ["place"]
    assert names(tmp_path / "place") == ["new"]


@pytest.mark.parametrize(
    ("rename", "is_done", "left"), [(1, False, "old"), (1, True, "old"), (2, False, "old"), (2, True, "new")]
)
def test_ctrl_c_at_any_rename_leaves_one_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int, is_done: bool, left: str
) -> None:
    for folder, file in (("made", "new"), ("place", "old")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    stop_at_rename(monkeypatch, rename, is_done=is_done)

    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "made", tmp_path / "place")

    assert names(tmp_path / "place") == [left]
    assert [name for name in names(tmp_path) if name != "made"] == ["place"]


@pytest.mark.parametrize(("rename", "is_done"), [(1, True), (2, False)])
def test_ctrl_c_between_the_renames_of_an_export_keeps_the_bundle_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int, is_done: bool
) -> None:
    there = write_bundle(tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    graphs = {name: onnx.load_from_string(load_bundle(there).read_graph(name)) for name in ("encoder", "localizer")}
    parity = ParityReport(
        sample=ParitySample(source="generated", sha256=None, frames=1),
        differences={},
        actions=MatchedActions(in_torch=0, in_bundle=0, matched=0, tiou_threshold=0.95),
    )
    card = ModelCard(name="other", trained=True, licence="CC0-1.0", provenance={})
    stop_at_rename(monkeypatch, rename, is_done=is_done)

    with pytest.raises(KeyboardInterrupt):
        export_bundle(there, RECIPE, graphs, card, lambda _: parity)

    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    assert names(tmp_path) == ["bundle"]


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)

    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
