"""The graphs of a bundle on one device, each bound to memory that stays.

Note [one thread for a device]
    ONNX Runtime keeps a captured run with the thread that made it, and a capture fails if another thread of the process
    takes memory of the device meanwhile. Videos are encoded in one thread and localized in another, anew for each
    video. So the graphs of a model are loaded and run by one thread of their own, which lives as long as the model.
    Another model that works on the device while one is loaded can still spoil its captures; it then runs without.

Note [captures are checked]
    A graph is captured when it is loaded, not in the middle of a video, on zeros; then it is run on random numbers,
    captured and not. Where the two differ, or ONNX Runtime refuses, the graph runs as it is and `remark` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tallformer_infer.bundle import GraphName
from tallformer_infer.errors import DeviceError, StoppedError, TallformerError
from tallformer_infer.runtime.bound import BoundGraph, Place, ports_of
from tallformer_infer.runtime.ports import split_batches
from tallformer_infer.runtime.protocol import Cancellation
from tallformer_infer.runtime.tensorrt.library import first_line

Opener = Callable[[GraphName, bool], ort.InferenceSession]
"""Opens a graph; whether it is to capture runs."""

_ALIKE = 1e-2
"""Largest difference between a captured run and a plain one, as a part of the largest number."""


class DeviceGraphs:
    """Runs graphs on one device. May be called from any thread."""

    def __init__(self, opener: Opener, batches: Mapping[GraphName, int], *, place: Place, captures: bool) -> None:
        """Load the graphs, and run each once.

        Args:
            opener: Opens them.
            batches: Which, with the items of the largest batch of each.
            place: Where they run.
            captures: Whether to capture runs where that works, see Note [captured runs].

        Raises:
            DeviceError: A graph does not run.
            TallformerError: Whatever `opener` raises.
        """
        self._opener = opener
        self._place: Place = place
        self._captures = captures
        self._refused: dict[str, list[GraphName]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"device-{place}")
        self._sessions: dict[GraphName, ort.InferenceSession] = {}
        self._graphs: dict[GraphName, BoundGraph | None] = {}
        for name, most in batches.items():
            self._graphs[name] = self._thread.submit(self._load, name, most).result()

    @property
    def remark(self) -> str:
        """What became of capturing, for people."""
        reasons = [f"{' and '.join(names)}: {reason}" for reason, names in self._refused.items()]
        without = f", but not of {'; '.join(reasons)}" if reasons else ""
        return f"with CUDA graphs{without}" if self._captures else "without CUDA graphs"

    def session(self, name: GraphName) -> ort.InferenceSession:
        """The session of a graph, to ask about it."""
        return self._sessions[name]

    def run(
        self,
        name: GraphName,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        cancellation: Cancellation | None = None,
    ) -> list[NDArray[Any]]:
        """Run a graph on any number of items, in batches.

        Args:
            name: Which graph.
            inputs: By name, shape (N, ...).
            outputs: Those that are wanted.
            cancellation: Stops the call from another thread; a batch that is repeated from a capture is finished.

        Returns:
            The outputs, shape (N, ...).

        Raises:
            StoppedError: It was stopped.
        """
        graph = self._graphs[name]
        if graph is None:
            run = self._sessions[name].run
            return self._stoppable(lambda options: run(list(outputs), dict(inputs), options), cancellation)
        rows = len(next(iter(inputs.values())))
        parts = [
            self._stoppable(_batch(graph, inputs, part, outputs), cancellation)
            for part in split_batches(rows, graph.most)
        ]
        ports = {port.name: port for port in graph.ports}
        empty = [np.zeros((0, *ports[output].item_shape), ports[output].dtype) for output in outputs]
        return [np.concatenate(found) for found in zip(empty, *parts, strict=True)]

    def _stoppable(
        self, run: Callable[[ort.RunOptions], list[NDArray[Any]]], cancellation: Cancellation | None
    ) -> list[NDArray[Any]]:
        options = ort.RunOptions()
        with (cancellation or Cancellation()).stopping(lambda: setattr(options, "terminate", True)):
            try:
                return self._thread.submit(run, options).result()
            except Exception as error:
                if options.terminate:
                    raise StoppedError("stopped before the video was done") from error
                raise

    def _load(self, name: GraphName, most: int) -> BoundGraph | None:
        """In the thread of the device."""
        if self._captures:
            try:
                return self._load_captured(name, most)
            except Exception as error:  # ONNX Runtime's errors have no common base
                self._refused.setdefault(first_line(error), []).append(name)
        session = self._sessions[name] = self._opener(name, False)
        if ports_of(session) is None:
            return None
        graph = BoundGraph(session, place=self._place, most=most)
        try:
            graph.run(_zeros(graph), most)
        except Exception as error:
            raise DeviceError(f"graph {name} does not run on {self._place}: {first_line(error)}") from error
        return graph

    def _load_captured(self, name: GraphName, most: int) -> BoundGraph:
        """See Note [captures are checked]."""
        session = self._opener(name, True)
        graph = BoundGraph(session, place=self._place, most=most, is_captured=True)
        graph.run(_zeros(graph), most)
        random = _random(graph)
        results = []
        for may_capture in (True, False):
            graph.run(random, most, may_capture=may_capture)
            results.append([graph.result(port.name, most) for port in graph.ports if not port.is_input])
        for captured, plain in zip(*results, strict=True):
            largest = float(np.nan_to_num(np.abs(plain.astype(np.float64))).max(initial=0))
            if not np.allclose(captured, plain, rtol=0, atol=_ALIKE * largest, equal_nan=True):
                raise TallformerError("captured runs gave other numbers")
        self._sessions[name] = session
        return graph


def _batch(
    graph: BoundGraph, inputs: Mapping[str, NDArray[Any]], part: slice, outputs: Sequence[str]
) -> Callable[[ort.RunOptions], list[NDArray[Any]]]:
    """What the thread of the device does for a part of the items."""
    rows = part.stop - part.start
    batch = {name: values[part] for name, values in inputs.items()}

    def run(options: ort.RunOptions) -> list[NDArray[Any]]:
        graph.run(batch, rows, options=options)
        return [graph.result(output, rows) for output in outputs]

    return run


def _zeros(graph: BoundGraph) -> dict[str, NDArray[Any]]:
    """Inputs of a full batch."""
    return {port.name: np.zeros((graph.most, *port.item_shape), port.dtype) for port in graph.ports if port.is_input}


def _random(graph: BoundGraph) -> dict[str, NDArray[Any]]:
    """Inputs of a full batch: pixels, features, and small counts of frames."""
    random = np.random.default_rng(0)
    most = {"u": 256, "i": 16}
    return {
        name: random.integers(0, most[zeros.dtype.kind], zeros.shape).astype(zeros.dtype)
        if zeros.dtype.kind in most
        else random.standard_normal(zeros.shape).astype(zeros.dtype)
        for name, zeros in _zeros(graph).items()
    }
