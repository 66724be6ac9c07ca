"""Compare AFSD's pipeline and TALLFormer on one machine, stage by stage.

    python -m benchmarks.afsd >> benchmarks/results/afsd.jsonl

Needs `pip install 'tallformer[cpu,train,export,bench]'`. Networks are also measured in bfloat16 if the CPU has it and
openvino is installed. Writing the graphs takes minutes; with --work they are kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.afsd import full, material
from benchmarks.afsd.goal import SHARED_VIDEOS
from benchmarks.afsd.pipeline import AfsdPipeline
from benchmarks.afsd.tasks import Task, afsd_tasks, decoding, matrix_rate, sample, tallformer_tasks
from benchmarks.measure import write_line
from tallformer_infer.runtime.openvino import has_bf16

_IN_FULL = "tfio_small.mp4"


def main() -> None:
    """Measure and print JSON lines."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        videos = material.videos(options.videos, work)
        for line in _lines(options, work, videos):
            write_line(line)


def _lines(options: argparse.Namespace, work: Path, videos: list[Path]) -> Iterable[dict[str, Any]]:
    threads = options.threads
    pipeline = AfsdPipeline(work, threads=threads)
    if options.part in ("all", "sample"):
        with_bf16 = find_spec("openvino") is not None and has_bf16()
        precisions = ("fp32", "int8", *(["bf16"] if with_bf16 else []))
        found = [
            matrix_rate(),
            *afsd_tasks(pipeline, work, videos, threads=threads, with_bf16=with_bf16),
            *tallformer_tasks(work, videos, threads=threads, precisions=precisions),
            *decoding(videos, threads=threads),
        ]
        sample(found, options.rounds)
        inputs = {"threads": threads, "rounds": options.rounds, "videos": [video.name for video in videos]}
        yield from (_task_line(task, inputs) for task in found)
    if options.part in ("all", "full"):
        video = next((video for video in videos if video.name == _IN_FULL), videos[0])
        full.bundle(work)
        print("measuring", file=sys.stderr, flush=True)
        yield full.afsd_in_full(pipeline, video, threads=threads)
        yield full.tallformer_in_full(work, video, threads=threads)


def _task_line(task: Task, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "afsd_task",
        "task": task.name,
        "inputs": inputs,
        "centre": task.centre,
        "samples_s": [float(f"{seconds:.4g}") for seconds in task.samples_s],
        "busy": [round(count, 2) for count in task.busy],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.afsd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--part", choices=("all", "sample", "full"), default="all", help="what to measure")
    parser.add_argument(
        "--videos",
        type=Path,
        default=SHARED_VIDEOS if SHARED_VIDEOS.is_dir() else None,
        help="folder of real videos (default: generated ones)",
    )
    parser.add_argument("--work", type=Path, help="folder to keep graphs in; otherwise they are exported each time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
