"""Graphs in ONNX Runtime whose inputs and outputs stay allocated on one device.

The device is a parameter: the same code runs on the CPU, which is how it is tested.

Note [one thread for a device]
    ONNX Runtime keeps a captured run with the thread that made it, and a capture fails if another thread of the
    process allocates device memory meanwhile. Videos are encoded in one thread and localized in another, both new for
    each video. So all graphs of a model are loaded and run by one dedicated thread that lives as long as the model.
    A second model that uses the device during loading can still break the captures; the graph then runs without.

Note [captures are checked]
    A graph is captured when it is loaded, on zeros, not in the middle of a video. Then it runs on random numbers with
    and without the capture. If the results differ, or ONNX Runtime refuses, it runs without, and `remark` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tallformer_infer.bundle import GraphName
from tallformer_infer.errors import DeviceError, StoppedError, TallformerError
from tallformer_infer.runtime.onnx_session import GRAPH_ID, NOT_CAPTURED, capture_id
from tallformer_infer.runtime.protocol import Cancellation, Port, split_batches
from tallformer_infer.text import first_line

Opener = Callable[[GraphName, bool], ort.InferenceSession]
"""Opens a graph; whether it is to capture runs."""

_ALIKE = 1e-2
"""Largest difference between a captured and a plain run, relative to the largest value."""

Place = Literal["cpu", "cuda"]
"""Device that holds the memory."""

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class DeviceGraphs:
    """Runs graphs on one device. May be called from any thread."""

    def __init__(self, opener: Opener, batches: Mapping[GraphName, int], *, place: Place, captures: bool) -> None:
        """Load the graphs, and run each once.

        Args:
            opener: Opens a graph.
            batches: The graphs, each with the size of its largest batch.
            place: Device to run on.
            captures: Whether to capture runs where possible, see Note [captured runs].

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
        """Which graphs are captured, to show to users."""
        reasons = [f"{' and '.join(names)}: {reason}" for reason, names in self._refused.items()]
        without = f", but not of {'; '.join(reasons)}" if reasons else ""
        return f"with CUDA graphs{without}" if self._captures else "without CUDA graphs"

    def session(self, name: GraphName) -> ort.InferenceSession:
        """The session of a graph."""
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
            name: The graph.
            inputs: By name, shape (N, ...).
            outputs: Names of the wanted outputs.
            cancellation: Stops the call from another thread; a batch replayed from a capture is finished.

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
    """A function that runs a part of the items in the device's thread."""
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


class BoundGraph:
    """Runs batches of one graph in buffers that are allocated once. For one thread at a time."""

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        place: Place,
        most: int,
        is_captured: bool = False,
        given: Mapping[str, ort.OrtValue] | None = None,
    ) -> None:
        """Allocate the buffers.

        Args:
            session: Session of a graph whose sizes `ports_of` knows.
            place: Device to run on.
            most: Size of the largest batch.
            is_captured: Whether the session captures runs, see Note [captured runs].
            given: Inputs already on the device, such as another graph's `buffer`; never copied.

        Raises:
            ValueError: Not all sizes are known, or a given input has another shape or type.
        """
        ports = ports_of(session)
        if ports is None:
            raise ValueError("expected a graph in which all sizes but the batch's are known")
        self.ports = ports
        """Inputs and outputs."""
        self.most = most
        """Size of the largest batch."""
        self._session = session
        self._place = place
        self._is_captured = is_captured
        self._given = dict(given or {})
        self._buffers = {port.name: self._buffer_of(port) for port in ports}
        self._part_filled: dict[str, NDArray[Any]] = {}
        self._bindings: dict[int, ort.IOBinding] = {}

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        rows: int,
        *,
        options: ort.RunOptions | None = None,
        may_capture: bool = True,
    ) -> None:
        """Run one batch. Results stay on the device until the next run.

        Args:
            inputs: Inputs that were not given, by name, shape (N, ...).
            rows: N, 1 to `most`.
            options: Options of this run; None uses the defaults.
            may_capture: False runs without a capture even if the session captures.

        Raises:
            ValueError: An input has another shape.
        """
        for port in self.ports:
            if port.is_input and port.name not in self._given:
                self._fill(port, inputs[port.name], rows)
        options = options or ort.RunOptions()
        if self._is_captured:
            options.add_run_config_entry(GRAPH_ID, str(capture_id(rows, self.most) if may_capture else NOT_CAPTURED))
        self._session.run_with_iobinding(self._binding(rows), options)

    def result(self, name: str, rows: int) -> NDArray[Any]:
        """The first rows of an output of the last run, copied to the host."""
        values: NDArray[Any] = self._buffers[name].numpy()[:rows].copy()  # on the CPU `numpy` is the buffer itself
        return values

    def buffer(self, name: str) -> ort.OrtValue:
        """An input or output on the device, shape (`most`, ...); the same for as long as this object lives."""
        return self._buffers[name]

    def _buffer_of(self, port: Port) -> ort.OrtValue:
        own = ort.OrtValue.ortvalue_from_shape_and_type((self.most, *port.item_shape), port.dtype.type, self._place, 0)
        given = self._given.get(port.name)
        if given is None:
            return own
        found, wanted = (f"{one.data_type()} {tuple(one.shape())} on {one.device_name()}" for one in (given, own))
        if found != wanted:
            raise ValueError(f"{port.name!r} is given as {found}: expected {wanted}")
        return given

    def _fill(self, port: Port, values: NDArray[Any], rows: int) -> None:
        """Copy an input to the device; buffers can only be filled as a whole, so a small batch is padded."""
        if values.shape != (rows, *port.item_shape) or not 1 <= rows <= self.most:
            item = ", ".join(map(str, port.item_shape))
            raise ValueError(f"{port.name!r} is {values.shape}: expected ({rows}, {item}), at most {self.most} at once")
        whole = values
        if rows < self.most:
            if port.name not in self._part_filled:
                self._part_filled[port.name] = np.zeros((self.most, *port.item_shape), port.dtype)
            whole = self._part_filled[port.name]
            whole[:rows] = values
        self._buffers[port.name].update_inplace(np.ascontiguousarray(whole, port.dtype))

    def _binding(self, rows: int) -> ort.IOBinding:
        """Bindings of the first rows of every buffer, made once per batch size."""
        if rows not in self._bindings:
            binding = self._session.io_binding()
            for port in self.ports:
                bind = binding.bind_input if port.is_input else binding.bind_output
                address = self._buffers[port.name].data_ptr()
                bind(port.name, self._place, 0, port.dtype.type, [rows, *port.item_shape], address)
            self._bindings[rows] = binding
        return self._bindings[rows]


def ports_of(session: ort.InferenceSession) -> tuple[Port, ...] | None:
    """Inputs and outputs of a graph; None if any size besides one common batch is unknown."""
    values = [*((value, True) for value in session.get_inputs()), *((value, False) for value in session.get_outputs())]
    batch = values[0][0].shape[0] if values and values[0][0].shape else None
    ports = []
    for value, is_input in values:
        first, *rest = value.shape or [None]
        is_known = isinstance(batch, str) and first == batch and all(isinstance(size, int) for size in rest)
        if not is_known or value.type not in _TYPES:
            return None
        ports.append(Port(value.name, tuple(rest), np.dtype(_TYPES[value.type]), is_input))
    return tuple(ports)
