"""A picture of a run: losses, mAP, learning rate and the age of what was remembered, over training steps."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tallformer_infer.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tallformer_infer.evaluation import Protocol

CURVES_FILE = "curves.png"
_SMOOTH = 0.95


def draw_curves(run: Path, lines: Sequence[Mapping[str, Any]], protocol: Protocol) -> Path | None:
    """Draw the record of a run into `curves.png`.

    Args:
        run: Its folder.
        lines: From `read_metrics`.
        protocol: Rules of its validations.

    Returns:
        The picture; None where matplotlib is not installed or nothing was recorded.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    if importlib.util.find_spec("matplotlib") is None or not steps:
        return None
    from matplotlib.figure import Figure  # noqa: PLC0415 (only where it is installed)

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_losses(axes[0][0], steps)
    _draw_validation(axes[0][1], [line for line in lines if line["kind"] == "validation"], protocol)
    _draw_one(axes[1][0], steps, "learning_rate", "learning rate")
    _draw_one(axes[1][1], steps, "memory_age_mean_steps", "mean age of what was remembered, in steps")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_whole(run / CURVES_FILE, picture.getvalue())
    return run / CURVES_FILE


def _draw_losses(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    for name, label in (("classification_loss", "classification"), ("segment_loss", "segments")):
        points = [(line["step"], line[name]) for line in steps if line[name] is not None]
        axes.plot([step for step, _ in points], _smoothed([value for _, value in points]), label=label)
    axes.set_xlabel("step")
    axes.set_title("losses, running mean")
    axes.legend()


def _draw_validation(axes: Axes, lines: Sequence[Mapping[str, Any]], protocol: Protocol) -> None:
    tious = protocol.tiou_thresholds
    axes.plot([line["step"] for line in lines], [100 * line["average_map"] for line in lines], marker="o")
    axes.set_xlabel("step")
    axes.set_title(f"validation mAP, mean over tIoU {tious[0]:g}-{tious[-1]:g}, in %")


def _draw_one(axes: Axes, steps: Sequence[Mapping[str, Any]], name: str, title: str) -> None:
    axes.plot([line["step"] for line in steps], [line[name] for line in steps])
    axes.set_xlabel("step")
    axes.set_title(title)


def _smoothed(values: Sequence[float]) -> list[float]:
    out: list[float] = []
    for number, value in enumerate(values):
        keep = min(_SMOOTH, number / (number + 1))
        out.append(value if not out else keep * out[-1] + (1 - keep) * value)
    return out
