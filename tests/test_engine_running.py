"""What of running engines can be known without a GPU: names, plans and errors. The rest: test_gpu_tensorrt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.errors import DeviceError
from tallformer_infer.runtime.protocol import split_batches
from tallformer_infer.runtime.tensorrt import running
from tallformer_infer.runtime.tensorrt.keys import require_gpu
from tallformer_infer.runtime.tensorrt.running import Arena, Cuda
from tests.pretended_gpu import SIZE, CheckedRuntime, PretendedEngine, engines_in, pretended_engines


def has_gpu() -> bool:
    try:
        return bool(require_gpu())
    except DeviceError:
        return False


def test_a_run_calls_only_what_the_bindings_of_the_cuda_runtime_have(monkeypatch: pytest.MonkeyPatch) -> None:
    api = CheckedRuntime(pytest.importorskip("cuda.bindings.runtime"))
    monkeypatch.setattr(Cuda, "__init__", lambda cuda: setattr(cuda, "_api", api))
    gpu = running.GpuSession()
    (engine,) = engines_in(gpu, 3.0)

    found = engine.run({"x": np.ones((5, SIZE), np.float32)})
    gpu.close()

    assert found["y"].tolist() == [[3.0] * SIZE] * 5
    assert {"cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaEventSynchronize", "cudaFree"} <= api.called


def test_a_run_asks_only_what_engines_and_contexts_of_tensorrt_have() -> None:
    """In TensorRT-RTX, whose names for this are those of TensorRT; other tests run with these pretended ones."""
    trt = pytest.importorskip("tensorrt_rtx")
    pretended = {name for name in vars(PretendedEngine) if not name.startswith("_")} | {"device_memory_size_v2"}

    assert [n for n in pretended if not hasattr(trt.ICudaEngine, n) and not hasattr(trt.IExecutionContext, n)] == []
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert trt.TensorIOMode.INPUT != trt.TensorIOMode.OUTPUT
    assert "USER_MANAGED" in trt.ExecutionContextAllocationStrategy.__members__


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_driver_cuda_fails_with_the_function_and_the_reason() -> None:
    pytest.importorskip("cuda.bindings.runtime")

    with pytest.raises(DeviceError, match=r"^cudaMalloc: CUDA driver version is insufficient .* \(cudaError\w+\)$"):
        Cuda().call("cudaMalloc", 256)
    with pytest.raises(DeviceError, match=r"^cudaStreamCreateWithFlags: "):
        running.GpuSession()


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_parts_of_a_block_are_aligned_and_do_not_overlap(sizes: list[int]) -> None:
    arena = Arena()

    offsets = [arena.plan(size) for size in sizes]

    assert all(offset % 256 == 0 for offset in offsets)
    starts = [*offsets, arena.size_bytes]
    assert all(start + size <= following for start, size, following in zip(starts, sizes, starts[1:], strict=False))
    assert arena.size_bytes <= sum(sizes) + 256 * len(sizes)


def test_part_of_a_block_lies_at_its_offset_from_where_the_block_is() -> None:
    arena = Arena()
    arena.plan(100)
    second = arena.plan(1)
    arena.address = 4096

    assert arena.at(second) == 4096 + 256


@given(rows=st.integers(0, 100), most=st.integers(1, 20))
def test_batches_cover_all_rows_in_order_and_only_the_last_is_short(rows: int, most: int) -> None:
    batches = list(split_batches(rows, most))

    assert [row for part in batches for row in range(rows)[part]] == list(range(rows))
    assert all(part.stop - part.start == most for part in batches[:-1])
    assert len(batches) == -(-rows // most)


def test_two_engines_in_two_threads_do_not_mix_in_the_memory_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a video: the encoder in the background, 50 windows in the main thread."""
    encoder, localizer = pretended_engines(monkeypatch, 2.0, 3.0)
    clips = np.random.default_rng(0).standard_normal((5, SIZE)).astype(np.float32)
    windows = np.random.default_rng(1).standard_normal((50, 1, SIZE)).astype(np.float32)
    ended = threading.Event()
    encoded = []

    def encode() -> None:
        while not ended.is_set():
            encoded.append(encoder.run({"x": clips})["y"])

    thread = threading.Thread(target=encode)
    thread.start()
    found = [localizer.run({"x": window})["y"] for window in windows]
    ended.set()
    thread.join()

    np.testing.assert_array_equal(found, windows * np.float32(3))
    assert len(encoded) > 5
    for features in encoded:
        np.testing.assert_array_equal(features, clips * np.float32(2))


def test_one_engine_in_two_threads_gives_each_its_own_results(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,) = pretended_engines(monkeypatch, 2.0)
    items = np.random.default_rng(0).standard_normal((20, 3, SIZE)).astype(np.float32)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda each: engine.run({"x": each})["y"], items))

    np.testing.assert_array_equal(found, items * np.float32(2))
