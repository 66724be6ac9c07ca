"""Measurements: one file per question, each run with `python -m benchmarks.NAME`."""
