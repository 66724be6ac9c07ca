"""Border cases of reading and writing, against the official memory bank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_training.memory import Memory, MemoryBuilder, RunMemory


def golden_steps(case: dict[str, Any]) -> tuple[list[int], NDArray[np.bool_]]:
    """First step of every stretch, and which of all their steps lie inside the video."""
    size = case["feat_chunk_size"]
    first_steps = [case["f_offset"] + clip * size for clip in case["chunk_ids"]]
    steps = np.concatenate([np.arange(first, first + size) for first in first_steps])
    return first_steps, (steps >= 0) & (steps < case["bank_len"])


def packed(flat: NDArray[np.float32], is_inside: NDArray[np.bool_], before: int) -> NDArray[np.float32]:
    """Where the official code puts steps: those inside in one piece, behind as many as lie before the video.

    That is where they belong as long as clips come in order. Out of order and past the end (one case) it is not, and
    the official code reads and writes wrong rows; it never asks for that itself. `Memory` handles any order.
    """
    moved = np.zeros_like(flat)
    moved[before : before + is_inside.sum()] = flat[is_inside]
    return moved


def test_golden_reads_are_equal(golden: Path, tmp_path: Path) -> None:
    arrays = np.load(golden / "membank.npz")
    out_of_place = []
    for case in json.loads((golden / "membank_cases.json").read_text())["cases"]:
        name = f"c{case['id']:03}"
        first_steps, is_inside = golden_steps(case)
        memory = golden_memory(tmp_path / name, arrays[f"{name}_bank"])

        loaded = memory.read("v", first_steps, case["feat_chunk_size"]).features

        flat = loaded.swapaxes(1, 2).reshape(-1, loaded.shape[1])
        before = sum(min(max(-first, 0), case["feat_chunk_size"]) for first in first_steps)
        official = packed(flat, is_inside, before).reshape(len(loaded), -1, loaded.shape[1]).swapaxes(1, 2)
        np.testing.assert_array_equal(official, arrays[f"{name}_loaded"], err_msg=str(case))
        if not np.array_equal(loaded, official):
            out_of_place.append(case["kind"])
    assert out_of_place == ["unsorted_ids_right_border"]


def test_golden_writes_are_equal(golden: Path, tmp_path: Path) -> None:
    arrays = np.load(golden / "membank.npz")
    for case in json.loads((golden / "membank_cases.json").read_text())["cases"]:
        name = f"c{case['id']:03}"
        first_steps, is_inside = golden_steps(case)
        golden_memory(tmp_path / name, arrays[f"{name}_bank"])
        stretches = arrays[f"{name}_write_feats"]
        if case["kind"] == "unsorted_ids_right_border":
            flat = stretches.swapaxes(1, 2).reshape(-1, stretches.shape[1])
            flat[is_inside] = flat[: is_inside.sum()]
            stretches = flat.reshape(len(stretches), -1, stretches.shape[1]).swapaxes(1, 2)

        with RunMemory.begin(tmp_path / name, tmp_path / f"{name}-run") as run:
            run.write("v", first_steps, stretches, step_number=0)
            np.testing.assert_array_equal(run.memory.rows, arrays[f"{name}_bank_after"], err_msg=str(case))


def golden_memory(folder: Path, rows: NDArray[np.float32]) -> Memory:
    builder = MemoryBuilder(folder, {"v": len(rows)}, channels=rows.shape[1], dtype="float32")
    builder.write("v", rows.T)
    return builder.finish()
