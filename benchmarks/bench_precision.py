"""How does the precision of an encoder affect detections: mAP on labelled videos, size, and difference from torch?

    python -m benchmarks.bench_precision CHECKPOINT TRUTH.json VIDEOS >> benchmarks/results/precision.jsonl

For the demo model, `python -m benchmarks.train_demo` makes all three. Every precision is exported, detects in all
videos and is evaluated, with the commands of users. With a bundle instead of a checkpoint, OpenVINO runs it in float32
and in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import write_line
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import to_json


def main() -> None:
    """Print a JSON line for each precision."""
    options = _options()
    if not str(options.checkpoint).endswith(".safetensors"):
        for precision in ("fp32", "bf16"):
            write_line(_run_in(options, precision))
        return
    for precision in options.precisions.split(","):
        with tempfile.TemporaryDirectory() as work:
            write_line(_measured(options, precision, Path(work)))


def _measured(options: argparse.Namespace, precision: str, work: Path) -> dict[str, Any]:
    bundle, actions = work / "bundle", work / "actions.json"
    _tallformer("export", str(options.checkpoint), "--precision", precision, "--out", str(bundle))
    scored, videos = _scored(options, actions, "--model", str(bundle), "--device", "cpu")
    read = load_bundle(bundle)
    assert read.parity is not None
    return {
        "name": "precision",
        "inputs": {"precision": precision, "recipe": read.recipe.name, "videos": videos},
        "map": scored["average_mAP"],
        "encoder_bytes": (bundle / read.graphs["encoder"].file).stat().st_size,
        "parity": {name: to_json(found) for name, found in read.parity.differences.items()},
        "actions": to_json(read.parity.actions),
    }


def _run_in(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Run an unchanged bundle in a precision."""
    with tempfile.TemporaryDirectory() as work:
        how = ("--model", str(options.checkpoint), "--device", "openvino", "--precision", precision)
        scored, videos = _scored(options, Path(work) / "actions.json", *how)
    return {
        "name": "run_precision",
        "inputs": {"precision": precision, "model": str(options.checkpoint), "videos": videos},
        "map": scored["average_mAP"],
        "map_at": scored.get("mAP"),
    }


def _scored(options: argparse.Namespace, actions: Path, *how: str) -> tuple[dict[str, Any], int]:
    """Evaluation of the actions that `detect` finds in all videos, and the number of videos."""
    videos = sorted(str(path) for path in options.videos.glob("*.mp4"))
    _tallformer("detect", *videos, *how, "--out", str(actions))
    return json.loads(_tallformer("eval", str(actions), str(options.truth), "--json")), len(videos)


def _tallformer(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "tallformer_infer", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of training, or a bundle")
    parser.add_argument("truth", type=Path, help="ground truth of the videos in ActivityNet format")
    parser.add_argument("videos", type=Path, help="folder of .mp4 files")
    parser.add_argument("--precisions", default="fp32,fp16,bf16,int8", help="comma-separated precisions")
    return parser.parse_args()


if __name__ == "__main__":
    main()
