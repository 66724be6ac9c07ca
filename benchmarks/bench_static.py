"""What does `label --skip-static` save, and what does it cost?

    python -m benchmarks.bench_static >> benchmarks/results/static.jsonl

Six generated videos of two minutes, which the bundled model has not seen, are labelled with each tolerance; a line for
each with the share of encoded clips and the mAP of all actions. As generated videos always contain motion, all frames
more than a second from any action are replaced by a still with camera noise, as from a fixed camera.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.measure import Timing, report
from tallformer_infer.evaluation import evaluate, protocol_named, read_predictions, read_truth
from tallformer_training.synthetic.dataset import SetSpec, make_dataset

VIDEOS, MINUTES, TOLERANCES = 6, 2.0, (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
NOISE, MARGIN_S = 3.0, 1.0
"""Camera noise in pixel values (standard deviation), and seconds around actions that are not changed."""


def main() -> None:
    """Label with each tolerance, and print JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        spec = SetSpec(subset="testing", videos=VIDEOS, seed=20, minutes=MINUTES)
        make_dataset(spec, work / "set", jobs=2)
        truth = next((work / "set").glob("*.json"))
        (work / "fixed").mkdir()
        for video in sorted((work / "set").rglob("*.mp4")):
            _still_between_actions(video, work / "fixed" / video.name, json.loads(truth.read_text()))
        for tolerance in TOLERANCES:
            _measure(work, truth, tolerance)


def _still_between_actions(source: Path, target: Path, truth: dict[str, Any]) -> None:
    """Copy a video, with the last picture before each pause repeated through it."""
    annotations = truth["database"][source.stem]["annotations"]
    segments = [annotation["segment"] for annotation in annotations]
    chance = np.random.default_rng(0)
    still = None
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        shown = container.streams.video[0]
        stream = out.add_stream("libx264", rate=15, options={"crf": "18"})
        stream.height, stream.width = shown.height, shown.width
        for index, frame in enumerate(container.decode(video=0)):
            picture = frame.to_ndarray(format="rgb24")
            if still is None or any(start - MARGIN_S <= index / 15 < end + MARGIN_S for start, end in segments):
                still = picture
            noise = chance.normal(0, NOISE, picture.shape)
            noisy = np.clip(still + noise, 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        out.mux(stream.encode(None))


def _measure(work: Path, truth: Path, tolerance: float) -> None:
    out = work / f"out-{tolerance}"
    started = time.perf_counter()
    finished = _run("label", str(work / "fixed"), "--out", str(out), "--json-logs", "--operating-point", "none",
                    "--model", "demo",
                    "--skip-static", str(tolerance))  # fmt: skip
    wall_s = time.perf_counter() - started
    _run("archive", "export", str(out), "--out", str(out / "all.json"))
    protocol = protocol_named("thumos14")
    known = read_truth(truth, subset="testing", defaults=protocol.subsets)
    scored = evaluate(read_predictions(out / "all.json"), known, protocol)
    clips = VIDEOS * -(-int(MINUTES * 60 * 15) // 32)
    report(
        "skip static",
        Timing((wall_s,), (0.0,)),
        tolerance=tolerance,
        videos=f"{VIDEOS} of {MINUTES:g} min, generated, still between actions",
        recipe="demo",
        encoded_share=round(int(finished["clips_encoded"]) / clips, 3),
        average_map=round(scored.average, 4),
    )


def _run(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tallformer_infer", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    last: dict[str, float] = json.loads(lines[-1]) if lines else {}
    return last


if __name__ == "__main__":
    main()
