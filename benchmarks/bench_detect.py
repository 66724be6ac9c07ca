"""How fast is `detect`, from a file to actions, and which stage takes the time?

    python -m benchmarks.bench_detect [RECIPE ...] >> benchmarks/results/detect.jsonl

Each recipe gets random weights, which cost what trained ones do up to suppression; that is timed on its own by
`bench_nms`. The video is made here: 60 s, 1280 x 720, 30 frames per second, h264.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.measure import measure, report
from tallformer_export.exporting import export_random
from tallformer_infer.config import preset
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Device
from tallformer_infer.structures import StageSeconds
from tallformer_training.synthetic import VideoSpec, write_script, write_video

SECONDS = 60
VIDEO = VideoSpec(subset="testing", seed=0, index=0, minutes=SECONDS / 60, fps=30, width_px=1280, height_px=720)


def main(*names: str, device: Device = "cpu", repeats: int = 5) -> None:
    """Time `detect` on one video with each recipe, and print a JSON line for each."""
    with tempfile.TemporaryDirectory() as work:
        video = Path(work) / "video.mp4"
        write_video(write_script(VIDEO), video)
        for name in names or ("demo", "thumos14-swin-t-112"):
            bundle = Path(work) / name
            export_random(preset(name), bundle, on_step=lambda step: print(step, file=sys.stderr))
            detector = Detector.load(bundle, device=device)
            stages: list[StageSeconds] = []
            timing = measure(
                lambda detector=detector, stages=stages: stages.append(detector.detect(video).timings),
                repeats=repeats,
                warmups=1,
                at_most_s=300,
            )
            report(
                "detect",
                timing,
                device=detector.device,
                recipe=name,
                video=f"{SECONDS} s, 1280x720, 30 fps, h264",
                speed_x_real_time=round(SECONDS / float(np.median(timing.wall_s)), 1),
                stages_s=_medians(stages[1:]),
                runtime=detector.runtime.name,
            )


def _medians(stages: list[StageSeconds]) -> dict[str, float]:
    rows = [asdict(stage) for stage in stages]
    return {name: round(float(np.median([row[name] for row in rows])), 4) for name in rows[0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
