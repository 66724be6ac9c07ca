"""A graph in ONNX Runtime whose inputs and outputs stay in the same memory of a device.

The device is a parameter: on the CPU the very same code runs, which is how it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tallformer_infer.runtime.ports import Port
from tallformer_infer.runtime.providers import GRAPH_ID, NOT_CAPTURED, capture_id

Place = Literal["cpu", "cuda"]
"""Whose memory."""

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class BoundGraph:
    """Runs batches of one graph in buffers that are taken once. For one thread at a time."""

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        place: Place,
        most: int,
        is_captured: bool = False,
        given: Mapping[str, ort.OrtValue] | None = None,
    ) -> None:
        """Take the buffers.

        Args:
            session: Of a graph that `ports_of` knows the sizes of.
            place: Where it runs.
            most: Items of the largest batch.
            is_captured: Whether the session captures runs, see Note [captured runs].
            given: Inputs that are already on the device, such as another graph's `buffer`; never copied.

        Raises:
            ValueError: Not all sizes are known, or a given input has another shape or type.
        """
        ports = ports_of(session)
        if ports is None:
            raise ValueError("expected a graph in which all sizes but the batch's are known")
        self.ports = ports
        """Inputs and outputs."""
        self.most = most
        """Items of the largest batch."""
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
        """Run one batch. Results stay on the device, until the next run.

        Args:
            inputs: Those that are not given, by name, shape (N, ...).
            rows: N, 1 to `most`.
            options: Of this run; None takes the usual ones.
            may_capture: False runs as it is where the session captures.

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
        """Copy an input to the device; a buffer is only ever filled as a whole, so a small batch is put into one."""
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
        """The first rows of every buffer, bound once for each size of batch."""
        if rows not in self._bindings:
            binding = self._session.io_binding()
            for port in self.ports:
                bind = binding.bind_input if port.is_input else binding.bind_output
                address = self._buffers[port.name].data_ptr()
                bind(port.name, self._place, 0, port.dtype.type, [rows, *port.item_shape], address)
            self._bindings[rows] = binding
        return self._bindings[rows]


def ports_of(session: ort.InferenceSession) -> tuple[Port, ...] | None:
    """Inputs and outputs of a graph; None where a size is not known, besides that of one and the same batch."""
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
