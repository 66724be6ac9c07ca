"""Choose the runtime for a bundle and a device; on a CPU, the one that a short measurement found to be the fastest.

Note [the probe]
    Whether ONNX Runtime with our tiles or OpenVINO is faster depends on the processor and the model. So the first time
    a model is loaded on a processor, each runtime encodes black clips, as many at once as `detect` does, for about a
    second after a warm-up, one runtime after the other so that only one is in memory. The best round counts: other
    load on the machine can only make a round slower. The result is kept in the user's cache, per graph, processor and
    library versions; delete `choices` there to measure again.
    It also decides the precision of `--device openvino`: on a Xeon with AVX-512 BF16 and without AMX, bfloat16 takes
    1.3 times as long as float32, for Swin-T and for I3D (docs/cpu.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import assert_never, get_args

import numpy as np
import onnxruntime as ort

from tallformer_infer.bundle import Bundle
from tallformer_infer.devices import Device, RunPrecision, processor_features, processor_name
from tallformer_infer.errors import DeviceError, TallformerError
from tallformer_infer.files import user_cache_folder, write_whole
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.onnx_session import CUDA
from tallformer_infer.runtime.openvino import OpenVinoRuntime, has_bf16, lowest_precision
from tallformer_infer.runtime.protocol import Runtime
from tallformer_infer.runtime.tensorrt.running import TensorRTRuntime

PROBE_S = 1.0
"""Duration of each measurement after a warm-up, in seconds."""
_MOST_ROUNDS = 5
_FORM = 2
"""Version of stored choices; increased when a runtime becomes faster."""

_ONNXRUNTIME, _OPENVINO, _OPENVINO_BF16 = _WAYS = ("onnxruntime", "openvino", "openvino bf16")
_WORTH_IT = 0.9
"""OpenVINO, which takes longer to import, is chosen if it needs less than this share of ONNX Runtime's time."""


def load_runtime(
    bundle: Bundle, *, device: Device = "auto", threads: int | None = None, precision: RunPrecision | None = None
) -> Runtime:
    """Load a bundle on a device.

    Args:
        bundle: Checked on reading.
        device: `auto` uses CUDA if it works, else the fastest on the CPU, see Note [the probe]; `tensorrt` runs the
            engines of `tallformer engine build`, `onnx-tensorrt` has ONNX Runtime build them while loading.
        threads: CPU threads; None uses one per core.
        precision: Precision of the encoder; None takes the fastest that keeps the bundle's actions.

    Raises:
        BundleError: A graph is missing or damaged, or does not match the recipe.
        DeviceError: `device` is not available, or does not support the precision.
        EngineError: There is no TensorRT engine for this GPU, or it is damaged.
        ExtraError: OpenVINO was requested and is not installed.
        ValueError: `device` or `threads` is out of range.
    """
    if device not in get_args(Device):
        raise ValueError(f"device={device!r}: expected one of {', '.join(get_args(Device))}")
    match device:
        case "openvino":
            return OpenVinoRuntime(bundle, precision=precision or faster_precision(bundle, threads), threads=threads)
        case "openvino:GPU" | "openvino:NPU":
            return OpenVinoRuntime(bundle, device=device, precision=precision, threads=threads)
        case "auto":
            return _load_automatically(bundle, threads, precision)
        case "tensorrt":
            _check_precision(bundle, device, precision)
            return TensorRTRuntime(bundle)
        case "cpu" | "cuda" | "onnx-tensorrt":
            _check_precision(bundle, device, precision)
            return OnnxRuntime(bundle, device=device, threads=threads)
        case _:
            assert_never(device)


def _load_automatically(bundle: Bundle, threads: int | None, precision: RunPrecision | None) -> Runtime:
    why_no_gpu = "the installed onnxruntime has no CUDA provider (tallformer doctor)"
    if CUDA in ort.get_available_providers():
        on_cuda = OnnxRuntime(bundle, device="auto", threads=threads)
        if on_cuda.device == "cuda":
            _check_precision(bundle, "auto", precision)
            return on_cuda
        why_no_gpu = on_cuda.device_reason
    return load_fastest(bundle, threads=threads, precision=precision, because=why_no_gpu)


def _check_precision(bundle: Bundle, device: Device, precision: RunPrecision | None) -> None:
    own = bundle.graphs["encoder"].precision
    if precision not in (None, own):
        raise DeviceError(
            f"--precision {precision}: device {device} computes in the bundle's precision, {own}; use --device openvino"
        )


@dataclass(frozen=True)
class Choice:
    """The fastest way to run an encoder, as measured."""

    way: str
    """`onnxruntime`, `openvino` or `openvino bf16`."""
    clip_s: dict[str, float]
    """Seconds per clip for each way."""

    @property
    def reason(self) -> str:
        """The choice and the measurements, to show to users."""
        ordered = sorted(self.clip_s.items(), key=lambda item: item[1])
        shown = ", ".join(f"{way} {1000 * seconds:.3g} ms" for way, seconds in ordered)
        return f"{self.way} was chosen, measured here per clip: {shown}"


def load_fastest(
    bundle: Bundle,
    *,
    threads: int | None = None,
    precision: RunPrecision | None = None,
    because: str | None = None,
    folder: Path | None = None,
) -> Runtime:
    """Load a bundle on the CPU with the runtime that is fastest for its encoder, see Note [the probe].

    Args:
        bundle: Checked on reading.
        threads: CPU threads; None takes one per core.
        precision: `bf16` requires OpenVINO; None allows bfloat16 if the bundle's parity report does.
        because: Why no GPU is used, to show to users.
        folder: Folder of stored choices; None uses the user's cache.

    Raises:
        BundleError: A graph is missing or damaged, or does not match the recipe.
        DeviceError: bfloat16 was requested and the CPU does not support it.
        ExtraError: bfloat16 was requested and OpenVINO is not installed.
    """
    first = f"{because}; " if because else ""
    if precision == "bf16":
        return OpenVinoRuntime(bundle, precision="bf16", threads=threads, reason=f"{first}only OpenVINO has bfloat16")
    if find_spec("openvino") is None:
        reason = f"{first}{_without_openvino()}: {install_command('openvino')}"
        return OnnxRuntime(bundle, device="cpu", threads=threads, reason=reason)
    may_reduce = precision is None and bundle.parity is not None and bundle.parity.holds_in("bf16")
    choice = _choose(bundle, may_reduce, threads, folder)
    return _load(bundle, choice.way, threads, f"{first}{choice.reason}")


def faster_precision(bundle: Bundle, threads: int | None = None, folder: Path | None = None) -> RunPrecision:
    """The precision in which OpenVINO is faster on the CPU; bfloat16 must keep the actions. See Note [the probe].

    Args:
        bundle: The bundle to run.
        threads: CPU threads; None takes one per core.
        folder: Folder of stored choices; None uses the user's cache.

    Raises:
        BundleError: A graph is missing or damaged, or does not match the recipe.
        ExtraError: OpenVINO is not installed.
    """
    if lowest_precision(bundle) == "fp32":
        return "fp32"
    clip_s = _choose(bundle, True, threads, folder).clip_s
    return "bf16" if clip_s.get(_OPENVINO_BF16, math.inf) < clip_s.get(_OPENVINO, math.inf) else "fp32"


def _choose(bundle: Bundle, may_reduce: bool, threads: int | None, folder: Path | None) -> Choice:
    """What was measured before, or now."""
    file = (folder or user_cache_folder() / "choices") / f"{_name(bundle, may_reduce)}.json"
    choice = _kept(file)
    if choice is None:
        choice = _measure(bundle, may_reduce, threads)
        _keep(file, choice)
    return choice


def _without_openvino() -> str:
    """Note on the missing OpenVINO; factors were measured with `detect` for kinetics400-fast and kinetics400."""
    if "AMX bf16" in processor_features():
        return "this processor has AMX, with which OpenVINO is 2 to 4 times as fast, but it is not installed"
    return "OpenVINO, which is faster on many processors, is not installed"


def _name(bundle: Bundle, may_reduce: bool) -> str:
    """Name of a stored choice."""
    made_by = [_FORM, ort.__version__, version("openvino"), processor_name(), *processor_features(), may_reduce]
    return hashlib.sha256(
        f"{made_by} {bundle.graphs['encoder'].sha256} {bundle.recipe.sampling.crop_px}".encode()
    ).hexdigest()[:32]


def _measure(bundle: Bundle, may_reduce: bool, threads: int | None) -> Choice:
    """See Note [the probe]. A runtime that fails is skipped, except for ONNX Runtime, whose errors are raised."""
    clip_s = {_ONNXRUNTIME: _clip_s(bundle, _ONNXRUNTIME, threads)}
    for way in (_OPENVINO, *([_OPENVINO_BF16] if may_reduce and has_bf16() else [])):
        with contextlib.suppress(TallformerError, RuntimeError):
            clip_s[way] = _clip_s(bundle, way, threads)
    fastest = min(clip_s, key=lambda way: clip_s[way])
    is_worth_it = clip_s[fastest] < _WORTH_IT * clip_s[_ONNXRUNTIME]
    return Choice(fastest if is_worth_it else _ONNXRUNTIME, clip_s)


def _clip_s(bundle: Bundle, way: str, threads: int | None) -> float:
    """Seconds per clip, in the best of some rounds."""
    runtime = _load(bundle, way, threads, "")
    window, side = bundle.recipe.window, bundle.recipe.sampling.crop_px
    count = runtime.clips_at_once
    clips = np.zeros((count, window.clip_frames, side, side, 3), np.uint8)
    real_frames = np.full(count, window.clip_frames, np.int64)
    runtime.encode(clips, real_frames)
    rounds: list[float] = []
    while len(rounds) < _MOST_ROUNDS and sum(rounds) < PROBE_S:
        started = time.perf_counter()
        runtime.encode(clips, real_frames)
        rounds.append(time.perf_counter() - started)
    return min(rounds) / count


def _load(bundle: Bundle, way: str, threads: int | None, reason: str) -> Runtime:
    if way == _ONNXRUNTIME:
        return OnnxRuntime(bundle, device="cpu", threads=threads, reason=reason)
    precision: RunPrecision = "bf16" if way == _OPENVINO_BF16 else "fp32"
    return OpenVinoRuntime(bundle, precision=precision, threads=threads, reason=reason)


def _kept(file: Path) -> Choice | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        choice = Choice(value["way"], {str(way): float(seconds) for way, seconds in value["clip_s"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return choice if choice.way in choice.clip_s and choice.way in _WAYS else None


def _keep(file: Path, choice: Choice) -> None:
    """Store a choice; if the cache cannot be written, it is measured again next time."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(choice)).encode())
