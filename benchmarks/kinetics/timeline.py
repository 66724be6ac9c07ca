"""The picture and the JSON at the top of the README: what `detect` finds in a minute and a half of real film.

    python -m benchmarks.kinetics.timeline --real ../shared/real --work FOLDER [--device openvino --bf16]
    python -m benchmarks.kinetics.timeline

The five clips of Kinetics actions stand between people at home, both in the order of their names, so nothing is picked
to look good. Without `--real`, the picture is drawn from the committed line. Timelines only: frames of the footage must
not be shown.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.kinetics.film import (
    FILM_FPS,
    HOME_ACTIONS,
    KINETICS_CLIPS,
    Placed,
    Shot,
    read_scenes,
    truths,
    write_film,
)
from benchmarks.kinetics.shipped import chosen_with, search
from benchmarks.measure import circumstances
from tallformer_infer import Detector
from tallformer_infer.config import NAMED_CLASSES
from tallformer_infer.pipeline.video_run import find_actions
from tallformer_infer.runtime import RunPrecision

ROOT = Path(__file__).resolve().parents[2]
LINE, PICTURE = ROOT / "benchmarks" / "results" / "kinetics_timeline.jsonl", ROOT / "docs" / "film-timeline.png"
NAMED = ("arm wrestling", "playing basketball", "cleaning pool", "filling eyebrows", "hugging")
"""Classes that the second row of findings is limited to: those of the five clips."""
_COLOURS = {
    "arm wrestling": "#4e79a7",
    "basketball": "#f28e2b",
    "cleaning pool": "#59a14f",
    "eye makeup": "#b07aa1",
    "hug": "#e15759",
}
_TRUTH_OF = dict(zip(NAMED, ("arm wrestling", "basketball", "cleaning pool", "eye makeup", "hug"), strict=True))
_OTHER = "#9d9d9d"
_CHARACTERS = 140
"""That fit side by side into the width of the picture; a name that does not fit into its bar is left out."""


def main() -> None:
    """Measure if the footage is given, and draw."""
    options = _options()
    if options.real is not None:
        LINE.write_text(json.dumps(measure(options)) + "\n", encoding="utf-8")
    draw(json.loads(LINE.read_text(encoding="utf-8"))).savefig(PICTURE, dpi=100)


def place_shots(scenes: list[list[Shot]]) -> list[Placed]:
    """Homes and clips in turn, each in the order of their names; a home is first and last."""
    shots = [shot for scene in scenes for shot in scene]
    clips = sorted((one for one in shots if Path(one.path).name in KINETICS_CLIPS), key=lambda one: one.path)
    homes = [one for one in shots if one.path.startswith("gmdcsa24/") and Path(one.path).stem not in HOME_ACTIONS]
    homes = sorted(homes, key=lambda one: one.path)[: len(clips) + 1]
    in_turn: list[Shot | None] = [one for pair in zip_longest(homes, clips) for one in pair]
    return [Placed(one, 0, is_mirrored=False) for one in in_turn if one is not None]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The line: shots, truth, and what the model finds with all classes and with those that are named."""
    placed = place_shots(read_scenes(options.real, "report"))
    film = options.work / "film.mp4"
    options.work.mkdir(parents=True, exist_ok=True)
    write_film(options.real, placed, film)
    precision: RunPrecision | None = "bf16" if options.bf16 else None
    detector = Detector.load("kinetics400", device=options.device, precision=precision)
    candidates, _ = search(detector, film)
    facts, calibration = candidates.facts, detector.bundle.calibration
    assert calibration is not None, "the installed models of Kinetics-400 have operating points"
    found = {}
    for name, point, classes in (("all", calibration.default, None), ("named", NAMED_CLASSES, NAMED)):
        actions = find_actions(candidates, detector.bundle, chosen_with(point, classes))
        found[name] = [[round(a.start_s, 3), round(a.end_s, 3), a.label, round(a.score, 3)] for a in actions]
    return {
        "model": "kinetics400",
        "shots": [one.shot.path for one in placed],
        "duration_s": round(sum(one.frames for one in placed) / FILM_FPS, 3),
        "frame_count": facts.frame_count,
        "truth": [asdict(truth) for truth in truths(placed)],
        "found": found,
        "runtime": detector.runtime.name,
        "precision": detector.runtime.precision,
        **circumstances(),
    }


def draw(line: dict[str, Any]) -> Figure:
    """Truth above, below it what is found with all 400 classes and with five named ones; stronger with the score."""
    figure = Figure(figsize=(9, 2.3), layout="constrained")
    axes = figure.subplots()
    for truth in line["truth"]:
        span, label = (truth["start_s"], truth["end_s"]), truth["label"]
        _bar(axes, 2, span, label.split(), _COLOURS[label], 1.0)
    for row, name in ((1, "all"), (0, "named")):
        for start, end, label, score in line["found"][name]:
            colour = _COLOURS[_TRUTH_OF[label]] if label in _TRUTH_OF else _OTHER
            fits = max(map(len, label.split())) <= (end - start) / line["duration_s"] * _CHARACTERS
            words = [*(label.split() if fits else ()), f"{score:.2f}"]
            _bar(axes, row, (start, end), words, colour, max(score, 0.35))
    rows = ("found: five\nclasses named", "found: all\n400 classes", "truth")
    axes.set(xlim=(0, line["duration_s"]), ylim=(-0.5, 2.5), yticks=(0, 1, 2), yticklabels=rows, xlabel="seconds")
    return figure


def _bar(axes: Axes, row: int, span: tuple[float, float], words: list[str], colour: str, alpha: float) -> None:
    start, end = span
    axes.barh(row, end - start, left=start, height=0.7, color=colour, alpha=alpha, edgecolor="black")
    axes.text((start + end) / 2, row, "\n".join(words), ha="center", va="center", fontsize=7)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinetics.timeline", description=main.__doc__)
    parser.add_argument("--real", type=Path, help="folder of the footage")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder for the film")
    parser.add_argument("--device", default="cpu", help="cpu or openvino")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16 (on openvino)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
