"""Measurements: one file per question, each run with `python -m benchmarks.NAME`."""

import tallformer_infer  # noqa: F401 (switches off the usage data of libraries that are imported later)
