"""A GPU that is this machine's memory, and engines of two kernels: what threads do to each other, without a GPU."""

from __future__ import annotations

import ctypes
import itertools
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tallformer_infer.runtime.tensorrt import running
from tallformer_infer.runtime.tensorrt.keys import BatchProfile
from tallformer_infer.runtime.tensorrt.running import GpuSession, LoadedEngine

SIZE = 4
"""Numbers of an item."""
TRT = SimpleNamespace(
    TensorIOMode=SimpleNamespace(INPUT="in"),
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    nptype=np.dtype,
)


class PretendedCuda:
    """What of `Cuda` an engine uses. Every call is done when it returns, so a stream keeps the order of calls."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._taken: list[Any] = []

    def call(self, function: str, *arguments: Any) -> Any:
        if function not in ("cudaMalloc", "cudaMallocHost"):
            return None
        self._taken.append(ctypes.create_string_buffer(arguments[0]))
        return ctypes.addressof(self._taken[-1])

    def make_stream(self) -> int:
        return next(self._numbers)

    make_event = make_stream

    def copy_in(self, to: int, values: Any, stream: int) -> None:
        ctypes.memmove(to, values.ctypes.data, values.nbytes)

    def copy_out(self, values: Any, source: int, stream: int) -> None:
        ctypes.memmove(values.ctypes.data, source, values.nbytes)


class CheckedRuntime:
    """NVIDIA's bindings of the CUDA runtime, run in host memory; a name that they lack raises AttributeError."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._pretended = PretendedCuda()
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        return real if isinstance(real, type) or not callable(real) else partial(self._call, name)

    def _call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        self.called.add(function)
        given = self._pretended.call(function, *arguments)
        if function == "cudaMemcpyAsync":
            ctypes.memmove(*arguments[:3])
        elif "Create" in function:
            given = self._pretended.make_stream()
        success = self._real.cudaError_t.cudaSuccess
        return (success,) if given is None else (success, given)


class PretendedEngine:
    """Multiplies: its first kernel puts the input into the workspace, its second takes it from there."""

    num_io_tensors = 2

    def __init__(self, factor: float, most: int) -> None:
        self._factor = factor
        self.device_memory_size_v2 = most * SIZE * 4
        self._shape = (most, SIZE)
        self._addresses: dict[str, int] = {}

    def create_execution_context(self, strategy: str) -> PretendedEngine:
        return self

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def get_tensor_dtype(self, name: str) -> type:
        return np.float32

    def set_device_memory(self, address: int, size: int) -> None:
        self._workspace = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        count = int(np.prod(self._shape))
        ctypes.memmove(self._workspace, self._addresses["x"], count * 4)
        time.sleep(0.001)  # the binding gives up the GIL between two kernels
        values = np.frombuffer((ctypes.c_float * count).from_address(self._workspace), np.float32) * self._factor
        ctypes.memmove(self._addresses["y"], values.astype(np.float32).ctypes.data, count * 4)
        return True


def pretended_engines(patch: pytest.MonkeyPatch, *factors: float, most: int = 2) -> list[LoadedEngine]:
    """Engines that share one session, ready to run."""
    patch.setattr(running, "Cuda", PretendedCuda)
    return engines_in(GpuSession(), *factors, most=most)


def engines_in(gpu: GpuSession, *factors: float, most: int = 2) -> list[LoadedEngine]:
    """Engines of a session, ready to run."""
    batch = BatchProfile(least=1, best=most, most=most)
    engines = [LoadedEngine(gpu, TRT, PretendedEngine(factor, most), batch) for factor in factors]
    gpu.allocate()
    for engine in engines:
        engine.bind()
    return engines
