"""Progress of a run on stderr, as lines and bars or as JSON lines; its record on disk, and the picture of its curves.

The record is always one JSON line per step, validation and checkpoint; TensorBoard files are added where it is
installed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tallformer_infer.console import write_event
from tallformer_infer.errors import OutputError
from tallformer_infer.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tallformer_infer.evaluation import Protocol as EvaluationProtocol

_EVENT_EVERY_S = 1.0

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

CURVES_FILE = "curves.png"
_SMOOTH = 0.95


class Advance(Protocol):
    """Told how far something is."""

    def __call__(self, done: int, note: str = "", /, **facts: Any) -> None:
        """Take what was done more, a note to show behind the bar, and the same as `facts` for programs."""


class Display:
    """Lines and progress bars for people, or one JSON object per line for programs."""

    def __init__(self, *, is_quiet: bool, as_json: bool = False) -> None:
        """Say nothing yet.

        Args:
            is_quiet: Never say anything; errors do not come this way.
            as_json: Write `time`, `event` and its facts instead of text.
        """
        self._is_quiet = is_quiet
        self._as_json = as_json
        self._console = Console(stderr=True, quiet=is_quiet)

    def say(self, text: str, *, event: str = "note", **facts: Any) -> None:
        """Print one line; programs get it as the `message` of an event with `facts`."""
        if self._as_json:
            self._write(event, message=text, **facts)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """Show a bar; programs get events `progress`, at most one per second and one at the end."""
        if self._as_json:
            yield self._event_writer(what, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, transient=False) as progress:
            task = progress.add_task(what, total=total, note="")

            def advance(done: int, note: str = "", /, **_facts: Any) -> None:
                progress.update(task, advance=done, note=note)

            yield advance

    def _event_writer(self, what: str, total: int) -> Advance:
        so_far, next_s = 0, 0.0

        def advance(done: int, _note: str = "", /, **facts: Any) -> None:
            nonlocal so_far, next_s
            so_far = min(so_far + done, total)
            if time.monotonic() >= next_s or so_far == total:
                next_s = time.monotonic() + _EVENT_EVERY_S
                self._write("progress", what=what, done=so_far, total=total, **facts)

        return advance

    def _write(self, event: str, **facts: Any) -> None:
        if not self._is_quiet:
            write_event(event, **{name: finite_or_none(value) for name, value in facts.items()})


class Metrics:
    """Appends to the record; lines of steps that a resumed run does again are taken out first."""

    def __init__(self, run: Path, *, steps_done: int) -> None:
        """Go on with the record of the folder `run` behind step `steps_done`.

        Raises:
            OutputError: It cannot be written.
        """
        self.path = run / METRICS_FILE
        try:
            kept = [json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= steps_done]
            write_whole(self.path, "".join(kept).encode())
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        self._board = _tensorboard(run)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line.

        Args:
            kind: `memory`, `step`, `encoder_step` or `validation`.
            step: Steps done.
            values: JSON values; numbers that are not finite are written as null.
        """
        line = {"kind": kind, "step": step, **{name: finite_or_none(value) for name, value in values.items()}}
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's record; a line that a killed process left unfinished is none."""
    path = run / METRICS_FILE
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines


def finite_or_none(value: Any) -> Any:
    """A JSON value: None for a number that JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tensorboard(run: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (only where it is installed)

    return SummaryWriter(str(run / TENSORBOARD_FOLDER))


def draw_curves(run: Path, lines: Sequence[Mapping[str, Any]], protocol: EvaluationProtocol) -> Path | None:
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


def _draw_validation(axes: Axes, lines: Sequence[Mapping[str, Any]], protocol: EvaluationProtocol) -> None:
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
