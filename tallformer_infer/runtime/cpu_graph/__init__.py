"""The encoder's graph as ONNX Runtime's CPU kernels run it fastest, made once and kept."""

from __future__ import annotations

from tallformer_infer.runtime.cpu_graph.keeping import cpu_encoder_graph

__all__ = ["cpu_encoder_graph"]
