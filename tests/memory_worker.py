"""A training run without a model, to be killed: writes to its memory at every step, and saves checkpoints.

python tests/memory_worker.py FOLDER STEPS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.files import write_whole
from tallformer_training.memory import MemoryBuilder, RunMemory

ENTRIES = {"a": 6000, "b": 3000, "c": 17}
CHANNELS = 256
STRETCH = 64
STEPS_PER_CHECKPOINT = 40
CHECKPOINT_FILE = "checkpoint.json"


def stretches(step: int, video: str) -> tuple[list[int], NDArray[np.float32]]:
    """What step `step` adds to half of what it reads: three stretches that may overlap and reach beyond the video.

    As in training, what is written depends on what is read, so that a wrong row stays wrong.
    """
    generator = np.random.default_rng([step, list(ENTRIES).index(video)])
    first_steps = generator.integers(-STRETCH, ENTRIES[video] + STRETCH, 3).tolist()
    return first_steps, generator.random((3, CHANNELS, STRETCH), dtype=np.float32)


def train(folder: Path, steps: int) -> None:
    """Go on from the checkpoint, if there is one, up to `steps`, and say so after each step."""
    checkpoint = folder / CHECKPOINT_FILE
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        run, begin = RunMemory.resume(folder / "memory", saved["memory"]), saved["step"]
    else:
        run, begin = RunMemory.begin(folder / "base", folder / "memory"), 0
    for step in range(begin, steps):
        for video in ENTRIES:
            first_steps, features = stretches(step, video)
            features += run.memory.read(video, first_steps, STRETCH).features / 2
            run.write(video, first_steps, features, step_number=step)
        if (step + 1) % STEPS_PER_CHECKPOINT == 0:
            name = run.snapshot(step + 1)
            write_whole(checkpoint, json.dumps({"step": step + 1, "memory": name}).encode())
            run.prune([name])
        print(step, flush=True)  # noqa: T201
    run.close()


def make(folder: Path, videos: int) -> None:
    """Go on making a memory, and say so after each video."""
    builder = MemoryBuilder(folder / "made", {f"v{number}": 500 for number in range(videos)}, channels=CHANNELS)
    for video in builder.missing():
        builder.write(video, np.full((CHANNELS, 500), int(video[1:]), np.float32))
        print(video, flush=True)  # noqa: T201
    builder.finish()


if __name__ == "__main__":
    {"train": train, "make": make}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
