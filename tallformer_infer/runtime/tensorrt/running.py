"""The steps of `Runtime` with TensorRT engines, with their own CUDA streams and memory (through `cuda-bindings`).

Note [never run on a GPU]
    This module was written against the interfaces of TensorRT and of the CUDA runtime, and has
    never run: no GPU was available. `make test-gpu` runs them; `docs/tensorrt.md` says what has run where.

Note [two streams]
    All engines run on one stream, so that they can share their working memory. Pixels are copied to the GPU on a
    second one, so that copying the next batch overlaps with running this one; an event holds a run back until its
    copy is done. Results are small (8 clips give 0.4 MB for 38 MB of pixels) and are copied back on the first stream.

Note [one thread enqueues]
    A stream keeps the order of kernels, not of calls: `execute_async_v3` enqueues hundreds of kernels one by one, and
    the binding releases the GIL meanwhile. Two threads (encoder and localizer of a video) would interleave kernels of
    two engines that share working memory. So whoever enqueues a run holds `GpuSession.enqueueing`.

Note [one block of memory]
    Everything that engines need is known once they are loaded: it is planned first and then allocated as one block on
    the GPU and one on the host. The host's is pinned: a copy from other memory would wait for the GPU.

Note [two sets of buffers]
    While a batch runs from one set of buffers, the next is copied into the other. A set is free again once its results
    have been taken, which is all that anything waits for.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.errors import BundleError, DeviceError, EngineError, ExtraError, StoppedError
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.protocol import Cancellation, Port, WindowBatch, candidates_above_threshold, split_batches
from tallformer_infer.runtime.tensorrt.building import BuilderLog, make_logger
from tallformer_infer.runtime.tensorrt.keys import (
    ENGINE_GRAPHS,
    BatchProfile,
    Gpu,
    Library,
    check_runs_here,
    load_library,
    require_gpu,
)
from tallformer_infer.runtime.tensorrt.store import StoredEngine, find_engine
from tallformer_infer.structures import Candidates
from tallformer_infer.text import first_line

_REFUSED = "device tensorrt is not available (--device auto uses what is): {}"


class TensorRTRuntime:
    """Runs the engines of one bundle. They are built before, by `tallformer engine build`."""

    def __init__(self, bundle: Bundle) -> None:
        """Find the engines for the GPU that is here, and load them.

        Raises:
            DeviceError: There is no GPU, driver or TensorRT to run them with.
            EngineError: There is no engine for this GPU and TensorRT, or one is damaged.
            BundleError: An engine is not what the recipe says.
        """
        self._bundle = bundle
        self._recipe = bundle.recipe
        self._card, self._library = _look_here()
        found = [find_engine(bundle, graph, self._library, self._card) for graph in ENGINE_GRAPHS]
        try:
            self._gpu = GpuSession()
        except (DeviceError, ExtraError) as error:
            raise DeviceError(_REFUSED.format(error)) from error
        weakref.finalize(self, self._gpu.close).atexit = False
        self._loader = EngineLoader(self._library)
        self._encoder, self._localizer = map(self._load, found)
        self._check_ports()
        self._gpu.allocate()
        for engine in (self._encoder, self._localizer):
            engine.bind()

    @property
    def name(self) -> str:
        """Name and version of the library that runs the engines."""
        return str(self._library)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engines run."""
        return "cuda"

    @property
    def precision(self) -> str:
        """What the encoder computes in."""
        return self._bundle.graphs["encoder"].precision

    @property
    def device_reason(self) -> str:
        """Reason for the device, for display."""
        return f"as asked, on {self._card}"

    @property
    def clips_at_once(self) -> int:
        """As many as fill all sets of buffers, so that copies overlap runs."""
        return SETS * self._encoder.batch.most

    @property
    def clips_per_call(self) -> int:
        """All: the engine cuts them into batches itself."""
        return self.clips_at_once

    def encode(
        self,
        clips: NDArray[np.uint8],
        real_frames: NDArray[np.int64],
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.float32]:
        """Clips to feature steps, see `Runtime.encode`. A stop takes effect after the batches that are running."""
        stopped = threading.Event()
        with (cancellation or Cancellation()).stopping(stopped.set):
            inputs: dict[str, NDArray[Any]] = {"clips": clips, "real_frames": real_frames}
            features: NDArray[np.float32] = self._encoder.run(inputs, is_stopped=stopped.is_set)["features"]
            return features

    def localize(self, windows: WindowBatch) -> Candidates:
        """Windows of feature steps to candidates, see `Runtime.localize`."""
        found = self._localizer.run(windows._asdict())
        return candidates_above_threshold(
            found["segments"],
            found["scores"],
            found["classes"],
            recipe=self._recipe,
            given_by=f"{self._bundle.path}: the engine of graph localizer",
        )

    def _load(self, stored: StoredEngine) -> LoadedEngine:
        assert stored.record is not None
        content = stored.read()
        try:
            return self._loader.load(content, stored.record.key.batch, self._gpu)
        except EngineError as error:
            raise EngineError(f"{stored.path}: {error}; build it again with --force") from error

    def _check_ports(self) -> None:
        """Names, shapes and types are those of the recipe."""
        window, side = self._recipe.window, self._recipe.sampling.crop_px
        channels, steps = self._recipe.model.backbone.out_channels, self._recipe.window_steps
        expected: dict[GraphName, dict[str, tuple[Any, tuple[int, ...] | None]]] = {
            "encoder": {
                "clips": (np.uint8, (window.clip_frames, side, side, 3)),
                "real_frames": (np.int64, ()),
                "features": (np.float32, None),
            },
            "localizer": {
                "features": (np.float32, (channels, steps)),
                "start_frames": (np.int64, ()),
                "real_frames": (np.int64, ()),
                "segments": (np.float32, None),
                "scores": (np.float32, None),
                "classes": (np.int64, None),
            },
        }
        for graph, engine in zip(ENGINE_GRAPHS, (self._encoder, self._localizer), strict=True):
            found = {port.name: port for port in engine.ports}
            for name, (dtype, shape) in expected[graph].items():
                port = found.get(name)
                if port is None or port.dtype != dtype or (shape is not None and port.item_shape != shape):
                    shown = "missing" if port is None else f"{port.dtype} {port.item_shape}"
                    raise BundleError(
                        f"{self._bundle.path}: {name!r} of the engine of graph {graph} is {shown}, "
                        f"expected {np.dtype(dtype)} {'' if shape is None else shape}"
                    )


def _look_here() -> tuple[Gpu, Library]:
    """The GPU, then the library: nothing of TensorRT is made before the driver has answered."""
    try:
        gpu = require_gpu()
        library = load_library()
        check_runs_here(library, gpu)
    except (DeviceError, ExtraError) as error:
        raise DeviceError(_REFUSED.format(error)) from error
    return gpu, library


_ALIGNMENT = 256
"""Alignment that TensorRT requires, in bytes."""

SETS = 2
"""See Note [two sets of buffers]."""


class Cuda:
    """The CUDA runtime; every call is checked."""

    def __init__(self) -> None:
        """Import the bindings, which needs no driver.

        Raises:
            ExtraError: They are not installed.
        """
        try:
            self._api: Any = importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError as error:
            raise ExtraError(f"cuda-bindings is not installed: {install_command('tensorrt')}") from error
        except (ImportError, OSError) as error:
            raise DeviceError(f"cuda-bindings cannot be imported: {first_line(error)}") from error

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function by its name in the CUDA runtime's reference.

        Returns:
            Its result besides the error code; None if there is none.

        Raises:
            DeviceError: It failed.
        """
        code, *given = getattr(self._api, function)(*arguments)
        if code != self._api.cudaError_t.cudaSuccess:
            _, text = self._api.cudaGetErrorString(code)
            raise DeviceError(f"{function}: {text.decode(errors='replace')} ({code.name})")
        return given[0] if given else None

    def make_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)

    def make_event(self) -> Any:
        """An event whose waiting threads sleep, and that measures nothing."""
        flags = self._api.cudaEventDisableTiming | self._api.cudaEventBlockingSync
        return self.call("cudaEventCreateWithFlags", flags)

    def copy_in(self, to: int, values: NDArray[Any], stream: Any) -> None:
        """Begin to copy pinned memory to the GPU."""
        self._copy(to, values.ctypes.data, values.nbytes, self._api.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def copy_out(self, values: NDArray[Any], source: int, stream: Any) -> None:
        """Begin to copy from the GPU to pinned memory."""
        self._copy(values.ctypes.data, source, values.nbytes, self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def _copy(self, to: int, source: int, count: int, kind: Any, stream: Any) -> None:
        self.call("cudaMemcpyAsync", to, source, count, kind, stream)


class Arena:
    """A block of memory that is planned in parts and then allocated as a whole."""

    def __init__(self) -> None:
        self.size_bytes = 0
        """Planned size."""
        self.address: int | None = None
        """Address, once allocated."""

    def plan(self, count_bytes: int) -> int:
        """Plan a part; returns its offset."""
        assert self.address is None
        offset = self.size_bytes
        self.size_bytes += -(-count_bytes // _ALIGNMENT) * _ALIGNMENT
        return offset

    def at(self, offset: int) -> int:
        """The address of a part."""
        assert self.address is not None
        return self.address + offset


class GpuSession:
    """Streams and memory for the engines of one model, see Note [two streams] and Note [one block of memory]."""

    def __init__(self) -> None:
        """Make the streams.

        Raises:
            ExtraError: The bindings are not installed.
            DeviceError: There is no GPU that can be used.
        """
        self.cuda = Cuda()
        self._held = contextlib.ExitStack()
        self.memory = Arena()
        """On the GPU."""
        self.pinned = Arena()
        """On the host."""
        self._workspace_bytes = _ALIGNMENT  # never nothing, which TensorRT might refuse to be handed
        self._workspace = 0
        self.copying = self._hold("cudaStreamDestroy", self.cuda.make_stream())
        """Stream of the copies to the GPU."""
        self.running = self._hold("cudaStreamDestroy", self.cuda.make_stream())
        """Stream of the runs."""
        self.enqueueing = threading.Lock()
        """Held while a run is enqueued, see Note [one thread enqueues]."""

    def plan_workspace(self, count_bytes: int) -> None:
        """Plan the working memory of an engine; all engines share it, as they run one after another."""
        self._workspace_bytes = max(self._workspace_bytes, count_bytes)

    def allocate(self) -> None:
        """Allocate the planned memory.

        Raises:
            DeviceError: There is not enough memory.
        """
        self._workspace = self.memory.plan(self._workspace_bytes)
        for arena, take, free in (
            (self.memory, "cudaMalloc", "cudaFree"),
            (self.pinned, "cudaMallocHost", "cudaFreeHost"),
        ):
            arena.address = int(self._hold(free, self.cuda.call(take, max(arena.size_bytes, _ALIGNMENT))))

    def workspace(self) -> tuple[int, int]:
        """Address and size of the shared working memory."""
        return self.memory.at(self._workspace), self._workspace_bytes

    def event(self) -> Any:
        """A new event."""
        return self._hold("cudaEventDestroy", self.cuda.make_event())

    def pinned_array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A part of the pinned memory as an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = memoryview((ctypes.c_uint8 * count).from_address(self.pinned.at(offset))).cast("B")
        array: NDArray[Any] = np.frombuffer(memory, np.dtype(dtype)).reshape(shape)
        return array

    def wait(self) -> None:
        """Wait until all copies and runs are done."""
        for stream in (self.copying, self.running):
            self.cuda.call("cudaStreamSynchronize", stream)

    def close(self) -> None:
        """Free everything. May be called twice."""
        with contextlib.suppress(DeviceError):
            self.wait()
        self._held.close()

    def _hold(self, free: str, value: Any) -> Any:
        self._held.callback(self._free, free, value)
        return value

    def _free(self, function: str, value: Any) -> None:
        with contextlib.suppress(DeviceError):  # a device that failed cannot be tidied up
            self.cuda.call(function, value)


class _Buffers:
    """One set of buffers: GPU and pinned memory for each port."""

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
    """An engine; it runs after `GpuSession.allocate` and `bind`, one call at a time."""

    def __init__(self, gpu: GpuSession, trt: Any, engine: Any, batch: BatchProfile) -> None:
        """Plan its memory.

        Args:
            gpu: GPU session to run in.
            trt: The TensorRT that loaded it.
            engine: An `ICudaEngine`.
            batch: Batch sizes it was built for.

        Raises:
            EngineError: It has no execution context, or an output whose size depends on data.
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
        """Give the engine its working memory."""
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
        """Start a batch: copy it to pinned memory and to the GPU, run it, and copy the results back."""
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
    """Loads engines. Callers must have asked the driver, see Note [the driver is asked first]."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._log = BuilderLog()
        self._logger = make_logger(library.module, self._log)  # must outlive what was made with it
        self._runtime = library.module.Runtime(self._logger)

    def load(self, content: bytes, batch: BatchProfile, gpu: GpuSession) -> LoadedEngine:
        """Load a checked engine, and plan its memory.

        Raises:
            EngineError: TensorRT refuses it.
        """
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            said = self._log.errors[-1].splitlines()[0] if self._log.errors else "it says nothing"
            raise EngineError(f"{self._library} cannot load the engine: {said}")
        return LoadedEngine(gpu, self._library.module, engine, batch)


def _ports(trt: Any, engine: Any, context: Any, batch: BatchProfile) -> tuple[Port, ...]:
    """Inputs and outputs; input shapes are set to the largest batch to learn the output shapes."""
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
