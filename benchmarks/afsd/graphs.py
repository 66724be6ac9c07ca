"""AFSD's networks in ONNX Runtime and, in bfloat16, in OpenVINO: the runtimes of TALLFormer, to treat both alike.

Graphs are kept in a folder, as exporting takes longer than measuring.
"""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tallformer_export.graphs import OPSET, encoder_onnx, localizer_onnx
from tallformer_export.precision import quantised
from tallformer_infer.config import preset
from tallformer_infer.runtime.onnx_session import CPU, open_session
from tallformer_training.model import Detector

_ALIKE = 1e-3
"""Largest difference from torch, relative to the largest value."""

Array = NDArray[np.float32]


class Network:
    """One graph on the CPU, in ONNX Runtime."""

    def __init__(self, content: bytes, *, threads: int, at_once: int = 1) -> None:
        """Load the graph.

        Args:
            content: The ONNX file.
            threads: Number of threads in total.
            at_once: Inputs that `run_all` processes in parallel, which share the threads.
        """
        self._session = open_session(content, providers=[CPU], threads=max(threads // at_once, 1))
        self._names = [wanted.name for wanted in self._session.get_inputs()]
        self._pool = ThreadPoolExecutor(at_once)

    def run(self, *inputs: NDArray[np.generic]) -> list[Array]:
        """Outputs for one set of inputs."""
        outputs: list[Array] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs

    def run_all(self, inputs: Sequence[NDArray[np.generic]]) -> list[list[Array]]:
        """Outputs for each of several inputs."""
        return list(self._pool.map(self.run, inputs))


class Bf16Network:
    """Like `Network`, in OpenVINO and in bfloat16."""

    def __init__(self, content: bytes, *, threads: int, at_once: int = 1) -> None:
        import openvino  # noqa: PLC0415 (an extra)

        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": at_once}
        self._compiled = core.compile_model(core.read_model(content), "CPU", settings)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(at_once):
            self._free.put(self._compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(at_once)

    def run(self, *inputs: NDArray[np.generic]) -> list[Array]:
        """Outputs for one set of inputs."""
        request = self._free.get()
        try:
            return [np.array(output) for output in request.infer(list(inputs)).values()]
        finally:
            self._free.put(request)

    def run_all(self, inputs: Sequence[NDArray[np.generic]]) -> list[list[Array]]:
        """Outputs for each of several inputs."""
        return list(self._pool.map(self.run, inputs))


def network_in(precision: str) -> type[Network] | type[Bf16Network]:
    """Kind of network for a precision, `fp32` or `bf16`."""
    return Bf16Network if precision == "bf16" else Network


def graph(work: Path, name: str, make: Callable[[], nn.Module], inputs: Sequence[Tensor]) -> bytes:
    """A module's graph for inputs of exactly these shapes, exported once and compared with torch."""
    file = work / f"{name}.onnx"
    if not file.is_file():
        torch.manual_seed(0)
        module = with_lively_weights(make()).eval()
        with torch.inference_mode():
            wanted = _flat(module(*inputs))
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(module, tuple(inputs), dynamo=True, opset_version=OPSET, verbose=False)
        assert program is not None
        content = program.model_proto.SerializeToString()
        given = Network(content, threads=2).run(*(tensor.numpy() for tensor in inputs))
        for ours, theirs in zip(given, wanted, strict=True):
            far = float(np.abs(ours - theirs.numpy()).max() / theirs.abs().max())
            assert far <= _ALIKE, f"{name} differs from torch by {far}"
        file.write_bytes(content)
    return file.read_bytes()


def tallformer_graphs(work: Path, recipe_name: str, precisions: Sequence[str]) -> dict[str, bytes]:
    """Graphs of a recipe with random weights: `localizer`, and the encoder in each precision."""
    precisions = [precision for precision in precisions if precision != "bf16"]
    files = {name: work / f"{recipe_name}-{name}.onnx" for name in ("localizer", *precisions)}
    if not all(file.is_file() for file in files.values()):
        torch.manual_seed(0)
        detector = Detector(preset(recipe_name)).eval()
        files["localizer"].write_bytes(localizer_onnx(detector).SerializeToString())
        if precisions:
            encoder = encoder_onnx(detector)
            for precision in precisions:
                made = quantised(encoder) if precision == "int8" else encoder
                files[precision].write_bytes(made.SerializeToString())
    return {name: file.read_bytes() for name, file in files.items()}


def with_lively_weights(module: nn.Module) -> nn.Module:
    """Set random weights that preserve the scale of values through many layers, and small ones in classifiers."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            if name.rpartition(".")[2].endswith(("_head", "fc")):
                nn.init.normal_(part.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(part.weight)
    return module


def _flat(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
