"""The record of a run: one JSON line per step, validation and checkpoint, always; TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tallformer_infer.errors import OutputError
from tallformer_infer.files import write_whole

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


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
