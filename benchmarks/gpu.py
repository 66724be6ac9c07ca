"""Measure a CUDA device: the encoder in every available way, and `detect` with every encoder size.

    python -m benchmarks.gpu > benchmarks/results/gpu.jsonl

Needs `pip install 'tallformer[gpu,export]'` and a device; `[tensorrt,export]` also measures ONNX Runtime with TensorRT.
Random weights are exported first. See `bench_device` for the lines `encode` and `handover`, `bench_detect` for
`detect`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import bench_detect, bench_device
from tallformer_export.exporting import ExportOptions, export_random
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import preset
from tallformer_infer.errors import DeviceError
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Device

RECIPES = ("demo", "thumos14-swin-t-112", "thumos14-swin-t", "thumos14-swin-b")


def main() -> int:
    """Print the JSON lines; returns 1 without a CUDA device."""
    try:
        Detector.load("demo", device="cuda")
    except DeviceError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 1
    devices: list[Device] = ["cuda"]
    try:
        Detector.load("demo", device="onnx-tensorrt")
        devices.append("onnx-tensorrt")
    except DeviceError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
    for name in RECIPES:
        for precision in ("fp32", "fp16"):
            with tempfile.TemporaryDirectory() as work:
                options = ExportOptions(precision=precision)
                export_random(preset(name), Path(work) / name, options=options, on_step=_say)
                bench_device.measure_bundle(load_bundle(Path(work) / name), "cuda")
    for device in devices:
        bench_detect.main(*RECIPES, device=device)
    return 0


def _say(step: str) -> None:
    print(step, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
