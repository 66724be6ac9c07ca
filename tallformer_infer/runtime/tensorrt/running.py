"""One engine on a GPU, with two sets of buffers.

Note [two sets of buffers]
    While a batch runs from one set, the next is put into the other and copied. A set is free again when its results
    have been taken, so nothing waits for anything but that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import DeviceError, EngineError, StoppedError
from tallformer_infer.runtime.ports import Port, split_batches
from tallformer_infer.runtime.tensorrt.building import BuilderLog, make_logger
from tallformer_infer.runtime.tensorrt.cuda import GpuSession
from tallformer_infer.runtime.tensorrt.keys import BatchProfile
from tallformer_infer.runtime.tensorrt.library import Library

SETS = 2
"""See Note [two sets of buffers]."""


class _Buffers:
    """One set: for each port a part of the GPU's memory, and one of the pinned memory."""

    def __init__(self, gpu: GpuSession, ports: tuple[Port, ...], most: int) -> None:
        self._gpu = gpu
        self._most = most
        self._offsets = {
            port.name: (gpu.memory.plan(port.size_bytes(most)), gpu.pinned.plan(port.size_bytes(most)))
            for port in ports
        }
        self.copied, self.done = gpu.event(), gpu.event()

    def address(self, port: Port) -> int:
        return self._gpu.memory.at(self._offsets[port.name][0])

    def array(self, port: Port, rows: int) -> NDArray[Any]:
        whole = self._gpu.pinned_array(self._offsets[port.name][1], (self._most, *port.item_shape), port.dtype)
        return whole[:rows]


class LoadedEngine:
    """An engine that can run once `GpuSession.allocate` and then `bind` were called; calls wait for each other."""

    def __init__(self, gpu: GpuSession, trt: Any, engine: Any, batch: BatchProfile) -> None:
        """Plan its memory.

        Args:
            gpu: Where it runs.
            trt: The TensorRT that loaded it.
            engine: An `ICudaEngine`.
            batch: What it was built for.

        Raises:
            EngineError: It has no memory to run in, or an output whose size depends on data.
        """
        self.batch = batch
        self._gpu = gpu
        self._engine = engine  # must outlive its context
        self._context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._context is None:
            raise EngineError("TensorRT cannot make a context for the engine")
        self.ports = _ports(trt, engine, self._context, batch)
        self._sets = [_Buffers(gpu, self.ports, batch.most) for _ in range(SETS)]
        self._is_running = threading.Lock()
        gpu.plan_workspace(engine.device_memory_size_v2)

    def bind(self) -> None:
        """Hand the engine the memory that it computes in."""
        self._context.set_device_memory(*self._gpu.workspace())

    def run(
        self, inputs: Mapping[str, NDArray[Any]], *, is_stopped: Callable[[], bool] = lambda: False
    ) -> dict[str, NDArray[Any]]:
        """Run on any number of items, in batches that overlap.

        Args:
            inputs: By name, shape (N, ...).
            is_stopped: Asked before each batch.

        Returns:
            Outputs by name, shape (N, ...).

        Raises:
            StoppedError: It was stopped.
            DeviceError: The GPU failed.
        """
        with self._is_running:
            return self._run(inputs, is_stopped)

    def _run(self, inputs: Mapping[str, NDArray[Any]], is_stopped: Callable[[], bool]) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(inputs.values())))
        outputs = {port.name: np.empty((rows, *port.item_shape), port.dtype) for port in self._outputs}
        waiting: deque[tuple[_Buffers, slice]] = deque()
        try:
            for number, part in enumerate(split_batches(rows, self.batch.most)):
                if is_stopped():
                    raise StoppedError("stopped before the video was done")
                if len(waiting) == SETS:
                    self._finish(*waiting.popleft(), outputs)
                buffers = self._sets[number % SETS]
                self._start(buffers, {name: values[part] for name, values in inputs.items()})
                waiting.append((buffers, part))
            while waiting:
                self._finish(*waiting.popleft(), outputs)
        except BaseException:
            self._gpu.wait()  # so that the buffers are free for the next call
            raise
        return outputs

    @property
    def _outputs(self) -> list[Port]:
        return [port for port in self.ports if not port.is_input]

    def _start(self, buffers: _Buffers, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Begin with a batch: into pinned memory, to the GPU, run, and back."""
        gpu, cuda = self._gpu, self._gpu.cuda
        rows = len(next(iter(inputs.values())))
        padded = max(rows, self.batch.least)
        for port in self.ports:
            if port.is_input:
                values = buffers.array(port, padded)
                np.copyto(values[:rows], inputs[port.name], casting="equiv")
                values[rows:] = 0
                cuda.copy_in(buffers.address(port), values, gpu.copying)
                self._check(self._context.set_input_shape(port.name, (padded, *port.item_shape)), port.name)
            self._check(self._context.set_tensor_address(port.name, buffers.address(port)), port.name)
        cuda.call("cudaEventRecord", buffers.copied, gpu.copying)
        with gpu.enqueueing:
            cuda.call("cudaStreamWaitEvent", gpu.running, buffers.copied, 0)
            self._check(self._context.execute_async_v3(int(gpu.running)), "the run")
            for port in self._outputs:
                cuda.copy_out(buffers.array(port, padded), buffers.address(port), gpu.running)
            cuda.call("cudaEventRecord", buffers.done, gpu.running)

    def _finish(self, buffers: _Buffers, part: slice, outputs: dict[str, NDArray[Any]]) -> None:
        """Wait for a batch, and take its results."""
        self._gpu.cuda.call("cudaEventSynchronize", buffers.done)
        for port in self._outputs:
            outputs[port.name][part] = buffers.array(port, part.stop - part.start)

    def _check(self, is_good: bool, what: str) -> None:
        if not is_good:
            raise DeviceError(f"TensorRT refuses {what}")


class EngineLoader:
    """Loads engines. Whoever makes one has asked the driver, see Note [the driver is asked first]."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._log = BuilderLog()
        self._logger = make_logger(library.module, self._log)  # must outlive what was made with it
        self._runtime = library.module.Runtime(self._logger)

    def load(self, content: bytes, batch: BatchProfile, gpu: GpuSession) -> LoadedEngine:
        """Load an engine that was checked, and plan its memory.

        Raises:
            EngineError: TensorRT refuses it.
        """
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            said = self._log.errors[-1].splitlines()[0] if self._log.errors else "it says nothing"
            raise EngineError(f"{self._library} cannot load the engine: {said}")
        return LoadedEngine(gpu, self._library.module, engine, batch)


def _ports(trt: Any, engine: Any, context: Any, batch: BatchProfile) -> tuple[Port, ...]:
    """Inputs and outputs; the context's shapes are set to the largest batch to learn those of the outputs."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    for name in names:
        if is_input[name]:
            context.set_input_shape(name, (batch.most, *tuple(engine.get_tensor_shape(name))[1:]))
    ports = []
    for name in names:
        shape = tuple(context.get_tensor_shape(name))
        if shape[0] != batch.most or any(size < 0 for size in shape):
            raise EngineError(f"the engine's {name!r} is {shape}: expected a batch of {batch.most}, and all else fixed")
        ports.append(Port(name, shape[1:], np.dtype(trt.nptype(engine.get_tensor_dtype(name))), is_input[name]))
    return tuple(ports)
