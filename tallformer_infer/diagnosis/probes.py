"""Probes that load native code, each run in a separate process.

Every probe imports its own dependencies, so that a missing library affects only that probe, and returns JSON values.
Devices are tried with a minimal graph, relu(left @ right), or with the default model.

Note [a crash takes only its answer]
    A driver that does not match its kernel module, or TensorRT without a driver, ends the process that uses it, which
    no `except` can catch. Probes that load native code therefore run in a child process: a crash is just another
    answer. The child looks for modules on the given path, and keeps the output of libraries out of the answer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tallformer_infer.errors import DeviceError, TallformerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tallformer_infer.devices import Device

INPUTS = ("left", "right")
OUTPUT = "product"
SIDE = 8
"""Rows and columns of the inputs and of the output, which are float32."""
_CPU = "CPUExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_CHILD = (
    "import json, sys; question = json.loads(sys.argv[1]); sys.path[:] = question['path']; "
    "from tallformer_infer.diagnosis.probes import reply; reply(question)"
)
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer: either `facts` or `problem` is set."""

    facts: dict[str, Any] | None = None
    """Return value of the probe."""
    problem: str | None = None
    """Why there are no facts, in one line."""
    error: str | None = None
    """Name of the exception that the probe raised, if it did not crash."""
    missing_module: str | None = None
    """Module that is not installed, if that is the problem."""
    log: str = ""
    """Everything printed meanwhile, by libraries too."""


def ask(
    module: str, function: str, *arguments: str, path: Sequence[str] | None = None, timeout_s: float = 60.0
) -> Answer:
    """Call a function in a fresh process, see Note [a crash takes only its answer].

    Args:
        module: Where the function is; imported only there.
        function: Its name. Must return a dict of JSON values.
        arguments: Passed to it.
        path: Where modules are looked for; None: where this process does.
        timeout_s: The process is killed after this time.
    """
    question = {"module": module, "function": function, "arguments": arguments, "path": list(path or sys.path)}
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, json.dumps(question)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"gave no answer within {timeout_s:g} s")
    except OSError as error:
        return Answer(problem=f"{sys.executable}: cannot be started: {error.strerror}")
    log = child.stderr.decode(errors="replace")
    try:
        return Answer(**json.loads(child.stdout), log=log)
    except (ValueError, TypeError):
        return Answer(problem=f"{_death(child.returncode)}{_last_words(log)}", log=log)


def reply(question: dict[str, Any]) -> None:
    """In the child process: write the answer to stdout, and exit at once."""
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to the log
    try:
        function = getattr(importlib.import_module(question["module"]), question["function"])
        answer = {"facts": function(*question["arguments"])}
    except Exception as error:
        answer = _describe(error)
    with os.fdopen(channel, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    sys.stderr.flush()
    os._exit(0)  # skip the teardown of libraries, which may crash


def _describe(error: Exception) -> dict[str, Any]:
    first = next(iter(str(error).splitlines()), "")
    name = type(error).__name__
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    problem = first if isinstance(error, TallformerError) and first else f"{name}: {first}".removesuffix(": ")
    return {"problem": problem, "error": name, "missing_module": missing}


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no answer"
    try:
        return f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashed (signal {-code})"


def _last_words(log: str) -> str:
    lines = [line.strip() for line in _COLOURS.sub("", log).splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""


def run_device(device: str) -> dict[str, Any]:
    """Load the default model as `detect --device` does, and run its graphs on one clip and one window of black frames.

    Raises:
        TallformerError: The device cannot be used, or there is no model to try it with.
    """
    import numpy as np

    from tallformer_infer.nms import suppress
    from tallformer_infer.pipeline import Detector
    from tallformer_infer.runtime import WindowBatch

    detector = Detector.load(device=cast("Device", device))
    recipe, runtime = detector.bundle.recipe, detector.runtime
    frames, side = recipe.window.clip_frames, recipe.sampling.crop_px
    clip = np.zeros((1, frames, side, side, 3), np.uint8)
    step = runtime.encode(clip, np.array([frames], np.int64))
    clips = recipe.window.window_frames // frames
    window = np.tile(step, (1, 1, clips))
    ends = np.array([recipe.window.window_frames], np.int64)
    suppress(runtime.localize(WindowBatch(window, np.zeros(1, np.int64), ends)), recipe.suppress)
    return {"device": detector.device, "reason": runtime.device_reason, "runtime": runtime.name}


def list_providers() -> dict[str, Any]:
    """Version of ONNX Runtime, and the execution providers it was built with."""
    import onnxruntime as ort

    return {"version": ort.__version__, "built": ort.get_available_providers()}


def run_provider(name: str) -> dict[str, Any]:
    """Run the smallest graph on one provider and no other, and check its numbers.

    Without the two options here, ONNX Runtime falls back to the CPU with a log line.

    Raises:
        DeviceError: The graph ran elsewhere, or gave wrong numbers.
    """
    import onnxruntime as ort

    if name != _CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    if name == _TENSORRT:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt")  # loads libnvinfer from where pip put it
    options = ort.SessionOptions()
    if name != _CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(smallest_graph(), options, providers=[name], enable_fallback=0)
    used = session.get_providers()
    if name not in used:
        raise DeviceError(f"asked for {name}, got {', '.join(used)}")
    (found,) = session.run([OUTPUT], _inputs())
    _check(found, name)
    return {"used": used}


def run_provider_with_engine() -> dict[str, Any]:
    """Look for what `--device onnx-tensorrt` needs, as it does, and run the smallest graph.

    Raises:
        DeviceError: Something is missing or fails.
    """
    from tallformer_infer.runtime.onnx_session import find_tensorrt

    here = find_tensorrt()
    run_provider(_TENSORRT)
    reason = f"with engines of {here.library} on {here.gpu}, which ONNX Runtime builds when it first loads a model"
    return {"device": "cuda", "reason": reason, "runtime": "onnxruntime"}


def run_engine() -> dict[str, Any]:
    """Build a TensorRT engine of the smallest graph for the GPU that is here, run it, and check its numbers.

    Raises:
        TallformerError: Something is missing or fails.
    """
    from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
    from tallformer_infer.runtime.tensorrt.keys import (
        BatchProfile,
        check_runs_here,
        load_library,
        require_gpu,
        target_of,
    )
    from tallformer_infer.runtime.tensorrt.running import EngineLoader, GpuSession

    card = require_gpu()
    library = load_library()
    check_runs_here(library, card)
    rows = BatchProfile(least=SIDE, best=SIDE, most=SIDE)
    target = target_of([card.capability])
    built = build_engine(library, smallest_graph(), rows, target=target, log=BuilderLog())
    gpu = GpuSession()
    engine = EngineLoader(library).load(built.content, rows, gpu)
    gpu.allocate()
    engine.bind()
    _check(engine.run(_inputs())[OUTPUT], str(library))
    reason = f"with engines of {library}, which `tallformer engine build` makes for each model"
    return {"device": "cuda", "reason": reason, "runtime": str(library)}


def import_library(name: str) -> dict[str, Any]:
    """Import `tensorrt`, `tensorrt_rtx` or `cuda.bindings.runtime`.

    Returns:
        `version`, and `builds_for`: GPUs that it can build for without having them, such as `sm86`.
    """
    module = importlib.import_module(name)
    names = getattr(getattr(module, "ComputeCapability", None), "__members__", ()) if name == "tensorrt_rtx" else ()
    version = (
        module.__version__ if name.startswith("tensorrt") else importlib.import_module("cuda.bindings").__version__
    )
    return {"version": version, "builds_for": [text.lower() for text in names if re.fullmatch(r"SM\d+", text)]}


def list_decoders() -> dict[str, Any]:
    """FFmpeg's version and libraries, and which codecs each kind of hardware could decode if it were here."""
    import av
    from av.codec.hwaccel import hwdevices_available

    from tallformer_infer.media.hardware import hardware_codecs, offered_kinds

    kinds: dict[str, set[str]] = {name: set() for name in hwdevices_available()}
    for name in av.codecs_available:
        for kind, codec in hardware_codecs(name):
            kinds.setdefault(kind, set()).add(codec)
    return {
        "ffmpeg": av.ffmpeg_version_info,
        "libraries": {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())},
        "kinds": {kind: sorted(codecs) for kind, codecs in kinds.items()},
        "usable": list(offered_kinds()),
    }


def open_decoder(kind: str) -> dict[str, Any]:
    """Open the default device of a kind of hardware, as a decoder would.

    Raises:
        DeviceError: It cannot be opened; the reason is the first that FFmpeg logs.
    """
    import av

    from tallformer_infer.media.hardware import hardware_codecs, why_closed

    decoder = next(
        name
        for name in sorted(av.codecs_available, key=lambda name: (name not in ("h264", f"h264_{kind}"), name))
        if any(found == kind for found, _ in hardware_codecs(name))
    )
    problem = why_closed(kind, decoder)
    if problem is not None:
        raise DeviceError(problem)
    return {"decoder": decoder}


def smallest_graph() -> bytes:
    """The ONNX file of the smallest graph."""
    from tallformer_infer.bundle.onnx_files import Node, Value, write_graph

    nodes = [Node("MatMul", INPUTS, "sum"), Node("Relu", ("sum",), OUTPUT)]
    shape = (SIDE, SIDE)
    inputs = [Value(name, shape) for name in INPUTS]
    return write_graph("smallest", nodes, inputs=inputs, outputs=[Value(OUTPUT, shape)])


def _inputs() -> dict[str, NDArray[np.float32]]:
    import numpy as np

    whole = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) % 5
    return {name: whole - shift for name, shift in zip(INPUTS, (2, 3), strict=True)}


def _check(found: NDArray[np.float32], what: str) -> None:
    import numpy as np

    left, right = _inputs().values()
    if not np.array_equal(found, np.maximum(left @ right, 0)):
        raise DeviceError(f"{what} gives wrong numbers")
