"""What a CUDA device does: `detect` with every size of the encoder.

    python -m benchmarks.gpu > benchmarks/results/gpu.jsonl

Needs `pip install 'tallformer[gpu,export]'` and a device; random weights are exported here first.
"""

from __future__ import annotations

import sys

from benchmarks import bench_detect
from tallformer_infer.errors import DeviceError
from tallformer_infer.pipeline import Detector


def main() -> int:
    """Print a JSON line for each recipe; 1 where there is no CUDA device."""
    try:
        Detector.load(device="cuda")
    except DeviceError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 1
    bench_detect.main("demo", "thumos14-swin-t-112", "thumos14-swin-t", "thumos14-swin-b", device="cuda")
    return 0


if __name__ == "__main__":
    sys.exit(main())
