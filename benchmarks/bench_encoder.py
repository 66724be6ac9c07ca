"""Clips per second of the encoder on the CPU, beside torch and the machine's own rate of matrix products.

    python -m benchmarks.bench_encoder [RECIPE] [--threads N] [--rounds N] >> benchmarks/results/encoder.jsonl

All ways take the same weights and the same clips and are timed in turn. `torch` is the model in plain eager mode, one
clip at a time (`bf16`: under autocast), `torch.compile` (with --compile, and a C++ compiler) the same with
max-autotune; `graph` the exported graph as ONNX Runtime runs it, all threads for one clip; `plain openvino` the same
graph in OpenVINO, a clip per thread; `tallformer` what `--device cpu` does with it, `openvino` what `--device openvino`
does. Outputs are compared before anything is timed. Shares are of the rate of products in the same number format, by
the faster of ONNX Runtime and torch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceilings import Product, best_rates, products
from benchmarks.goals import Figure
from benchmarks.measure import Call, Spread, clocked, paired, say_round, take_turns, write_line
from tallformer_export.graphs import EncoderGraph, encoder_onnx
from tallformer_export.precision import quantised
from tallformer_infer.config import Recipe, preset
from tallformer_infer.devices import available_cores
from tallformer_infer.runtime import Cancellation
from tallformer_infer.runtime.cpu_graph import cpu_encoder_graph
from tallformer_infer.runtime.onnx import CpuEncoder
from tallformer_infer.runtime.onnx_session import CPU, open_session
from tallformer_infer.runtime.openvino import OpenVinoEncoder, has_bf16
from tallformer_training.model import Detector

RECIPE = "thumos14-swin-t"
_ALIKE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.2}
"""Largest difference from torch, as a part of the largest feature."""
_SHOWN_OPERATORS = 4

RIVALS = ("torch", "torch.compile", "graph", "plain openvino")
"""Ways that are not ours: libraries as their documentation shows them, with nothing done to the graph."""

Encode = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Way:
    """One way to encode."""

    name: str
    precision: str
    encode: Encode


@dataclass(frozen=True)
class Measured:
    """Ways in turn, and the ceilings beside them."""

    gigaflop: float
    """Of one clip: matrix products and convolutions, in 10^9."""
    seconds: dict[tuple[str, str], list[float]]
    """Per clip, of each round, by name and precision of the way."""
    rates: dict[str, list[float]]
    """GFLOP/s of large products, of each round, by precision."""
    torch_rates: list[float]
    """Those of torch's float32 product."""
    fp32_graph: bytes
    """The encoder as a bundle has it."""

    def times_torch(self, name: str, precision: str) -> Spread:
        """Clips per second over those of torch."""
        return paired(self.seconds["torch", "fp32"], self.seconds[name, precision])

    def over_rivals(self, *precisions: str) -> Spread:
        """Clips per second of our fastest way in one of these precisions over those of the fastest other in float32."""
        ours = [times for (name, form), times in self.seconds.items() if name not in RIVALS and form in precisions]
        theirs = [times for (name, form), times in self.seconds.items() if name in RIVALS and form == "fp32"]
        return paired(map(min, zip(*theirs, strict=True)), map(min, zip(*ours, strict=True)))

    def share(self, name: str, precision: str, rates: Sequence[float] | None = None) -> Spread:
        """What part of the rate of products a way reaches."""
        reached = [self.gigaflop / seconds for seconds in self.seconds[name, precision]]
        return paired(reached, rates or self.rates[precision])


def main() -> None:
    """Time all ways and print a JSON line for each."""
    options = _options()
    measured = measure_encoder(
        options.recipe, threads=options.threads, rounds=options.rounds, with_compiled=options.compile
    )
    for name, precision in measured.seconds:
        write_line(_line(measured, name, precision, options))


def goal(work: Path) -> dict[str, Figure]:
    """Figures of the encoder's goals, on Swin-T at 224 px."""
    threads = available_cores()
    measured = measure_encoder(RECIPE, threads=threads, rounds=5)
    graph = cpu_encoder_graph(measured.fp32_graph) or measured.fp32_graph
    clips, real_frames = _clips(preset(RECIPE), 1)
    costs = costliest_operators(graph, {"clips": clips, "real_frames": real_frames})
    of_torch = measured.share("tallformer", "fp32", measured.torch_rates).median
    rate = Spread.of(measured.rates["fp32"]).median
    int8 = measured.share("tallformer", "int8").median
    each = ", ".join(f"{name} {form} {np.median(times):.2f}" for (name, form), times in measured.seconds.items())
    return {
        "fp32": Figure.of(measured.times_torch("tallformer", "fp32"), f"operators: {costs}"),
        "int8": Figure.of(measured.times_torch("tallformer", "int8"), f"{int8:.0%} of the rate of int8 products"),
        "rivals": Figure.of(measured.over_rivals("fp32"), f"s per clip: {each}"),
        "reduced": Figure.of(measured.over_rivals("bf16", "int8"), "s per clip: see the row above"),
        "share": Figure.of(
            measured.share("tallformer", "fp32"),
            f"of {rate:.0f} GFLOP/s, the faster product at hand; {of_torch:.0%} of torch's; operators: {costs}",
        ),
    }


def measure_encoder(recipe: str, *, threads: int, rounds: int, with_compiled: bool = False) -> Measured:
    """Compare all ways with torch, then time them in turn.

    Args:
        recipe: Its encoder, with random weights.
        threads: Of everything.
        rounds: How often each way is timed.
        with_compiled: Whether `torch.compile` is.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    detector = Detector(preset(recipe)).eval()
    clips, real_frames = _clips(detector.recipe, threads)
    contents = _contents(detector)
    ways = [Way("torch", "fp32", _torch(detector)), *_torch_ways(detector, with_compiled=with_compiled)]
    for precision, content in contents.items():
        ways.append(Way("graph", precision, _graph(content, threads)))
        ways.append(Way("tallformer", precision, _tallformer(content, threads)))
    for precision in ("fp32", *(["bf16"] if has_bf16() else [])):
        ways.append(Way("plain openvino", precision, _plain_openvino(contents["fp32"], precision, threads)))
        encoder = OpenVinoEncoder(contents["fp32"], precision=precision, threads=threads)
        ways.append(Way("openvino", precision, partial(encoder.run, cancellation=Cancellation())))
    _compare(ways, clips, real_frames)
    multiplying = {way.precision: products(way.precision, threads=threads) for way in ways}
    calls = _take_turns(ways, (clips, real_frames), multiplying, rounds)
    rates = {
        precision: best_rates([(product, calls["product", name]) for name, product in by_name.items()])
        for precision, by_name in multiplying.items()
    }
    return Measured(
        gigaflop=_gigaflop(detector),
        seconds={
            (way.name, way.precision): [call.wall_s / len(clips) for call in calls[way.name, way.precision]]
            for way in ways
        },
        rates=rates,
        torch_rates=best_rates([(multiplying["fp32"]["torch fp32"], calls["product", "torch fp32"])]),
        fp32_graph=contents["fp32"],
    )


def costliest_operators(content: bytes, inputs: dict[str, NDArray[np.generic]]) -> str:
    """The operators that take most of one run on one thread, with their shares of it.

    Args:
        content: The graph as it is run, already optimised.
        inputs: By name.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(content, options, providers=[CPU])
        session.run(None, inputs)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(content, options, providers=[CPU])
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    whole = sum(spent.values())
    return ", ".join(f"{name} {time / whole:.0%}" for name, time in spent.most_common(_SHOWN_OPERATORS))


def _contents(detector: Detector) -> dict[str, bytes]:
    """The encoder as bundles have it, by precision; an I3D has no int8."""
    fp32 = encoder_onnx(detector)
    contents = {"fp32": fp32.SerializeToString()}
    if detector.recipe.model.backbone.kind == "video_swin":
        contents["int8"] = quantised(fp32).SerializeToString()
    return contents


def _torch_ways(detector: Detector, *, with_compiled: bool) -> list[Way]:
    ways = []
    if has_bf16():
        ways.append(Way("torch", "bf16", _torch(detector, autocast=True)))
    if with_compiled:
        ways.append(Way("torch.compile", "fp32", _torch(detector, compiled=True)))
    return ways


def _compare(ways: Sequence[Way], clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> None:
    """Also the warm-up of all ways."""
    wanted = ways[0].encode(clips, real_frames)
    for way in ways[1:]:
        far = float(np.abs(way.encode(clips, real_frames) - wanted).max() / np.abs(wanted).max())
        assert far <= _ALIKE[way.precision], f"{way.name} {way.precision} differs by {far}"


def _take_turns(
    ways: Sequence[Way],
    inputs: tuple[NDArray[np.uint8], NDArray[np.int64]],
    multiplying: dict[str, dict[str, Product]],
    rounds: int,
) -> dict[tuple[str, str], list[Call]]:
    timed: dict[tuple[str, str], Callable[[int], Call]] = {
        (way.name, way.precision): clocked(lambda way=way: way.encode(*inputs)) for way in ways
    }
    for by_name in multiplying.values():
        for name, product in by_name.items():
            product.run()
            timed["product", name] = clocked(product.run)
    return take_turns(timed, rounds=rounds, warmups=0, on_round=partial(say_round, "encoder", rounds))


def _torch(detector: Detector, *, autocast: bool = False, compiled: bool = False) -> Encode:
    graph = EncoderGraph(detector).eval()
    run = torch.compile(graph, mode="max-autotune") if compiled else graph

    def encode(clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pairs = zip(torch.from_numpy(clips).split(1), torch.from_numpy(real_frames).split(1), strict=True)
            return torch.cat([run(*pair) for pair in pairs]).float().numpy()

    return encode


def _graph(content: bytes, threads: int) -> Encode:
    session = open_session(content, providers=[CPU], threads=threads)

    def encode(clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = [
            {"clips": clips[row : row + 1], "real_frames": real_frames[row : row + 1]} for row in range(len(clips))
        ]
        return np.concatenate([session.run(None, feed)[0] for feed in feeds])

    return encode


def _plain_openvino(content: bytes, precision: str, threads: int) -> Encode:
    """The graph fixed to one clip and nothing else done to it, by the library's own queue."""
    import openvino  # noqa: PLC0415 (an extra)

    core = openvino.Core()
    model = core.read_model(content)
    model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    compiled = core.compile_model(model, "CPU", settings)
    waiting = openvino.AsyncInferQueue(compiled, threads)

    def encode(clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        found: dict[int, NDArray[np.float32]] = {}
        waiting.set_callback(lambda request, row: found.update({row: request.get_output_tensor(0).data.copy()}))
        for row in range(len(clips)):
            feeds = {"clips": clips[row : row + 1], "real_frames": real_frames[row : row + 1]}
            waiting.start_async({port.any_name: feeds[port.any_name] for port in compiled.inputs}, row)
        waiting.wait_all()
        return np.concatenate([found[row] for row in range(len(clips))])

    return encode


def _tallformer(content: bytes, threads: int) -> Encode:
    encoder = CpuEncoder(content, threads=threads)
    return lambda clips, real_frames: encoder.run(clips, real_frames, Cancellation())


def _clips(recipe: Recipe, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    pixels = np.random.default_rng(0).integers(0, 256, (count, frames, side, side, 3), dtype=np.uint8)
    return pixels, np.full(count, frames)


def _gigaflop(detector: Detector) -> float:
    """Of one clip: matrix products and convolutions."""
    graph = EncoderGraph(detector).eval()
    clips, real_frames = _clips(detector.recipe, 1)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        graph(torch.from_numpy(clips), torch.from_numpy(real_frames))
    return float(counter.get_total_flops() / 1e9)


def _line(measured: Measured, name: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    seconds = Spread.of(measured.seconds[name, precision])
    return {
        "name": "encoder",
        "inputs": {"recipe": options.recipe, "way": name, "precision": precision, "threads": options.threads},
        "s_per_clip": round(seconds.median, 4),
        "quartiles_s": [round(seconds.low, 4), round(seconds.high, 4)],
        "times_torch": round(measured.times_torch(name, precision).median, 3),
        "gigaflop_per_clip": round(measured.gigaflop, 1),
        "matrix_precision": precision,
        "matrix_gigaflop_per_s": round(Spread.of(measured.rates[precision]).median, 1),
        "torch_gigaflop_per_s": round(Spread.of(measured.torch_rates).median, 1),
        "share_of_matrix_rate": round(measured.share(name, precision).median, 3),
        "rounds": options.rounds,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", default=RECIPE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile, which needs a C++ compiler")
    return parser.parse_args()


if __name__ == "__main__":
    main()
