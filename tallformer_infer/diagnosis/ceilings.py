"""The two rates that no detector can exceed on a machine: matrix products and bare decoding; and the work in a graph.

Note [the fastest product at hand]
    The ceiling is ONNX Runtime's matrix product, because ONNX Runtime runs the encoders too, on every device and in
    their own number format, and because it was faster: 200 GFLOP/s per core in float32, where torch (MKL) reached 100
    on a processor whose AVX-512 MKL does not use. `benchmarks` takes torch's product where that is faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime as ort
from av.error import FFmpegError
from numpy.typing import NDArray

from tallformer_infer.bundle.onnx_files import Constant, ElementType, Node, Value, write_graph
from tallformer_infer.devices import cores_by_quota
from tallformer_infer.errors import DeviceError
from tallformer_infer.media import best_video, codec_threads, open_container, open_source
from tallformer_infer.runtime.onnx_session import open_session

if TYPE_CHECKING:  # an install for GPUs does not have it
    import onnx


RUNS = 4
"""Products per run: one takes 0.05 s on two cores, too short to compare with a second of encoding."""
_SIDES = {"cpu": 2048, "cuda": 8192}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class MatrixProduct:
    """One large matrix times another, the right one constant as weights are."""

    def __init__(self, precision: str, *, device: Literal["cpu", "cuda"] = "cpu", threads: int | None = None) -> None:
        """Load the graph; the matrices stay on the device.

        Args:
            precision: Of an encoder. On the CPU, int8 stands for products of 8-bit numbers, all else is computed in
                float32; on CUDA, all but fp32 stands for float16.
            device: Where to compute.
            threads: CPU threads; None takes one per core, within a container's quota.

        Raises:
            DeviceError: ONNX Runtime does not get the device.
        """
        side = _SIDES[device]
        self.gigaflop = RUNS * 2 * side**3 / 1e9
        """Multiplications and additions of one `run`, in 10^9."""
        left, right, graph = _product(_elements(precision, device), side)
        self._session = _open(graph, device, threads or cores_by_quota())
        self.left, self.right = left, right
        self._binding: Any = self._session.io_binding()
        self._binding.bind_ortvalue_input("left", ort.OrtValue.ortvalue_from_numpy(left, device, 0))
        self._binding.bind_output("product", device)

    def run(self) -> None:
        """Multiply `RUNS` times, and wait for the device."""
        for _ in range(RUNS):
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def product(self) -> NDArray[np.generic]:
        """What the last product gave."""
        (given,) = self._binding.copy_outputs_to_cpu()
        return np.asarray(given)


def decode_bare(path: str | Path, *, threads: int | None = None) -> int:
    """Demux and decode a whole file, and drop every frame.

    The reader may be faster: it leaves frames out that are never used (see `media.decoding`), and this does not.

    Args:
        path: A regular file.
        threads: Threads of the codec; None as the reader takes them.

    Returns:
        Frames decoded.

    Raises:
        MediaError: It cannot be opened, or has no video.
    """
    source = open_source(path)
    threads = threads or codec_threads()
    frames = 0
    try:
        with open_container(source, str(path)) as container, contextlib.suppress(FFmpegError):
            stream = best_video(container, str(path))
            stream.thread_type = "NONE" if threads == 1 else "AUTO"
            stream.codec_context.thread_count = threads
            for packet in container.demux(stream):
                with contextlib.suppress(FFmpegError):  # a damaged packet
                    frames += len(stream.decode(packet))
    finally:
        source.close()
    return frames


def _open(graph: bytes, device: str, threads: int | None) -> ort.InferenceSession:
    """A session that really is on the device, see Note [silent fall-back] in `runtime.onnx_session`."""
    provider = _PROVIDERS[device]
    refusal = f"the product of matrices was not placed on {device}; `tallformer doctor` says why"
    if provider not in ort.get_available_providers():
        raise DeviceError(refusal)
    try:
        session = open_session(graph, providers=[provider], threads=threads)
    except Exception as error:  # ONNX Runtime has classes of its own, of no common base
        raise DeviceError(refusal) from error
    if session.get_providers()[0] != provider:
        raise DeviceError(refusal)
    return session


def _elements(precision: str, device: str) -> ElementType:
    if device == "cuda":
        return "float32" if precision == "fp32" else "float16"
    return "uint8" if precision.startswith("int8") else "float32"


def _product(elements: ElementType, side: int) -> tuple[NDArray[np.generic], NDArray[np.generic], bytes]:
    """Both matrices, and the graph that has the right one in it."""
    random = np.random.default_rng(0)
    left: NDArray[np.generic]
    right: NDArray[np.generic]
    if elements == "uint8":
        left = random.integers(0, 256, (side, side), np.uint8)
        right = random.integers(-128, 128, (side, side), np.int8)
    else:
        left, right = random.standard_normal((2, side, side), np.float32).astype(elements)
    is_integer = elements == "uint8"
    graph = write_graph(
        "product",
        [Node("MatMulInteger" if is_integer else "MatMul", ("left", "right"), "product")],
        inputs=[Value("left", (side, side), elements)],
        outputs=[Value("product", (side, side), "int32" if is_integer else elements)],
        constants=[Constant("right", (side, side), right.tobytes(), "int8" if is_integer else elements)],
    )
    return left, right, graph


_PRODUCTS = ("MatMul", "MatMulInteger", "Gemm")
_CONVOLUTIONS = ("Conv", "ConvInteger")


def gigaflop_of_graph(content: bytes) -> float | None:
    """Multiplications and additions of matrix products and convolutions for one item of a batch, in 10^9.

    Args:
        content: The ONNX file; its weights may be quantised.

    Returns:
        None if the package `onnx` is not installed, or the graph does not state the sizes.
    """
    try:
        import onnx  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    model = onnx.load_from_string(content)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    shapes = _shapes_of_graph(model)
    total = 0
    for node in _nodes(model.graph):
        flop = _flop(node, shapes)
        if flop is None:
            return None
        total += flop
    return total / 1e9


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type in (*_PRODUCTS, *_CONVOLUTIONS))


def _flop(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int | None:
    left, right, made = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if left is None or right is None or made is None:
        return None
    if node.op_type in _CONVOLUTIONS:
        return 2 * prod(made) * prod(right[1:])  # weights are (out, in / groups, kernel)
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * prod(made) * left[0 if transposed else -1]


def _shapes_of_graph(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, with a batch of 1."""
    from onnx import shape_inference  # noqa: PLC0415

    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.output)}
    if not {node.output[0] for node in _nodes(graph)} <= known:
        graph = shape_inference.infer_shapes(model).graph
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dimension.dim_value or 1 for dimension in dimensions)
    return shapes
