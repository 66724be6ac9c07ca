"""How much do bound memory, CUDA graphs and TensorRT in ONNX Runtime gain, and how much would features kept on the GPU?

    python -m benchmarks.bench_device [BUNDLE ...] [--device cuda] >> benchmarks/results/device.jsonl

Lines `encode` are one full batch of clips, from pixels on the host to features on the host: `session` is plain
`session.run`, `bound` the same graph with bound memory, `captured` the bound graph as a CUDA graph, `onnx-tensorrt` and
`tensorrt` the devices of these names. Lines `handover` are one window, localized from features on the host and from
features on the device: the difference is what features kept on the device could save per window (docs/decisions.md
51). Features are compared before anything is timed. On the CPU there are only the first two ways.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.measure import measure, report
from tallformer_infer.bundle import Bundle, GraphName, load_bundle
from tallformer_infer.errors import DeviceError, EngineError, TallformerError
from tallformer_infer.runtime import Device, load_runtime
from tallformer_infer.runtime.device_graphs import BoundGraph, DeviceGraphs, Place
from tallformer_infer.runtime.onnx_session import CPU, cuda_provider, open_session
from tallformer_infer.runtime.tensorrt.keys import DEFAULT_BATCHES, require_gpu

_ALIKE = 0.02
"""Largest difference from the plain session, relative to the largest feature: TF32, and float16 chosen by TensorRT."""

Encode = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]


def main() -> None:
    """Measure bundles and print the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", help="folders, .zip files or names (default: the bundled model)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    for name in options.bundles or [None]:
        measure_bundle(load_bundle(name), options.device)


def measure_bundle(bundle: Bundle, device: Place, *, repeats: int = 30) -> None:
    """Print a line for each way to encode, and two for a window.

    Raises:
        DeviceError: The device is not available.
    """
    recipe = bundle.recipe
    batch, frames, side = DEFAULT_BATCHES["encoder"].most, recipe.window.clip_frames, recipe.sampling.crop_px
    clips = np.random.default_rng(0).integers(0, 256, (batch, frames, side, side, 3), dtype=np.uint8)
    real_frames = np.full(batch, frames, np.int64)
    facts = {"recipe": recipe.name, "precision": bundle.graphs["encoder"].precision}
    if device == "cuda":
        facts["gpu"] = str(require_gpu())
    wanted: NDArray[np.float32] | None = None
    for way, encode in _ways(bundle, device):
        found = encode(clips, real_frames)
        wanted = found if wanted is None else wanted
        far = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        assert far <= _ALIKE, f"{way} differs by {far}"
        timing = measure(lambda encode=encode: encode(clips, real_frames), repeats=repeats, at_most_s=60)  # type: ignore[misc]
        rate = round(batch / float(np.median(timing.wall_s)), 2)
        report("encode", timing, device=device, way=way, clips=batch, clips_per_s=rate, differs=round(far, 6), **facts)
    for place, localize in _windows(bundle, device):
        timing = measure(localize, repeats=repeats, at_most_s=60)
        report("handover", timing, device=device, features=place, **facts)


def _ways(bundle: Bundle, device: Place) -> Iterator[tuple[str, Encode]]:
    session = _opener(bundle, device)("encoder", False)
    yield "session", lambda clips, real: session.run(["features"], {"clips": clips, "real_frames": real})[0]
    for way, captures in (("bound", False), ("captured", True)):
        if device == "cuda" or not captures:
            graphs = DeviceGraphs(
                _opener(bundle, device),
                {"encoder": DEFAULT_BATCHES["encoder"].most},
                place=device,
                captures=captures,
            )
            if captures and graphs.remark != "with CUDA graphs":
                print(f"{way}: {graphs.remark}", file=sys.stderr)
                continue
            yield way, _encode_on(graphs)
    if device == "cuda":
        for value in ("onnx-tensorrt", "tensorrt"):
            yield from _runtime(bundle, value)


def _encode_on(graphs: DeviceGraphs) -> Encode:
    return lambda clips, real: graphs.run("encoder", {"clips": clips, "real_frames": real}, ["features"])[0]


def _runtime(bundle: Bundle, device: Device) -> Iterator[tuple[str, Encode]]:
    """A runtime as users have it; if it is not available, print why and yield nothing."""
    try:
        yield device, load_runtime(bundle, device=device).encode
    except (DeviceError, EngineError) as error:
        print(f"{device}: {error}", file=sys.stderr)


def _windows(bundle: Bundle, device: Place) -> Iterator[tuple[Literal["host", "device"], Callable[[], object]]]:
    session = _opener(bundle, device)("localizer", False)
    on_host = BoundGraph(session, place=device, most=1)
    inputs = {port.name: np.ones((1, *port.item_shape), port.dtype) for port in on_host.ports if port.is_input}
    on_host.run(inputs, 1)
    on_device = BoundGraph(session, place=device, most=1, given={"features": on_host.buffer("features")})
    for place, graph in (("host", on_host), ("device", on_device)):

        def localize(graph: BoundGraph = graph) -> object:
            graph.run(inputs, 1)
            return [graph.result(name, 1) for name in ("segments", "scores", "classes")]

        yield place, localize  # type: ignore[misc]


def _opener(bundle: Bundle, device: Place) -> Callable[[GraphName, bool], ort.InferenceSession]:
    def opened(name: GraphName, captures: bool) -> ort.InferenceSession:
        providers = [cuda_provider(captures=captures), CPU] if device == "cuda" else [CPU]
        session = open_session(bundle.read_graph(name), providers=providers)
        if device == "cuda" and session.get_providers() == [CPU]:
            raise DeviceError("onnxruntime gives no CUDA here")
        return session

    return opened


if __name__ == "__main__":
    try:
        main()
    except TallformerError as error:
        sys.exit(f"benchmarks.bench_device: {error}")
