"""UT-Interaction as untrimmed videos: the clips of one sequence, concatenated in several orders.

# Note [shortcuts that a detector must not learn]
Background clips were cropped and re-encoded, so every clip gets the same square crop and finally the same
encoding, of lower quality than the sources. Clips keep 4 to 14 frames around their action, drawn for every composition,
so that the distance from a cut says little about the start of the action. Pointing has a narrower crop than the rest in
the distributed footage, so it appears larger; this remains.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tallformer_infer.files import replacing

CLASSES = ("shake hands", "hug", "kick", "point", "punch", "push")
BACKGROUND = 6
"""Number of the background class."""
SEQUENCES = range(1, 21)
ORDERS = 2
"""Compositions of each sequence that is trained on."""
PARKING_LOT, LAWN = range(1, 11), range(11, 21)
VIDEO_FPS = 30
SIDE_PX = 256
AROUND_FRAMES = 14
"""Frames of an action's clip before and after its annotated interval."""
TRIMMED_FRAMES = 10
"""At most this many of them are cut off."""
CRF = 26


@dataclass(frozen=True)
class Clip:
    """A file of the footage."""

    path: Path
    kind: int
    """Number of its class, 6 for background."""


@dataclass(frozen=True)
class Composition:
    """One order of the clips of a sequence."""

    sequence: int
    number: int
    """0 is used for testing; odd ones are mirrored."""

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"sequence-{self.sequence:02d}-{self.number}"


def names_of(sequences: Iterable[int], orders: int = 1) -> list[str]:
    """Names of the first compositions of sequences; with one order, those that are tested on."""
    return [Composition(sequence, number).name for sequence in sequences for number in range(orders)]


def compositions(count: int) -> list[Composition]:
    """`count` orders of every sequence."""
    return [Composition(sequence, number) for sequence in SEQUENCES for number in range(count)]


def compose(real: Path, folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write the videos and their annotations in ActivityNet format.

    Args:
        real: Folder of the footage.
        folder: Output folder.
        count: Orders per sequence.
        seed: Seed of orders and cuts.

    Returns:
        The annotations, `truth.json` in the folder; `shots.json` beside it contains the boundaries of shots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_sequence = _clips(real)
    database, shots = {}, {}
    for one in compositions(count):
        chance = random.Random(f"{seed}/{one.name}")
        order = chance.sample(by_sequence[one.sequence], len(by_sequence[one.sequence]))
        cuts = [(chance.randint(0, TRIMMED_FRAMES), chance.randint(0, TRIMMED_FRAMES)) for _ in order]
        path = folder / f"{one.name}.mp4"
        segments, spans, frames = _write(path, order, cuts, is_mirrored=one.number % 2 == 1)
        shots[one.name] = spans
        database[one.name] = {"duration": frames / VIDEO_FPS, "annotations": segments}
    truth = folder / "truth.json"
    truth.write_text(json.dumps({"database": database}, indent=1), encoding="utf-8")
    (folder / "shots.json").write_text(json.dumps(shots), encoding="utf-8")
    return truth


def subset(truth: Path, names: Sequence[str], out: Path) -> Path:
    """Annotations of some of the videos."""
    database = json.loads(truth.read_text(encoding="utf-8"))["database"]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"database": {name: database[name] for name in names}}), encoding="utf-8")
    return out


def _clips(real: Path) -> dict[int, list[Clip]]:
    found: dict[int, list[Clip]] = {}
    for path in sorted((real / "ut_interaction").glob("*.avi")):
        _, sequence, kind = map(int, re.findall(r"\d+", path.stem))
        found.setdefault(sequence, []).append(Clip(path, kind))
    return found


def _write(
    path: Path, order: Sequence[Clip], cuts: Sequence[tuple[int, int]], *, is_mirrored: bool
) -> tuple[list[dict[str, object]], list[tuple[float, float, str | None]], int]:
    """Write a video; returns its segments, its shots in seconds with their actions, and its length in frames."""
    segments: list[dict[str, object]] = []
    spans: list[tuple[float, float, str | None]] = []
    at = 0
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        options = {"preset": "veryfast", "crf": str(CRF), "g": "60"}
        stream = container.add_stream("libx264", rate=VIDEO_FPS, options=options)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for number, (clip, (front, back)) in enumerate(zip(order, cuts, strict=True)):
            pictures = list(_pictures(clip.path))
            end = len(pictures) - back
            for picture in pictures[front:end]:
                image = np.ascontiguousarray(picture[:, ::-1] if is_mirrored else picture)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = None, Fraction(1, VIDEO_FPS)
                container.mux(stream.encode(frame))
            if clip.kind != BACKGROUND:
                start = at + AROUND_FRAMES - front
                stop = at + len(pictures) - AROUND_FRAMES - front
                span = [round(frame / VIDEO_FPS, 4) for frame in (start, stop)]
                segments.append({"segment": span, "label": CLASSES[clip.kind], "clip": number})
            label = None if clip.kind == BACKGROUND else CLASSES[clip.kind]
            spans.append((at / VIDEO_FPS, (at + end - front) / VIDEO_FPS, label))
            at += end - front
        container.mux(stream.encode(None))
    return segments, spans, at


def _pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Centre crops of all frames."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            scale = SIDE_PX / min(frame.width, frame.height)
            width, height = (max(round(side * scale), SIDE_PX) for side in (frame.width, frame.height))
            picture = np.asarray(frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray(), np.uint8)
            left, top = (width - SIDE_PX) // 2, (height - SIDE_PX) // 2
            yield picture[top : top + SIDE_PX, left : left + SIDE_PX]
