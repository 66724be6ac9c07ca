"""Streams, events and memory of a GPU, through NVIDIA's bindings of the CUDA runtime (`cuda-bindings`).

Note [two streams]
    Engines run on one stream, so that they can share the memory that they compute in. Pixels are copied to the GPU on a
    second one, so that the copy of the next batch overlaps the run of this one; an event holds a run back until its
    copy is done. Results are small (a batch of 8 clips gives 0.4 MB for 38 MB of pixels) and are copied back on the
    stream of the runs.

Note [one thread enqueues]
    A stream keeps the order of kernels, not of calls: `execute_async_v3` puts hundreds of kernels on it, one by one,
    and the binding gives up the GIL meanwhile. Two threads (encoder and localizer of a video) would mix kernels of two
    engines that compute in the same memory. So whoever enqueues a run holds `GpuSession.enqueueing`.

Note [one block of memory]
    Everything that engines need is known once they are loaded: it is planned first, and then taken as one block on the
    GPU and one on the host. The host's is pinned: a copy from other memory would wait for the GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tallformer_infer.errors import DeviceError, ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.tensorrt.library import first_line

_ALIGNMENT = 256
"""What TensorRT asks for."""


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
            What it gives besides its error code; None where that is nothing.

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
    """A block of memory that is planned in parts, and then taken as a whole."""

    def __init__(self) -> None:
        self.size_bytes = 0
        """What has been planned."""
        self.address: int | None = None
        """Where it is, once it is there."""

    def plan(self, count_bytes: int) -> int:
        """Set a part aside; returns its offset."""
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
        """Held while a run is put on its stream, see Note [one thread enqueues]."""

    def plan_workspace(self, count_bytes: int) -> None:
        """Memory that an engine computes in: shared by all, as they run one after another."""
        self._workspace_bytes = max(self._workspace_bytes, count_bytes)

    def allocate(self) -> None:
        """Take what has been planned.

        Raises:
            DeviceError: There is not so much.
        """
        self._workspace = self.memory.plan(self._workspace_bytes)
        for arena, take, free in (
            (self.memory, "cudaMalloc", "cudaFree"),
            (self.pinned, "cudaMallocHost", "cudaFreeHost"),
        ):
            arena.address = int(self._hold(free, self.cuda.call(take, max(arena.size_bytes, _ALIGNMENT))))

    def workspace(self) -> tuple[int, int]:
        """Address and size of the memory that engines compute in."""
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
        """Wait until nothing is copied and nothing runs."""
        for stream in (self.copying, self.running):
            self.cuda.call("cudaStreamSynchronize", stream)

    def close(self) -> None:
        """Give everything back. May be called twice."""
        with contextlib.suppress(DeviceError):
            self.wait()
        self._held.close()

    def _hold(self, free: str, value: Any) -> Any:
        self._held.callback(self._free, free, value)
        return value

    def _free(self, function: str, value: Any) -> None:
        with contextlib.suppress(DeviceError):  # a device that failed cannot be tidied up
            self.cuda.call(function, value)
