"""Plot an evaluation: precision against recall, and the kinds of errors."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from tallformer_infer.errors import ExtraError, OutputError
from tallformer_infer.evaluation.scoring import ErrorKinds, Evaluation
from tallformer_infer.files import write_whole, writing
from tallformer_infer.installing import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERROR_COLOURS = {
    "right": "#2e7d32",
    "duplicate": "#8d6e63",
    "confusion": "#c62828",
    "localization": "#ef6c00",
    "background": "#757575",
    "missed": "#455a64",
}
"""Kinds of errors from top to bottom, each with its colour."""


def save_plot(evaluation: Evaluation, path: Path) -> None:
    """Plot an evaluation as PNG. The file is written atomically.

    Raises:
        ExtraError: matplotlib is not installed.
        OutputError: `path` does not have the suffix `.png`, or cannot be written.
    """
    check_plot(path)
    picture = io.BytesIO()
    _draw(evaluation).savefig(picture, format="png", dpi=150)
    with writing(path):
        write_whole(path, picture.getvalue())


def check_plot(path: Path) -> None:
    """Check that `save_plot` can write to `path`, before the evaluation runs.

    Raises:
        ExtraError: matplotlib is not installed.
        OutputError: `path` does not have the suffix `.png`, or its folder is missing.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: the plot is written as PNG; name it {path.stem}.png")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; create it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise ExtraError(f"--plot needs matplotlib, which is not installed: {install_command('train')}")


def _draw(evaluation: Evaluation) -> Figure:
    # A Figure without pyplot has no global state, needs no display and is freed automatically.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    _draw_curves(left, evaluation)
    _draw_errors(right, evaluation.errors, evaluation.truth_count)
    where = evaluation.protocol if evaluation.subset is None else f"{evaluation.protocol}, {evaluation.subset}"
    figure.suptitle(f"{where}: average mAP {evaluation.average:.2%}", parse_math=False)
    return figure


def _draw_curves(axes: Axes, evaluation: Evaluation) -> None:
    count = len(evaluation.curves)
    for row, (threshold, curve) in enumerate(zip(evaluation.tiou_thresholds, evaluation.curves, strict=True)):
        shade = (0.08, 0.25 + 0.55 * row / max(count - 1, 1), 0.75)
        axes.plot(curve.recall, curve.precision, color=shade, label=f"{threshold:.2f}", linewidth=1.5)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title="all classes together")
    axes.grid(alpha=0.3)
    axes.legend(title="tIoU", fontsize="small")


def _draw_errors(axes: Axes, errors: ErrorKinds, truth_count: int) -> None:
    counts = {kind: getattr(errors, kind) for kind in ERROR_COLOURS}
    bars = axes.barh(list(counts), list(counts.values()), color=list(ERROR_COLOURS.values()))
    shares = [count / (truth_count if kind == "missed" else max(errors.looked_at, 1)) for kind, count in counts.items()]
    axes.bar_label(
        bars, labels=[f" {n} ({share:.0%})" for n, share in zip(counts.values(), shares, strict=True)], padding=2
    )
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlabel("predictions (missed: truths)")
    axes.set_title(f"{errors.described}\nat tIoU {errors.tiou_threshold:g}", fontsize="medium")
