"""The record of a run on disk, and the picture of its curves.

The record is one JSON line per step and validation; where TensorBoard is installed, its files are written too.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tallformer_infer.console import finite
from tallformer_infer.files import write_whole, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tallformer_infer.evaluation import Protocol

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

CURVES_FILE = "curves.png"
_SMOOTH = 0.95


class Metrics:
    """Writes the record; lines of steps that a resumed run repeats are removed first."""

    def __init__(self, run: Path, *, steps_done: int) -> None:
        """Continue the record in the folder `run` after step `steps_done`.

        Raises:
            OutputError: It cannot be written.
        """
        self.path = run / METRICS_FILE
        with writing(self.path):
            kept = [json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= steps_done]
            write_whole(self.path, "".join(kept).encode())
            self._file = self.path.open("a", encoding="utf-8")
        self._board = _tensorboard(run)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line.

        Args:
            kind: `memory`, `step`, `encoder_step` or `validation`.
            step: Steps done.
            values: JSON values; numbers that are not finite are written as null.
        """
        line = {"kind": kind, "step": step, **finite(values)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete lines of a run's record; a line that a killed process did not finish is skipped."""
    path = run / METRICS_FILE
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines


def _tensorboard(run: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (optional)

    return SummaryWriter(str(run / TENSORBOARD_FOLDER))


def draw_curves(run: Path, lines: Sequence[Mapping[str, Any]], protocol: Protocol) -> Path | None:
    """Draw the record of a run into `curves.png`.

    Args:
        run: Its folder.
        lines: From `read_metrics`.
        protocol: Rules of its validations.

    Returns:
        The picture; None if matplotlib is not installed or nothing was recorded.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    if importlib.util.find_spec("matplotlib") is None or not steps:
        return None
    from matplotlib.figure import Figure  # noqa: PLC0415 (optional)

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_losses(axes[0][0], steps)
    _draw_validation(axes[0][1], [line for line in lines if line["kind"] == "validation"], protocol)
    _draw_one(axes[1][0], steps, "learning_rate", "learning rate")
    _draw_one(axes[1][1], steps, "memory_age_mean_steps", "mean age of remembered features, in steps")
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
