"""How fast are the installed models of Kinetics-400, from a file to JSON, as commands?

    python -m benchmarks.bench_kinetics400 [--rounds 3] [--warmups 1] >> benchmarks/results/kinetics_speed.jsonl

The video is generated: 30 s, 1280 x 720, 30 frames per second, h264. Each run is a new process, so loading the model
counts; the warm-up round fills the cache of compiled graphs. Models and devices take turns. One JSON line for each:
wall time, processor time, and the load of the machine before the first run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.measure import Call, Spread, children_cpu_s, say_round, take_turns, write_line
from tallformer_infer.devices import processor_features
from tallformer_training.synthetic import VideoSpec, write_script, write_video

SECONDS = 30
VIDEO = VideoSpec(subset="testing", seed=0, index=0, minutes=SECONDS / 60, fps=30, width_px=1280, height_px=720)
MODELS = ("kinetics400", "kinetics400-fast")
DEVICES = (("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
"""Devices, and precisions of the encoder."""


def main() -> None:
    """Print a line for each model and device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kinetics400", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each model and device")
    parser.add_argument("--warmups", type=int, default=1, help="untimed runs before them")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each command")
    options = parser.parse_args()
    devices = [(name, precision) for name, precision in DEVICES if name == "cpu" or find_spec("openvino")]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        video = Path(work) / "video-720p.mp4"
        write_video(write_script(VIDEO), video)
        keys = [(model, *device) for model in MODELS for device in devices]
        ways = {key: partial(_detect, video, options.threads, *key) for key in keys}
        calls = take_turns(
            ways,
            rounds=options.rounds,
            warmups=options.warmups,
            on_round=partial(say_round, "speed", options.rounds),
        )
    for (model, device, precision), timed in calls.items():
        wall, cpu = (Spread.of(getattr(call, name) for call in timed) for name in ("wall_s", "cpu_s"))
        line = {
            "name": "kinetics400",
            "inputs": {
                "model": model,
                "runtime": device,
                "precision": precision,
                "threads": options.threads,
                "video": _described(),
            },
            "median_s": round(wall.median, 2),
            "quartiles_s": [round(wall.low, 2), round(wall.high, 2)],
            "median_cpu_s": round(cpu.median, 2),
            "speed_x_real_time": round(SECONDS / wall.median, 2),
            "busy_processors": round(float(np.median([call.cpu_s / call.wall_s for call in timed])), 2),
            "load_before": round(load, 2),
            "features": list(processor_features()),
            "repeats": len(timed),
        }
        write_line(line)


def _described() -> str:
    return f"{SECONDS} s, {VIDEO.width_px}x{VIDEO.height_px}, {VIDEO.fps} fps, h264"


def _detect(video: Path, threads: int, model: str, device: str, precision: str, _: int) -> Call:
    command = [sys.executable, "-m", "tallformer_infer", "detect", str(video), "--model", model, "--device", device]
    command += ["--threads", str(threads)]
    if device != "cpu":
        command += ["--precision", precision]
    wall_s, cpu_s = time.perf_counter(), children_cpu_s()
    subprocess.run([*command, "--quiet", "--out", str(video.with_name("actions.json"))], check=True)
    return Call(time.perf_counter() - wall_s, children_cpu_s() - cpu_s)


if __name__ == "__main__":
    main()
