"""Checkpoint to bundle: ONNX graphs, precision, parity report."""

import tallformer_infer  # noqa: F401 (switches off the usage data of libraries that are imported later)
