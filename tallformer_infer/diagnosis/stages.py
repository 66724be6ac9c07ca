"""Time the stages of `detect` alone and together, and measure the rates that no detector can exceed on a machine.

Note [the fastest product at hand]
    The ceiling is ONNX Runtime's matrix product, because ONNX Runtime also runs the encoders, on every device and in
    their own number format, and because it was faster: 200 GFLOP/s per core in float32, where torch (MKL) reached 100
    on a CPU whose AVX-512 MKL does not use. `benchmarks` uses torch's product if that is faster.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime as ort
from av.error import FFmpegError
from numpy.typing import NDArray

from tallformer_infer.bundle.onnx_files import Constant, ElementType, Node, Value, write_graph
from tallformer_infer.devices import cores_by_quota
from tallformer_infer.diagnosis.turns import Call, Spread, Timing, clocked, paired, take_turns
from tallformer_infer.errors import DeviceError
from tallformer_infer.media import best_video, codec_threads, open_container, open_source, open_video
from tallformer_infer.pipeline import ClipEncoder, Detector
from tallformer_infer.runtime.onnx_session import open_session
from tallformer_infer.structures import StageSeconds
from tallformer_infer.timeline import Clip, cut_clips

if TYPE_CHECKING:  # an install for GPUs does not have it
    import onnx


Stage = Literal["bare decode", "matrix product", "decode", "encode", "detect"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Options for timing stages."""

    threads: int | None = None
    """Threads of codec, encoder and product, each; None as in `detect`."""
    rounds: int = 3
    """Number of rounds."""
    most_clips: int | None = None
    """Maximum number of clips for timing the encoder alone; None for all, which are kept in memory."""
    clips_at_once: int | None = None
    """Clips per call of the encoder alone; None as in `detect`."""
    at_most_s: float = math.inf
    """Time after which no further round starts, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measurements of one model on one video. Times are in seconds, for the whole video."""

    timings: dict[Stage, Timing]
    """Times per round; `matrix product` is one `MatrixProduct.run`, if the machine supports it."""
    stages: tuple[StageSeconds, ...]
    """Stage times measured by `detect` itself, per round."""
    source_frames: int
    """Number of frames in the file."""
    frames: int
    """Number of frames sampled by the recipe."""
    duration_s: float
    """Duration of the video."""
    clips: int
    """Number of clips."""
    clips_at_once: int
    """Number of parallel clips when the encoder ran alone."""
    gigaflop_per_clip: float | None
    """Products and convolutions of the encoder, in 10^9; None if they cannot be counted."""
    gigaflop_per_product: float | None
    """The same for one `MatrixProduct.run`; None if there is none."""
    clips_timed: int
    """Number of clips for the encoder alone; its time is extrapolated to all clips."""

    @property
    def times_real_time(self) -> Spread:
        """Seconds of video per second of `detect`."""
        return Spread.of(self.duration_s / seconds for seconds in self.timings["detect"].wall_s)

    @property
    def over_slower_stage(self) -> Spread:
        """Time of `detect` as a multiple of the slower of decode and encode alone: 1 if stages overlap completely."""
        slower = [max(pair) for pair in zip(*(self.timings[name].wall_s for name in ("decode", "encode")), strict=True)]
        return paired(self.timings["detect"].wall_s, slower)

    def over_least(self, cores: int) -> Spread:
        """Time of `detect` as a multiple of the minimum for this number of cores.

        That is the slower stage alone or, if each stage keeps all cores busy, the processor time of both divided by the
        number of cores, which no overlap can reduce.
        """
        decode, encode = self.timings["decode"], self.timings["encode"]
        walls = zip(decode.wall_s, encode.wall_s, strict=True)
        busy = zip(decode.cpu_s, encode.cpu_s, strict=True)
        least = [max(*wall, sum(cpu) / cores) for wall, cpu in zip(walls, busy, strict=True)]
        return paired(self.timings["detect"].wall_s, least)

    @property
    def binding(self) -> Literal["decode", "encode"]:
        """The stage that takes longer alone."""
        return max(("decode", "encode"), key=lambda name: self.timings[name].spread.median)

    @property
    def encode_floor_s(self) -> tuple[float, ...] | None:
        """Time that the encoder's arithmetic would take at the rate of the product, per round."""
        if "matrix product" not in self.timings or self.gigaflop_per_clip is None or self.gigaflop_per_product is None:
            return None
        each = self.clips * self.gigaflop_per_clip / self.gigaflop_per_product
        return tuple(each * seconds for seconds in self.timings["matrix product"].wall_s)

    def ceiling_share(self, stage: Literal["decode", "encode", "detect"]) -> Spread | None:
        """Share of its ceiling that a stage reaches; for `detect`, that of the bottleneck.

        Returns:
            The share; None if the ceiling of the encoder is unknown.
        """
        floors = {"decode": self.timings["bare decode"].wall_s, "encode": self.encode_floor_s}
        floor = floors[self.binding if stage == "detect" else stage]
        return None if floor is None else paired(floor, self.timings[stage].wall_s)


def measure_stages(
    detector: Detector, video: str, trial: Trial, *, on_round: Callable[[int], object] = lambda _: None
) -> Speed:
    """Time each stage alone, all together, and both ceilings, in turn, after a warm-up.

    Args:
        detector: Detector loaded with the threads of the trial.
        video: A regular file.
        trial: Options for timing.
        on_round: Called with the number of every round, from 0.

    Raises:
        MediaError: The video cannot be opened, or no frame of it can be decoded.
    """
    runtime = detector.runtime
    at_once = trial.clips_at_once or runtime.clips_at_once
    taken = _take(detector, video, trial)
    stages: list[StageSeconds] = []
    ways: dict[Stage, Callable[[int], Call]] = {
        "bare decode": clocked(lambda: decode_bare(video, threads=trial.threads)),
        "decode": clocked(lambda: _decode(detector, video, trial)),
        "encode": clocked(_encoding(detector, taken.clips, trial)),
        "detect": clocked(lambda: stages.append(detector.detect(video).timings)),
    }
    product = _product(detector, trial.threads)
    if product is not None:
        ways["matrix product"] = clocked(product.run)
    given = take_turns(ways, rounds=trial.rounds, at_most_s=trial.at_most_s, on_round=on_round)
    timings = {name: Timing.of(calls) for name, calls in given.items()}
    timings["encode"] = timings["encode"].times(taken.count / len(taken.clips))
    return Speed(
        timings=timings,
        stages=tuple(stages[1:]),
        source_frames=decode_bare(video, threads=trial.threads),
        frames=taken.frames,
        duration_s=taken.duration_s,
        clips=taken.count,
        clips_at_once=at_once,
        gigaflop_per_clip=gigaflop_of_graph(detector.bundle.read_graph("encoder")),
        gigaflop_per_product=None if product is None else product.gigaflop,
        clips_timed=len(taken.clips),
    )


@dataclass(frozen=True)
class _Taken:
    """Clips of a video."""

    clips: list[Clip]
    """Clips for timing the encoder alone."""
    count: int
    """Number of all clips."""
    frames: int
    duration_s: float


def _take(detector: Detector, video: str, trial: Trial) -> _Taken:
    recipe = detector.bundle.recipe
    with open_video(video, recipe.sampling, threads=trial.threads) as stream:
        cut = cut_clips(stream, recipe.window, "shared")
        clips = list(itertools.islice(cut, trial.most_clips))
        count = len(clips) + sum(1 for _ in cut)
        return _Taken(clips, count, stream.frame_count, stream.frame_count / stream.sample_fps)


def _decode(detector: Detector, video: str, trial: Trial) -> None:
    with open_video(video, detector.bundle.recipe.sampling, threads=trial.threads) as stream:
        for _ in stream:
            pass


def _encoding(detector: Detector, clips: Sequence[Clip], trial: Trial) -> Callable[[], object]:
    """Encode all clips, as in `detect`, or with a given number per call."""
    runtime = detector.runtime
    if trial.clips_at_once is None:
        return lambda: list(ClipEncoder(runtime, detector.bundle.recipe).encode(clips))
    batches = _batches(clips, trial.clips_at_once)
    return lambda: [runtime.encode(*batch) for batch in batches]


def _batches(clips: Sequence[Clip], at_once: int) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    groups = [clips[start : start + at_once] for start in range(0, len(clips), at_once)]
    return [
        (np.stack([clip.frames for clip in group]), np.array([clip.real_frames for clip in group], np.int64))
        for group in groups
    ]


def _product(detector: Detector, threads: int | None) -> MatrixProduct | None:
    """The product on the model's device; None if ONNX Runtime does not support that device or precision there."""
    precision, on = detector.bundle.graphs["encoder"].precision, detector.runtime.device
    if on in ("gpu", "npu"):  # of Intel
        return None
    if precision == "fp32" and detector.runtime.precision == "bf16":  # OpenVINO's; a float32 product is slower
        return None
    try:
        return MatrixProduct(precision, device="cuda" if on == "cuda" else "cpu", threads=threads)
    except DeviceError:
        return None


RUNS = 4
"""Products per run: one takes 0.05 s on two cores, too short to compare with a second of encoding."""
_SIDES = {"cpu": 2048, "cuda": 8192}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class MatrixProduct:
    """One large matrix times another, the right one constant as weights are."""

    def __init__(self, precision: str, *, device: Literal["cpu", "cuda"] = "cpu", threads: int | None = None) -> None:
        """Load the graph; the matrices stay on the device.

        Args:
            precision: Precision of an encoder. On the CPU, int8 uses products of 8-bit integers, all others float32; on
                CUDA, all but fp32 use float16.
            device: Device of the computation.
            threads: CPU threads; None uses one per core, within a container's quota.

        Raises:
            DeviceError: ONNX Runtime cannot use the device.
        """
        side = _SIDES[device]
        self.gigaflop = RUNS * 2 * side**3 / 1e9
        """Multiplications and additions of one `run`, in 10^9."""
        left, right, graph = _product_graph(_elements(precision, device), side)
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


def _product_graph(elements: ElementType, side: int) -> tuple[NDArray[np.generic], NDArray[np.generic], bytes]:
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
    """Shapes of all tensors whose sizes are known, with a batch of 1."""
    from onnx import shape_inference  # noqa: PLC0415

    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.output)}
    if not {node.output[0] for node in _nodes(graph)} <= known:
        # With the values of shapes that the graph computes: an I3D's pictures are expanded to such a shape.
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        first, *others = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] or [1]
        if all(others):
            shapes[value.name] = (first or 1, *others)
    return shapes
