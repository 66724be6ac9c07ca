"""Figures of docs/real.md from committed lines: timelines of detections, and curves of long runs.

    python -m benchmarks.real_training.pictures
    python -m benchmarks.real_training.pictures --actions FOLDER/runs/actions/ut-i3d-112-points-across-0.json \
        --truth FOLDER/videos/truth.json --videos sequence-11-0,sequence-14-0

Without options, both figures are drawn from `benchmarks/results`. With `--actions`, the lines of the timelines are
first replaced by the detections of a run in some videos. Frames of the footage must not be shown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.measure import RESULTS, read_lines
from benchmarks.real_training.page import LONG_TITLES
from benchmarks.real_training.videos import LAWN

ROOT = Path(__file__).resolve().parents[2]
TIMELINES, CURVES = RESULTS / "real_timelines.jsonl", RESULTS / "real_tcm.jsonl"
LEAST_SCORE = 0.3
"""Smallest score that is shown."""
_COLOURS = {
    "hug": "#e15759",
    "kick": "#4e79a7",
    "point": "#9c755f",
    "punch": "#f28e2b",
    "push": "#59a14f",
    "shake hands": "#b07aa1",
}


def main() -> None:
    """Draw both figures."""
    options = _options()
    if options.actions is not None:
        lines = collect(options.actions, options.truth, options.videos)
        TIMELINES.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for path, draw, name in ((TIMELINES, draw_timelines, "real-timelines.png"), (CURVES, draw_curves, "real-tcm.png")):
        if path.exists():
            draw(read_lines(path)).savefig(ROOT / "docs" / name, dpi=100)


def collect(actions: Path, truth: Path, videos: Sequence[str]) -> list[dict[str, Any]]:
    """Detections of a run in some videos with a score of at least `LEAST_SCORE`, and the ground truth."""
    found = json.loads(actions.read_text(encoding="utf-8"))
    database = json.loads(truth.read_text(encoding="utf-8"))["database"]
    return [
        {
            "run": actions.stem,
            "video": name,
            "duration_s": round(database[name]["duration"], 2),
            "truth": [[*row["segment"], row["label"]] for row in database[name]["annotations"]],
            "found": [row for row in found[name] if row[3] >= LEAST_SCORE],
        }
        for name in videos
    ]


def draw_timelines(lines: Sequence[dict[str, Any]]) -> Figure:
    """Ground truth above, detections below, with opacity by score."""
    figure = Figure(figsize=(9, 0.6 + 1.15 * len(lines)), layout="constrained")
    rows = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for axes, line in zip(rows, lines, strict=True):
        for start, end, label in line["truth"]:
            _bar(axes, 1, (start, end), label, 1.0)
        for start, end, label, score in sorted(line["found"], key=lambda row: row[3]):
            _bar(axes, 0, (start, end), label, max(score, 0.25))
            axes.text(start + 0.06, 0, f"{score:.1f}".lstrip("0"), ha="left", va="center", fontsize=7)
        axes.set(xlim=(0, line["duration_s"]), ylim=(-0.5, 1.5), yticks=(0, 1), yticklabels=("found", "truth"))
        axes.set_title(_named(line["video"]), fontsize=9, loc="left")
    rows[-1].set_xlabel("seconds")
    handles = [Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def _named(video: str) -> str:
    """Place and number of a video, such as `sequence-11-0`."""
    sequence = int(video.split("-")[1])
    return f"{'lawn' if sequence in LAWN else 'parking lot'}, sequence {sequence}"


def _bar(axes: Axes, row: int, span: tuple[float, float], label: str, alpha: float) -> None:
    axes.barh(row, span[1] - span[0], left=span[0], height=0.7, color=_COLOURS[label], alpha=alpha, edgecolor="black")


def draw_curves(lines: Sequence[dict[str, Any]]) -> Figure:
    """Loss and mAP of long runs side by side."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = dict(zip(LONG_TITLES, ("#4e79a7", "#76b7b2", "#e15759", "#59a14f", "#f28e2b", "#b07aa1"), strict=True))
    for line in lines:
        steps = [row["step"] for row in line["curve"]]
        title = f"{LONG_TITLES[line['variant']]}, seed {line['seed']}"
        style = "-" if line["seed"] == 0 else "--"
        left.plot(
            steps,
            [row["loss"] for row in line["curve"]],
            style,
            marker="o",
            markersize=3,
            color=colours[line["variant"]],
        )
        values = [row["map"][2] for row in line["curve"]]
        right.plot(steps, values, style, marker="o", markersize=3, color=colours[line["variant"]], label=title)
    left.set(yscale="log", xlabel="step", title="training loss")
    right.set(xlabel="step", title="mAP on the lawn at tIoU 0.5, %")
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training.pictures", description=main.__doc__)
    parser.add_argument("--actions", type=Path, help="detections of a run, for new lines of the timelines")
    parser.add_argument("--truth", type=Path, help="annotations of the composed videos")
    parser.add_argument("--videos", type=lambda text: text.split(","), default=[], help="comma-separated names")
    return parser.parse_args()


if __name__ == "__main__":
    main()
