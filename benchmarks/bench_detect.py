"""How fast is `detect`, from a file to actions, which stage takes the time, and do the stages overlap?

    python -m benchmarks.bench_detect [RECIPE ...] >> benchmarks/results/detect.jsonl

Each recipe gets random weights, which cost what trained ones do up to suppression; that is timed on its own by
`bench_nms`. The video is made here: 60 s, 1280 x 720, 30 frames per second, h264. Beside `detect`, in turn: decoding
alone, the encoder alone, and the two ceilings (`tallformer_infer/diagnosis`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import Figure
from benchmarks.measure import say_round, write_line
from tallformer_export.exporting import export_random
from tallformer_infer.config import preset
from tallformer_infer.devices import available_cores
from tallformer_infer.diagnosis.stages import Speed, Trial, measure_stages
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Device
from tallformer_infer.runtime.openvino import has_bf16
from tallformer_infer.structures import StageSeconds
from tallformer_training.synthetic import VideoSpec, write_script, write_video

SECONDS = 60
VIDEO = VideoSpec(subset="testing", seed=0, index=0, minutes=SECONDS / 60, fps=30, width_px=1280, height_px=720)
ENCODER_BOUND = "thumos14-swin-t"
"""The recipe of the goal whose encoder takes longer than decoding in every precision."""
_OVERLAPPED = {"demo": ("demo", 5), "kinetics400": ("kinetics400", 3), "swin-t": (ENCODER_BOUND, 2)}
"""Keys of the goals: a model, and rounds."""
_MOST_CLIPS = 8
"""That the encoder is given alone; of a long video, the others would take as long."""


def main(*names: str, device: Device = "cpu", repeats: int = 5) -> None:
    """Time `detect` on one video with each recipe, and print a JSON line for each."""
    with tempfile.TemporaryDirectory() as work:
        for name in names or ("demo", "thumos14-swin-t-112"):
            detector = Detector.load(bundle_of(Path(work), name), device=device)
            trial = Trial(rounds=repeats, most_clips=_MOST_CLIPS, at_most_s=300)
            speed = measure_stages(detector, str(video_in(Path(work))), trial)
            write_line(_line(speed, name, detector), device=detector.device)


def goal(work: Path) -> dict[str, Figure]:
    """How much longer than its slower stage, and than the processors allow, `detect` takes as `auto` runs it."""
    figures = {}
    for key, (name, rounds) in _OVERLAPPED.items():
        detector = _detector(work, name)
        speed = measure_stages(
            detector,
            str(video_in(work)),
            Trial(rounds=rounds),
            on_round=partial(say_round, f"overlap, {name}", rounds),
        )
        figures[key] = Figure.of(speed.over_slower_stage, _profile(speed))
        figures[f"{key}-least"] = Figure.of(speed.over_least(available_cores()), f"with {detector.runtime.name}")
    return figures


def _detector(work: Path, name: str) -> Detector:
    """A model as `auto` runs it; random weights have no report on bfloat16, which trained ones of the recipe would."""
    if name != ENCODER_BOUND:
        return Detector.load(name)
    is_reduced = find_spec("openvino") is not None and has_bf16()
    return Detector.load(bundle_of(work, name), precision="bf16" if is_reduced else None)


def video_in(work: Path) -> Path:
    """The video, made once."""
    video = work / "video-720p.mp4"
    if not video.is_file():
        write_video(write_script(VIDEO), video)
    return video


def bundle_of(work: Path, name: str) -> Path:
    """A bundle of a recipe with random weights, made once."""
    bundle = work / f"bundle-{name}"
    if not bundle.is_dir():
        export_random(preset(name), bundle, on_step=lambda step: print(step, file=sys.stderr))
    return bundle


def _profile(speed: Speed) -> str:
    """Alone and together, and how busy the processors were."""
    detect, inside = speed.timings["detect"], _medians(speed.stages)
    busy = float(np.median(np.array(detect.cpu_s) / np.array(detect.wall_s)))
    alone_cpu_s = sum(float(np.median(speed.timings[name].cpu_s)) for name in ("decode", "encode"))
    share = speed.ceiling_share("detect")
    of_ceiling = "" if share is None else f", {share.median:.0%} of the rate of its ceiling"
    least = speed.over_slower_stage.median / speed.over_least(available_cores()).median
    return (
        f"alone decode {speed.timings['decode'].spread.median:.2f} s, encode "
        f"{speed.timings['encode'].spread.median:.2f} s; detect {detect.spread.median:.2f} s (decode "
        f"{inside['decode_s']:.2f}, encode {inside['encode_s']:.2f}, localize {inside['localize_s']:.2f}), {busy:.2f} "
        f"processors busy; both need {alone_cpu_s:.2f} s of one processor, so at least {least:.2f} × the slower stage"
        f"{of_ceiling}"
    )


def _line(speed: Speed, name: str, detector: Detector) -> dict[str, Any]:
    detect = speed.timings["detect"]
    shares = {stage: speed.ceiling_share(stage) for stage in ("decode", "encode", "detect")}
    return {
        "name": "detect",
        "inputs": {
            "recipe": name,
            "video": f"{SECONDS} s, 1280x720, 30 fps, h264",
            "speed_x_real_time": round(SECONDS / detect.spread.median, 1),
            "stages_s": _medians(speed.stages),
            "alone_s": {stage: round(speed.timings[stage].spread.median, 4) for stage in ("decode", "encode")},
            "runtime": detector.runtime.name,
        },
        "median_s": round(detect.spread.median, 4),
        "quartiles_s": [round(detect.spread.low, 4), round(detect.spread.high, 4)],
        "median_cpu_s": round(float(np.median(detect.cpu_s)), 4),
        "times_slower_stage": round(speed.over_slower_stage.median, 3),
        "binds": speed.binding,
        "ceiling_share": {stage: share and round(share.median, 3) for stage, share in shares.items()},
        "repeats": len(detect.wall_s),
    }


def _medians(stages: Sequence[StageSeconds]) -> dict[str, float]:
    rows = [asdict(stage) for stage in stages]
    return {name: round(float(np.median([row[name] for row in rows])), 4) for name in rows[0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
