"""Measurements: one file per question, each run with `python -m benchmarks.NAME`."""

import tallformer_infer  # noqa: F401 (disables the telemetry of libraries imported later)
