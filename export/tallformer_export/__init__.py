"""Checkpoint to bundle: ONNX graphs, precision, parity report."""

import tallformer_infer  # noqa: F401 (disables the telemetry of libraries imported later)
