"""Clips per second of the encoder on the CPU, beside torch and the machine's own rate of matrix products.

    python -m benchmarks.bench_encoder [RECIPE] [--threads N] [--rounds N] >> benchmarks/results/encoder.jsonl

All ways take the same weights and the same clips and are timed in turn, round by round, so that a machine that is slow
for a while is slow for all of them. `torch` is the model in plain eager mode, one clip at a time; `graph` the exported
graph as ONNX Runtime runs it, all threads for one clip; `tallformer` what `detect` does with it.
Outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import circumstances
from tallformer_export.graphs import EncoderGraph
from tallformer_export.onnx_files import encoder_onnx
from tallformer_export.precision import quantised
from tallformer_infer.config import preset
from tallformer_infer.runtime.cpu_encoder import CpuEncoder
from tallformer_infer.runtime.providers import CPU
from tallformer_infer.runtime.sessions import open_session
from tallformer_training.model import Detector

_SIDE = 2048
"""Of the matrices whose product gives the machine's rate."""
_ALIKE = {"fp32": 1e-4, "int8": 0.2}
"""Largest difference from torch, as a part of the largest feature."""

Encode = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Way:
    """One way to encode."""

    name: str
    precision: str
    encode: Encode
    seconds: list[float] = field(default_factory=list)
    """Per clip, of each round."""


def main() -> None:
    """Time all ways and print a JSON line for each."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    detector = Detector(preset(options.recipe)).eval()
    clips, real_frames = _clips(detector, options.threads)
    ways = list(_ways(detector, options.threads))
    wanted = ways[0].encode(clips, real_frames)
    for way in ways:
        far = float(np.abs(way.encode(clips, real_frames) - wanted).max() / np.abs(wanted).max())
        assert far <= _ALIKE[way.precision], f"{way.name} {way.precision} differs by {far}"
    sys.stderr.write("timing\n")
    rates: list[float] = []
    for _ in range(options.rounds):
        rates.append(_matrix_rate())
        for way in ways:
            started = time.perf_counter()
            way.encode(clips, real_frames)
            way.seconds.append((time.perf_counter() - started) / len(clips))
    _report(ways, rates, gigaflop=_gigaflop(detector), options=options)


def _ways(detector: Detector, threads: int) -> list[Way]:
    fp32 = encoder_onnx(detector)
    int8 = quantised(fp32)
    ways = [Way("torch", "fp32", _torch(detector))]
    for precision, model in (("fp32", fp32), ("int8", int8)):
        content = model.SerializeToString()
        ways.append(Way("graph", precision, _graph(content, threads)))
        ways.append(Way("tallformer", precision, _tallformer(content, threads)))
    return ways


def _torch(detector: Detector) -> Encode:
    graph = EncoderGraph(detector).eval()

    def encode(clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pairs = zip(torch.from_numpy(clips).split(1), torch.from_numpy(real_frames).split(1), strict=True)
            return torch.cat([graph(*pair) for pair in pairs]).numpy()

    return encode


def _graph(content: bytes, threads: int) -> Encode:
    session = open_session(content, providers=[CPU], threads=threads)

    def encode(clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = [
            {"clips": clips[row : row + 1], "real_frames": real_frames[row : row + 1]} for row in range(len(clips))
        ]
        return np.concatenate([session.run(None, feed)[0] for feed in feeds])

    return encode


def _tallformer(content: bytes, threads: int) -> Encode:
    encoder = CpuEncoder(content, threads=threads)
    return lambda clips, real_frames: encoder.run(clips, real_frames, ort.RunOptions())


def _clips(detector: Detector, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    side, frames = detector.recipe.sampling.crop_px, detector.recipe.window.clip_frames
    pixels = np.random.default_rng(0).integers(0, 256, (count, frames, side, side, 3), dtype=np.uint8)
    return pixels, np.full(count, frames)


def _matrix_rate() -> float:
    """GFLOP/s of torch's float32 matrix product, now."""
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    started = time.perf_counter()
    for _ in range(4):
        left @ right
    return 4 * 2 * _SIDE**3 / (time.perf_counter() - started) / 1e9


def _gigaflop(detector: Detector) -> float:
    """Of one clip: matrix products and convolutions."""
    graph = EncoderGraph(detector).eval()
    clips, real_frames = _clips(detector, 1)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        graph(torch.from_numpy(clips), torch.from_numpy(real_frames))
    return float(counter.get_total_flops() / 1e9)


def _report(ways: list[Way], rates: list[float], *, gigaflop: float, options: argparse.Namespace) -> None:
    eager = np.array(ways[0].seconds)
    for way in ways:
        seconds = np.array(way.seconds)
        line = {
            "name": "encoder",
            "inputs": {
                "recipe": options.recipe,
                "way": way.name,
                "precision": way.precision,
                "threads": options.threads,
            },
            "s_per_clip": round(float(np.median(seconds)), 4),
            "quartiles_s": [round(float(value), 4) for value in np.percentile(seconds, [25, 75])],
            "times_torch": round(float(np.median(eager / seconds)), 3),
            "gigaflop_per_clip": round(gigaflop, 1),
            "matrix_gigaflop_per_s": round(float(np.median(rates)), 1),
            "share_of_matrix_rate": round(float(np.median(gigaflop / seconds / np.array(rates))), 3),
            "rounds": options.rounds,
            **circumstances(),
        }
        sys.stdout.write(json.dumps(line) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", default="thumos14-swin-t")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
