"""Checkpoint to bundle: ONNX graphs, precision, parity report."""
