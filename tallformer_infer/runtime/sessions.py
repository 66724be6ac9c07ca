"""Sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from tallformer_infer.runtime.providers import ProviderWithOptions

_SILENT = 4


def open_session(
    content: bytes,
    *,
    providers: Sequence[ProviderWithOptions],
    threads: int | None = None,
    is_optimised: bool = False,
    save_as: Path | None = None,
) -> ort.InferenceSession:
    """Load a graph.

    Args:
        content: The ONNX file.
        providers: Those that may be used, the best one first; ask the session which it got.
        threads: For one call on the CPU; None takes one per core.
        is_optimised: Whether the graph was saved by an earlier session.
        save_as: File to save the optimised graph in.

    Raises:
        Exception: ONNX Runtime cannot load it; it has classes of its own for that, of no common base.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    if is_optimised:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    elif save_as is not None:
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(save_as)
    # With its own fall-back a provider that fails would be a banner on stdout and a session on the CPU.
    return ort.InferenceSession(content, options, providers=list(providers), enable_fallback=0)
