"""OpenVINO for the encoder, on the CPU or on Intel's GPU or NPU; ONNX Runtime for the other graphs.

Note [what OpenVINO is asked for]
    The graph from the bundle, fixed to one clip: OpenVINO does its own fusion and layout, and our tiles (see
    `cpu_graph`) would only interfere; `rewrite` changes two places where OpenVINO needs help. One clip per stream and
    thread, as in `CpuEncoder`. Threads are not pinned to cores, because parallel workers would all be pinned to the
    same ones. The precision is always set: without it, OpenVINO uses bfloat16 on every CPU that supports it. Localizers
    are half a percent of the arithmetic, have sizes that depend on the batch, and stay in float32 with ONNX Runtime.

Note [compiled models]
    Reading and compiling Swin-T takes twice as long as importing a compiled model. So compiled models are kept in the
    user's cache, by graph, version, processor, precision and threads, checked by hash, and never read from a bundle.

Note [masks of shifted windows]
    OpenVINO runs product, bias, softmax and product of attention as one kernel, unless a reshape lies between. Video
    Swin's shifted windows have one: scores are taken apart into clips and windows, to add a mask that all clips share.
    With one clip the mask can be added to the scores directly. Swin-T at 224 px takes 6 % less time for it in
    bfloat16, and 12 % less in float32.

Note [stems in blocks]
    AMX multiplies 32 channels at a time, and I3D's first convolution has three: half of the encoder's time went into
    it. So blocks of 2 x 2 x 2 pixels become 24 channels. A convolution of 7 x 7 x 7 with stride 2 is then one of
    4 x 4 x 4 with stride 1, whose eighth taps are zero. `kinetics400` takes 0.26 s per clip in place of 0.38 for it
    (one thread). Without AMX it would take longer: zeros are multiplied, too.

GPU and NPU were written against OpenVINO's documentation and have never run: none was available.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import queue
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.bundle import Bundle
from tallformer_infer.devices import (
    OpenVinoDevice,
    RunPrecision,
    RunsOn,
    available_cores,
    processor_features,
    processor_name,
    share_cores,
)
from tallformer_infer.errors import BundleError, DeviceError, ExtraError, StoppedError
from tallformer_infer.files import keep_file, kept_file, user_cache_folder
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.protocol import Cancellation, most_clips
from tallformer_infer.text import first_line

MOST_BYTES = 4 * 10**9
"""Maximum size of all cached models; the oldest are evicted."""
_FORM = 2
"""Version of compiled models; cached ones of another version are not used."""
_HINTS: dict[RunPrecision, str] = {"fp32": "f32", "bf16": "bf16"}
_PLACES: dict[str, RunsOn] = {"CPU": "cpu", "GPU": "gpu", "NPU": "npu"}


class OpenVinoRuntime(OnnxRuntime):
    """Runs the encoder of one bundle with OpenVINO, see Note [what OpenVINO is asked for]."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: OpenVinoDevice = "openvino",
        precision: RunPrecision | None = None,
        threads: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Load the graphs.

        Args:
            bundle: Checked on reading.
            device: `openvino` is the CPU.
            precision: Precision of the encoder; None uses `lowest_precision`.
            threads: CPU threads; None uses one per core, within a container's quota.
            reason: Why it was chosen; None if requested by the user.

        Raises:
            BundleError: A graph is missing or damaged, or does not match the recipe.
            DeviceError: OpenVINO finds no such device, or it does not support bfloat16.
            ExtraError: OpenVINO is not installed.
            ValueError: `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: expected at least 1, or None for one per core")
        target = device.partition(":")[2] or "CPU"
        self._graph_precision = bundle.graphs["encoder"].precision
        self._precision = precision or lowest_precision(bundle, target)
        encoder = _open_encoder(bundle, target, self._precision, threads or available_cores())
        self._openvino = encoder
        super().__init__(bundle, device="cpu", threads=threads, encoder=encoder, reason=reason)

    @property
    def name(self) -> str:
        """Name and version of the libraries that run the graphs."""
        return f"openvino {openvino_version()} with {super().name}"

    @property
    def device(self) -> RunsOn:
        """Where the encoder runs."""
        return _PLACES[self._openvino.target]

    @property
    def precision(self) -> str:
        """Precision of the encoder."""
        is_reduced = self._graph_precision != "fp32"
        return self._graph_precision if is_reduced else self._precision


class OpenVinoEncoder:
    """Runs graph 1 with OpenVINO for several clips at once, see `HostEncoder`."""

    def __init__(
        self,
        content: bytes,
        *,
        target: str = "CPU",
        precision: RunPrecision = "fp32",
        threads: int | None = None,
        most_clips: int = 8,
        folder: Path | None = None,
    ) -> None:
        """Load the graph.

        Args:
            content: The graph from a bundle.
            target: OpenVINO's name for the device.
            precision: Precision of the computation.
            threads: Total threads; None uses one per core that this process may use.
            most_clips: Maximum number of parallel clips, see `most_clips`. With more threads, several share a clip.
            folder: Folder of compiled models; None uses the user's cache.

        Raises:
            DeviceError: OpenVINO finds no such device, or the device does not support the precision.
            ExtraError: OpenVINO is not installed.
        """
        core = _core()
        _check_device(core, target, precision)
        threads = threads or available_cores()
        self.target = target
        """OpenVINO's name for the device."""
        self.clips_at_once = share_cores(threads, most_clips)
        settings = _settings(target, precision, threads, self.clips_at_once)
        name = _name(content, target, settings)
        self._compiled = _compiled(core, content, target, settings, folder or user_cache_folder() / "openvino", name)
        self._inputs = {port.any_name for port in self._compiled.inputs}  # OpenVINO removes unused inputs
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.clips_at_once):
            self._free.put(self._compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(self.clips_at_once, thread_name_prefix="encode")

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """See `HostEncoder`."""
        return tuple(self._compiled.input("clips").shape)[1:]

    def told(self, name: str) -> Any:
        """Value of a property of the compiled model."""
        return self._compiled.get_property(name)

    def runtime_model(self) -> Any:
        """The nodes that OpenVINO runs, for profiling."""
        return self._compiled.get_runtime_model()

    def run(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation
    ) -> NDArray[np.float32]:
        """Encode clips, see `HostEncoder.run`."""
        if len(clips) == 1:
            return self._encode(clips, real_frames, cancellation)
        encoded: list[Future[NDArray[np.float32]]] = [
            self._pool.submit(self._encode, clips[row : row + 1], real_frames[row : row + 1], cancellation)
            for row in range(len(clips))
        ]
        wait(encoded)
        return np.concatenate([one.result() for one in encoded])

    def _encode(
        self, clip: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation
    ) -> NDArray[np.float32]:
        request = self._free.get()
        try:
            with cancellation.stopping(request.cancel):
                given = {"clips": np.ascontiguousarray(clip), "real_frames": real_frames}
                request.start_async({name: given[name] for name in self._inputs}, share_inputs=True)
                if cancellation.is_cancelled:  # cancelled before the start, when there was nothing to cancel
                    request.cancel()
                request.wait()
                return np.array(request.get_output_tensor(0).data, np.float32)
        except RuntimeError as error:
            if cancellation.is_cancelled:
                raise StoppedError("stopped before the video was done") from error
            raise
        finally:
            self._free.put(request)


def openvino_version() -> str:
    """Version of OpenVINO, without the build number.

    Raises:
        ExtraError: OpenVINO is not installed.
    """
    return str(_library().get_version()).partition("-")[0]


def has_bf16(target: str = "CPU") -> bool:
    """Whether a device supports bfloat16 natively.

    Raises:
        ExtraError: OpenVINO is not installed.
    """
    try:
        return "BF16" in _core().get_property(target, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError:  # no such device; loading a graph on it raises the error
        return False


def lowest_precision(bundle: Bundle, target: str = "CPU") -> RunPrecision:
    """bfloat16 if the device supports it and the bundle's parity report confirms that actions do not change.

    It may be slower than float32, see `choosing.faster_precision`.

    Raises:
        ExtraError: OpenVINO is not installed.
    """
    holds = (
        bundle.graphs["encoder"].precision == "fp32" and bundle.parity is not None and bundle.parity.holds_in("bf16")
    )
    return "bf16" if holds and has_bf16(target) else "fp32"


def _open_encoder(bundle: Bundle, target: str, precision: RunPrecision, threads: int) -> OpenVinoEncoder:
    content = bundle.read_graph("encoder")  # with the input sizes, which differ between models that share a file
    try:
        return OpenVinoEncoder(
            content,
            target=target,
            precision=precision,
            threads=threads,
            most_clips=most_clips(bundle.recipe),
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:] or ["no reason given"]
        raise BundleError(f"{bundle.path}: openvino cannot load graph encoder: {reason[0].strip()}") from error


def _library() -> Any:
    try:
        return import_without_telemetry("openvino")
    except ModuleNotFoundError as error:
        raise ExtraError(f"openvino is not installed: {install_command('openvino')}") from error
    except ImportError as error:
        raise DeviceError(f"openvino cannot be imported: {first_line(error)}") from error


def import_without_telemetry(name: str) -> Any:
    """Import OpenVINO as if `openvino_telemetry` were not installed.

    Raises:
        ImportError: It is not installed, or cannot be loaded.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it is an ImportError
    return importlib.import_module(name)


def _core() -> Any:
    library = _library()
    # The first type lookup imports NumPy's C interface; two threads that do so at once deadlock with the interpreter's
    # lock (OpenVINO 2026.4, pybind11).
    library.Type.u8.to_dtype()
    return library.Core()


def _check_device(core: Any, target: str, precision: RunPrecision) -> None:
    if not any(found.partition(".")[0] == target for found in core.available_devices):
        found = ", ".join(core.available_devices) or "nothing"
        raise DeviceError(f"device openvino:{target} is not available: OpenVINO finds {found} here; use --device auto")
    if precision == "bf16" and "BF16" not in core.get_property(target, "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError(f"--precision bf16: {target} has no bfloat16, by OpenVINO; use --precision fp32")


def _settings(target: str, precision: RunPrecision, threads: int, streams: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if target == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
    else:
        settings["PERFORMANCE_HINT"] = "THROUGHPUT"
    return settings


def _name(content: bytes, target: str, settings: dict[str, Any]) -> str:
    """Cache name of a compiled model, without its own hash."""
    made_by = [
        str(_FORM),
        openvino_version(),
        processor_name(),
        *processor_features(),
        target,
        *map(str, settings.items()),
    ]
    return hashlib.sha256(" ".join([*made_by, hashlib.sha256(content).hexdigest()]).encode()).hexdigest()[:32]


def _compiled(core: Any, content: bytes, target: str, settings: dict[str, Any], folder: Path, name: str) -> Any:
    """See Note [compiled models]."""
    kept = kept_file(folder, name, ".blob")
    if kept is not None:
        with contextlib.suppress(RuntimeError):
            return core.import_model(kept, target, settings)
    model = _read(core, content)
    if target == "CPU":
        is_reduced = settings["INFERENCE_PRECISION_HINT"] == _HINTS["bf16"]
        rewrite(model, has_amx=is_reduced and "AMX bf16" in processor_features())
    compiled = core.compile_model(model, target, settings)
    if "EXPORT_IMPORT" in core.get_property(target, "OPTIMIZATION_CAPABILITIES"):
        made = io.BytesIO()
        compiled.export_model(made)
        keep_file(folder, name, made.getvalue(), ".blob", most_bytes=MOST_BYTES)
    return compiled


def _read(core: Any, content: bytes) -> Any:
    """A graph, fixed to one clip."""
    model = core.read_model(content)
    model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    return model


_BLOCK, _TAPS = 2, 7
_BEFORE = 2
"""Pixels of padding before the first one, a block."""


def rewrite(model: Any, *, has_amx: bool) -> None:
    """Rewrite a graph that was read by OpenVINO and fixed to one clip, see the notes of this module.

    Args:
        model: An `openvino.Model`, changed in place.
        has_amx: Whether it will be computed in bfloat16 on a processor with AMX.
    """
    passes = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())  # shapes, and zeros that only pad
    manager.run_passes(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Softmax":
            _add_mask_in_place(node)
        elif node.get_type_name() == "Convolution" and has_amx:
            _put_stem_in_blocks(node)
    model.validate_nodes_and_infer_types()


def _add_mask_in_place(softmax: Any) -> None:
    """See Note [masks of shifted windows]; leaves anything else alone."""
    joined = _source(softmax)
    if joined.get_type_name() != "Reshape" or (added := _source(joined)).get_type_name() != "Add":
        return
    parted, mask = (added.input(at).get_source_output() for at in (0, 1))
    if parted.get_node().get_type_name() != "Reshape":
        return
    scores = parted.get_node().input(0).get_source_output()
    windows, heads, tokens, others = _shape(scores) if len(_shape(scores)) == len("wnqk") else (0, 0, 0, 0)
    fits = _shape(softmax.input(0)) == [windows, heads, tokens, others]
    fits = fits and _shape(parted) == [1, windows, heads, tokens, others]
    if fits and _shape(mask) == [windows, 1, tokens, others]:
        softmax.input(0).replace_source_output(_opset().add(scores, mask).output(0))


def _put_stem_in_blocks(convolution: Any) -> None:
    """See Note [stems in blocks]; leaves anything else alone."""
    weights, says = _constant(convolution, 1), convolution.get_attributes()
    if weights is None or weights.shape[1:] != (3, _TAPS, _TAPS, _TAPS):
        return
    if says["strides"] != [2, 2, 2] or says["dilations"] != [1, 1, 1] or says["pads_begin"] != [_BEFORE] * 3:
        return
    pixels = _without_zeros_behind(convolution)
    sizes, out = _shape(pixels)[2:], _shape(convolution.output(0))[2:]
    if any(size % _BLOCK for size in sizes):
        return
    before = _BEFORE // _BLOCK
    behind = [wanted - size // _BLOCK + _TAPS // _BLOCK - before for size, wanted in zip(sizes, out, strict=True)]
    opset = _opset()
    blocks = opset.space_to_depth(pixels, "blocks_first", _BLOCK)
    stem = opset.convolution(blocks, opset.constant(_of_blocks(weights)), [1] * 3, [before] * 3, behind, [1] * 3)
    for reader in convolution.output(0).get_target_inputs():
        reader.replace_source_output(stem.output(0))


def _of_blocks(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert weights (out, 3, 7, 7, 7) for blocks: (out, 8 x 3, 4, 4, 4), position in the block before colour."""
    out, colours = weights.shape[:2]
    even = np.pad(weights, [(0, 0), (0, 0), *[(0, 1)] * 3])
    half = even.shape[-1] // _BLOCK
    parted = even.reshape(out, colours, *(half, _BLOCK) * 3)
    return np.ascontiguousarray(parted.transpose(0, 3, 5, 7, 1, 2, 4, 6).reshape(out, -1, half, half, half))


def _without_zeros_behind(convolution: Any) -> Any:
    """Input of a convolution before the zero padding at its end, axis by axis."""
    found = convolution.input(0).get_source_output()
    while (node := found.get_node()).get_type_name() == "Concat":
        parts = [node.input(at) for at in range(node.get_input_size())]
        zeros = _constant(node, 1) if len(parts) == len("ab") else None
        if zeros is None or zeros.any():
            return found
        found = parts[0].get_source_output()
    return found


def _constant(node: Any, at: int) -> NDArray[np.float32] | None:
    """Values of an input, if they are known."""
    source = _source(node, at)
    if source.get_type_name() == "Convert":  # of weights that are stored in float16
        source = _source(source)
    return source.get_data().astype(np.float32) if source.get_type_name() == "Constant" else None


def _source(node: Any, at: int = 0) -> Any:
    return node.input(at).get_source_output().get_node()


def _shape(port: Any) -> list[int]:
    """Sizes; -1 for one that is open."""
    return [size.get_length() if size.is_static else -1 for size in port.get_partial_shape()]


def _opset() -> Any:
    return importlib.import_module("openvino.opset13")
