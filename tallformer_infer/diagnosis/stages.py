"""What the stages of `detect` take alone and together, beside the rates that no detector can pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.diagnosis.ceilings import MatrixProduct, decode_bare, gigaflop_of_graph
from tallformer_infer.diagnosis.turns import Call, Spread, Timing, clocked, paired, take_turns
from tallformer_infer.errors import DeviceError
from tallformer_infer.media import open_video
from tallformer_infer.pipeline import ClipEncoder, Detector
from tallformer_infer.structures import StageSeconds
from tallformer_infer.timeline import Clip, cut_clips

Stage = Literal["bare decode", "matrix product", "decode", "encode", "detect"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How stages are timed."""

    threads: int | None = None
    """Of codec, encoder and product, each; None as `detect` takes them."""
    rounds: int = 3
    """How often each is timed."""
    most_clips: int | None = None
    """Of the clips, how many the encoder is given alone; None gives it all, and keeps them in memory."""
    clips_at_once: int | None = None
    """Per call of the encoder alone; None as `detect` does it."""
    at_most_s: float = math.inf
    """No further round is begun after so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured of one model on one video. Times are in seconds, for the whole video."""

    timings: dict[Stage, Timing]
    """Per round; `matrix product` for one `MatrixProduct.run`, which a machine may not be able to do."""
    stages: tuple[StageSeconds, ...]
    """What `detect` itself counted, per round."""
    source_frames: int
    """Frames in the file, all of which are decoded."""
    frames: int
    """Frames that the recipe takes."""
    duration_s: float
    """Length of the video."""
    clips: int
    """Clips that are encoded."""
    clips_at_once: int
    """Clips at the same time when the encoder ran alone."""
    gigaflop_per_clip: float | None
    """Products and convolutions of the encoder, in 10^9; None where they cannot be counted."""
    gigaflop_per_product: float | None
    """Of one `MatrixProduct.run`; None where there is none."""
    clips_timed: int
    """Clips that the encoder was given alone; its time is multiplied to that of all."""

    @property
    def times_real_time(self) -> Spread:
        """Seconds of video per second of `detect`."""
        return Spread.of(self.duration_s / seconds for seconds in self.timings["detect"].wall_s)

    @property
    def over_slower_stage(self) -> Spread:
        """Time of `detect` as a multiple of the slower of decode and encode alone: 1 where stages overlap wholly."""
        slower = [max(pair) for pair in zip(*(self.timings[name].wall_s for name in ("decode", "encode")), strict=True)]
        return paired(self.timings["detect"].wall_s, slower)

    @property
    def binding(self) -> Literal["decode", "encode"]:
        """The stage that takes longer alone."""
        return max(("decode", "encode"), key=lambda name: self.timings[name].spread.median)

    @property
    def encode_floor_s(self) -> tuple[float, ...] | None:
        """Time that the encoder's arithmetic would take at the rate of the product, per round."""
        if "matrix product" not in self.timings or self.gigaflop_per_clip is None or self.gigaflop_per_product is None:
            return None
        each = self.clips * self.gigaflop_per_clip / self.gigaflop_per_product
        return tuple(each * seconds for seconds in self.timings["matrix product"].wall_s)

    def ceiling_share(self, stage: Literal["decode", "encode", "detect"]) -> Spread | None:
        """What part of the rate of its ceiling a stage reaches; for `detect`, of the one that binds it.

        Returns:
            None where the ceiling of the encoder is not known.
        """
        floors = {"decode": self.timings["bare decode"].wall_s, "encode": self.encode_floor_s}
        floor = floors[self.binding if stage == "detect" else stage]
        return None if floor is None else paired(floor, self.timings[stage].wall_s)


def measure_stages(
    detector: Detector, video: str, trial: Trial, *, on_round: Callable[[int], object] = lambda _: None
) -> Speed:
    """Time each stage alone, all together, and both ceilings, in turn; the first time of all does not count.

    Args:
        detector: Loaded with the threads of the trial.
        video: A regular file.
        trial: How it is done.
        on_round: Told the number of every round, from 0.

    Raises:
        MediaError: The video cannot be opened, or nothing in it can be decoded.
    """
    runtime = detector.runtime
    at_once = trial.clips_at_once or runtime.clips_at_once
    taken = _take(detector, video, trial)
    stages: list[StageSeconds] = []
    ways: dict[Stage, Callable[[int], Call]] = {
        "bare decode": clocked(lambda: decode_bare(video, threads=trial.threads)),
        "decode": clocked(lambda: _decode(detector, video, trial)),
        "encode": clocked(_encoding(detector, taken.clips, trial)),
        "detect": clocked(lambda: stages.append(detector.detect(video).timings)),
    }
    product = _product(detector, trial.threads)
    if product is not None:
        ways["matrix product"] = clocked(product.run)
    given = take_turns(ways, rounds=trial.rounds, at_most_s=trial.at_most_s, on_round=on_round)
    timings = {name: Timing.of(calls) for name, calls in given.items()}
    timings["encode"] = timings["encode"].times(taken.count / len(taken.clips))
    return Speed(
        timings=timings,
        stages=tuple(stages[1:]),
        source_frames=decode_bare(video, threads=trial.threads),
        frames=taken.frames,
        duration_s=taken.duration_s,
        clips=taken.count,
        clips_at_once=at_once,
        gigaflop_per_clip=gigaflop_of_graph(detector.bundle.read_graph("encoder")),
        gigaflop_per_product=None if product is None else product.gigaflop,
        clips_timed=len(taken.clips),
    )


@dataclass(frozen=True)
class _Taken:
    """What the recipe takes of a video."""

    clips: list[Clip]
    """As many as the encoder is given alone."""
    count: int
    """Of all."""
    frames: int
    duration_s: float


def _take(detector: Detector, video: str, trial: Trial) -> _Taken:
    recipe = detector.bundle.recipe
    with open_video(video, recipe.sampling, threads=trial.threads) as stream:
        cut = cut_clips(stream, recipe.window, "shared")
        clips = list(itertools.islice(cut, trial.most_clips))
        count = len(clips) + sum(1 for _ in cut)
        return _Taken(clips, count, stream.frame_count, stream.frame_count / stream.sample_fps)


def _decode(detector: Detector, video: str, trial: Trial) -> None:
    with open_video(video, detector.bundle.recipe.sampling, threads=trial.threads) as stream:
        for _ in stream:
            pass


def _encoding(detector: Detector, clips: Sequence[Clip], trial: Trial) -> Callable[[], object]:
    """Encode all clips, as `detect` does it or so many per call."""
    runtime = detector.runtime
    if trial.clips_at_once is None:
        return lambda: list(ClipEncoder(runtime, detector.bundle.recipe).encode(clips))
    batches = _batches(clips, trial.clips_at_once)
    return lambda: [runtime.encode(*batch) for batch in batches]


def _batches(clips: Sequence[Clip], at_once: int) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    groups = [clips[start : start + at_once] for start in range(0, len(clips), at_once)]
    return [
        (np.stack([clip.frames for clip in group]), np.array([clip.real_frames for clip in group], np.int64))
        for group in groups
    ]


def _product(detector: Detector, threads: int | None) -> MatrixProduct | None:
    """The product on the model's device; None where ONNX Runtime does not have that device (TensorRT runs on it)."""
    precision, on = detector.bundle.graphs["encoder"].precision, detector.runtime.device
    if on in ("gpu", "npu"):  # of Intel
        return None
    try:
        return MatrixProduct(precision, device="cuda" if on == "cuda" else "cpu", threads=threads)
    except DeviceError:
        return None
