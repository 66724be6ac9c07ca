"""Is int8 by NNCF's post-training quantisation worth a dependency, beside bfloat16 in OpenVINO?

    pip install nncf
    python -m benchmarks.bench_nncf MODEL --sample VIDEO [VIDEO ...] [--videos VIDEO [VIDEO ...]] [--truth FILE]
        >> benchmarks/results/nncf.jsonl

NNCF quantises the encoder as OpenVINO gets it here, rewritten, with clips of the sample; what it leaves in float is
computed in bfloat16. Beside it: OpenVINO in float32 and bfloat16, and, for transformers, ONNX Runtime with the linear
layers in dynamic int8 (`export --precision int8`). One clip on one thread, all ways in turn; processor time, as other
programs may run. Features are compared with those in float32, and actions and mAP of the videos, each way as `detect`
finds them. With --random, MODEL is a recipe that gets random weights: its actions mean nothing and are not compared.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.bench_detect import bundle_of
from benchmarks.measure import Spread, clocked, paired, say_round, take_turns, write_line
from tallformer_export.parity import compare_reduced
from tallformer_export.precision import quantised
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.config import RAW_SCORES
from tallformer_infer.devices import processor_features
from tallformer_infer.media import open_video
from tallformer_infer.pipeline import Detector
from tallformer_infer.results import actions_document
from tallformer_infer.runtime import Cancellation, OnnxRuntime
from tallformer_infer.runtime.onnx import CpuEncoder, HostEncoder
from tallformer_infer.runtime.openvino import OpenVinoEncoder, import_without_telemetry, rewrite
from tallformer_infer.structures import Result
from tallformer_infer.timeline import Clip, cut_clips

NNCF, BF16, FP32, DYNAMIC = "NNCF int8 and bf16", "bf16", "fp32", "dynamic int8, ONNX Runtime"


def main() -> None:
    """Print one JSON line for the model."""
    options = _options()
    with tempfile.TemporaryDirectory() as work:
        bundle = load_bundle(bundle_of(Path(work), options.model) if options.random else options.model)
        shown = _interleaved(bundle, options.videos or options.sample)
        sample = list(itertools.islice(_interleaved(bundle, options.sample), options.clips))
        ways = _ways(bundle, sample)
        line = {
            "name": "nncf",
            "inputs": {"model": options.model, "sample_clips": len(sample), "clip_shape": list(sample[0].frames.shape)},
            **_timed(ways, sample[-1], options.rounds),
            "features_l2": _errors(ways, list(itertools.islice(shown, 6))),
        }
        if bundle.trained and options.videos:
            line |= _actions(bundle, ways, options)
        write_line({**line, "features": list(processor_features())})


class _Quantised:
    """A compiled model as a `HostEncoder`, one clip at a time."""

    clips_at_once = 1

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._names = {port.any_name for port in compiled.inputs}
        self.clip_shape = tuple(compiled.input("clips").shape)[1:]

    def run(self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], _: Cancellation) -> NDArray[np.float32]:
        rows = [{"clips": clips[row : row + 1], "real_frames": real_frames[row : row + 1]} for row in range(len(clips))]
        found = [self._compiled({name: feed[name] for name in self._names})[0].copy() for feed in rows]
        return np.concatenate(found)


def _ways(bundle: Bundle, sample: Sequence[Clip]) -> dict[str, HostEncoder]:
    content = bundle.read_graph("encoder")
    ways: dict[str, HostEncoder] = {
        FP32: OpenVinoEncoder(content, precision="fp32", threads=1),
        BF16: OpenVinoEncoder(content, precision="bf16", threads=1),
        NNCF: _Quantised(_by_nncf(content, sample, is_transformer=_is_transformer(bundle))),
    }
    if _is_transformer(bundle):
        reduced = quantised(onnx.load_from_string(content)).SerializeToString()
        ways[DYNAMIC] = CpuEncoder(reduced, threads=1)
    return ways


def _is_transformer(bundle: Bundle) -> bool:
    return bundle.recipe.model.backbone.kind == "video_swin"


def _by_nncf(content: bytes, sample: Sequence[Clip], *, is_transformer: bool) -> Any:
    openvino = import_without_telemetry("openvino")  # before NNCF, which takes the same package
    nncf = import_without_telemetry("nncf")
    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    model = core.read_model(content)
    model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    rewrite(model, has_amx="AMX bf16" in processor_features())
    names = {port.any_name for port in model.inputs}
    feeds = [{name: value for name, value in _feed(clip).items() if name in names} for clip in sample]
    with contextlib.redirect_stdout(sys.stderr):  # it shows how far it is
        made = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
        )
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    return core.compile_model(made, "CPU", {**settings, "ENABLE_CPU_PINNING": False})


def _feed(clip: Clip) -> dict[str, NDArray[Any]]:
    return {"clips": clip.frames[None], "real_frames": np.array([clip.real_frames], np.int64)}


def _interleaved(bundle: Bundle, videos: Sequence[Path]) -> Iterator[Clip]:
    """The first clip of every video, then the second of every video, and so on."""

    def clips(video: Path) -> list[Clip]:
        with open_video(video, bundle.recipe.sampling) as stream:
            return list(itertools.islice(cut_clips(stream, bundle.recipe.window, "shared"), 8))

    by_place = itertools.zip_longest(*map(clips, videos))
    return (clip for place in by_place for clip in place if clip is not None)


def _timed(ways: Mapping[str, HostEncoder], clip: Clip, rounds: int) -> dict[str, Any]:
    """Processor seconds per clip, and how many clips each way encodes in the time of one in bfloat16."""
    feed = _feed(clip)
    turns = {
        name: clocked(lambda way=way: way.run(feed["clips"], feed["real_frames"], Cancellation()))
        for name, way in ways.items()
    }
    calls = take_turns(turns, rounds=rounds, on_round=partial(say_round, "nncf", rounds))
    cpu_s = {name: [call.cpu_s for call in called] for name, called in calls.items()}
    return {
        "cpu_s_per_clip": {name: round(Spread.of(seconds).median, 4) for name, seconds in cpu_s.items()},
        "times_bf16": {name: round(paired(cpu_s[BF16], seconds).median, 3) for name, seconds in cpu_s.items()},
        "rounds": rounds,
    }


def _errors(ways: Mapping[str, HostEncoder], clips: Sequence[Clip]) -> dict[str, float]:
    """Relative L2 error of features against float32, the mean of some clips."""
    made = {
        name: [way.run(*_feed(clip).values(), Cancellation()).astype(np.float64) for clip in clips]
        for name, way in ways.items()
    }
    wanted = made.pop(FP32)
    return {name: float(f"{np.mean(list(map(_distance, found, wanted))):.3g}") for name, found in made.items()}


def _distance(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _actions(bundle: Bundle, ways: Mapping[str, HostEncoder], options: argparse.Namespace) -> dict[str, Any]:
    """Actions found again of those in float32, and mAP where there is a truth."""
    results = {name: _detected(bundle, way, options.videos, is_raw=options.truth is None) for name, way in ways.items()}
    line: dict[str, Any] = {"videos": len(options.videos)}
    if options.truth is not None:
        line["map"] = {name: _scored(found, options.truth) for name, found in results.items()}
        return line
    pairs = {
        name: [compare_reduced(bundle, a.actions, b.actions)[0] for a, b in zip(results[FP32], found, strict=True)]
        for name, found in results.items()
        if name != FP32
    }
    line["actions"] = {
        name: {"found_again": sum(one.matched for one in each), "in_fp32": sum(one.in_torch for one in each)}
        for name, each in pairs.items()
    }
    return line


def _detected(bundle: Bundle, way: HostEncoder, videos: Sequence[Path], *, is_raw: bool) -> list[Result]:
    detector = Detector(bundle, OnnxRuntime(bundle, device="cpu", threads=1, encoder=way), threads=1)
    return [detector.detect(video, operating_point=RAW_SCORES if is_raw else None) for video in videos]


def _scored(results: Sequence[Result], truth: Path) -> float:
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "actions.json"
        file.write_text(json.dumps(actions_document(results)), encoding="utf-8")
        command = [sys.executable, "-m", "tallformer_infer", "eval", str(file), str(truth), "--json"]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(said)["average_mAP"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_nncf", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundle")
    parser.add_argument("--random", action="store_true", help="the model is a recipe, with random weights")
    parser.add_argument("--sample", type=Path, nargs="+", required=True, help="videos to quantise by")
    parser.add_argument("--clips", type=int, default=16, help="clips of the sample (16)")
    parser.add_argument("--videos", type=Path, nargs="+", help="other videos, whose actions are compared")
    parser.add_argument("--truth", type=Path, help="annotations of the videos, for mAP")
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is timed (5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
