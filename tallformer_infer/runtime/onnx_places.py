"""Where ONNX Runtime runs the graphs of a bundle, and what it really gives.

Note [silent fall-back]
    ONNX Runtime lists providers that the machine cannot use, and a session that asked for CUDA and does not get it
    runs on the CPU with nothing but a log line. So every session is asked what it really got.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import onnxruntime as ort

from tallformer_infer.devices import OnnxDevice
from tallformer_infer.errors import BundleError, DeviceError, ExtraError
from tallformer_infer.runtime.providers import CUDA, TENSORRT
from tallformer_infer.runtime.tensorrt.library import Gpu, Library, load_library, require_gpu

_NO_TENSORRT = "device onnx-tensorrt cannot be had (--device auto takes what there is): {}"


@dataclass(frozen=True, kw_only=True)
class TensorrtHere:
    """What ONNX Runtime's TensorRT provider runs with."""

    library: Library
    """The one that it loads."""
    gpu: Gpu
    """The one that it builds for."""


@dataclass(frozen=True, kw_only=True)
class OnnxPlace:
    """Where graphs run."""

    device: Literal["cpu", "cuda"]
    """Whose memory and processors."""
    reason: str
    """Why, for people."""
    tensorrt: TensorrtHere | None = None
    """None: without it."""


def choose_place(wanted: OnnxDevice, open_on_cuda: Callable[[], object]) -> OnnxPlace:
    """What of that which is asked for can be had.

    Args:
        wanted: By the user; `auto` never takes TensorRT, which builds for minutes.
        open_on_cuda: Makes a session on CUDA, to see whether that works; a DeviceError says that it ended elsewhere.

    Raises:
        DeviceError: It was asked for and cannot be had.
    """
    match wanted:
        case "cpu":
            return OnnxPlace(device="cpu", reason="as asked")
        case "cuda":
            if problem := _cuda_problem(open_on_cuda):
                raise DeviceError(f"device cuda cannot be had: {problem}; use --device cpu or auto")
            return OnnxPlace(device="cuda", reason="as asked")
        case "auto":
            problem = _cuda_problem(open_on_cuda)
            return (
                OnnxPlace(device="cpu", reason=problem)
                if problem
                else OnnxPlace(device="cuda", reason="CUDA works here")
            )
        case "onnx-tensorrt":
            here = find_tensorrt()
            if problem := _cuda_problem(open_on_cuda):
                raise DeviceError(_NO_TENSORRT.format(problem))
            return OnnxPlace(device="cuda", reason=f"as asked, on {here.gpu}", tensorrt=here)
        case _:
            assert_never(wanted)


def find_tensorrt() -> TensorrtHere:
    """The GPU and the TensorRT that ONNX Runtime's provider needs; the driver is asked first.

    Raises:
        DeviceError: One of them is missing.
    """
    if TENSORRT not in ort.get_available_providers():
        raise DeviceError(_NO_TENSORRT.format("the installed onnxruntime has no TensorRT provider"))
    try:
        gpu = require_gpu()
        library = load_library("tensorrt")  # which also loads libnvinfer from where pip put it
    except (DeviceError, ExtraError) as error:
        raise DeviceError(_NO_TENSORRT.format(error)) from error
    return TensorrtHere(library=library, gpu=gpu)


def failure_of_cuda(message: str) -> str:
    """What CUDA said, out of what ONNX Runtime says with the places in its source; else the message as it is."""
    failure = re.search(r"CUDA failure \d+: [^;]+", message)
    return f"onnxruntime cannot use CUDA: {failure[0].strip()}" if failure else message


def _cuda_problem(open_on_cuda: Callable[[], object]) -> str | None:
    """Why CUDA cannot be used, or None; see Note [silent fall-back]."""
    if CUDA not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (tallformer doctor)"
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # it prints there what it does not find, see `tallformer doctor`
            ort.preload_dlls()
    try:
        open_on_cuda()
    except BundleError as error:
        return failure_of_cuda(str(error))
    except DeviceError:
        return "onnxruntime has a CUDA provider, but no CUDA device or driver answers"
    return None
