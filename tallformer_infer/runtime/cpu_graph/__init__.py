"""Rewrite the encoder's graph for ONNX Runtime's CPU kernels, and cache it in the user's cache."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort

from tallformer_infer.errors import DeviceError
from tallformer_infer.files import keep_file, kept_file, user_cache_folder
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.onnx_session import CPU, open_session

MOST_BYTES = 4 * 10**9
"""Maximum size of all cached graphs; the oldest are evicted."""
_VERSION = 3
"""Version of the rewriting; cached graphs of another version are not used."""


def cpu_encoder_graph(content: bytes, *, is_bf16: bool = False, folder: Path | None = None) -> bytes | None:
    """Rewrite an encoder's graph for the CPU, or load it from the cache.

    Args:
        content: The graph from a bundle.
        is_bf16: Whether it computes in bfloat16, which the CPU cannot run directly.
        folder: Cache folder; None uses the user's cache.

    Returns:
        A graph for exactly one clip that is already optimised by ONNX Runtime; None if the given one is as fast, or the
        package `onnx` is missing.

    Raises:
        DeviceError: It computes in bfloat16, and `onnx` is missing.
    """
    folder = folder or user_cache_folder() / "graphs"
    name = _name(content, is_bf16=is_bf16)
    kept = kept_file(folder, name, ".onnx")
    if kept is not None:
        return kept or None
    if find_spec("onnx") is None:
        if is_bf16:
            raise DeviceError(f"a bf16 encoder runs on the CPU only with the package onnx: {install_command('cpu')}")
        return None
    from tallformer_infer.runtime.cpu_graph.tiles import tile_encoder, widen  # noqa: PLC0415 (onnx is only needed here)

    made = widen(content) if is_bf16 else tile_encoder(content)
    optimised = b"" if made is None else _optimised(made)
    keep_file(folder, name, optimised, ".onnx", most_bytes=MOST_BYTES)
    return optimised or None


def _name(content: bytes, *, is_bf16: bool) -> str:
    """Cache name of a graph, without its own hash."""
    made_by = f"{_VERSION} {ort.__version__} {platform.machine()} {is_bf16} "
    return hashlib.sha256(f"{made_by}{hashlib.sha256(content).hexdigest()}".encode()).hexdigest()[:32]


def _optimised(made: bytes) -> bytes:
    """Optimise a graph with ONNX Runtime, except for CPU-specific optimisations, which are applied on loading."""
    with tempfile.TemporaryDirectory(prefix="tallformer-") as folder:
        file = Path(folder) / "optimised.onnx"
        open_session(made, providers=[CPU], threads=1, save_as=file)
        return file.read_bytes()
