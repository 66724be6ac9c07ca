"""Results of the ablations: one JSON line per finished run, and what several seeds of a variant say together.

Needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tallformer_infer.errors import ConfigError

RESULTS = Path(__file__).resolve().parent.parent / "results" / "ablations.jsonl"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All finished runs of a variant."""

    maps: Mapping[int, float]
    """mAP by seed, in [0, 1]."""
    saved_bytes: float
    """Mean of bytes kept for the backward pass."""
    step_s: float
    """Mean of the runs' median seconds per step."""
    machines: frozenset[str]
    """Where they ran."""

    @property
    def mean(self) -> float:
        """Mean mAP."""
        return fmean(self.maps.values())

    @property
    def deviation(self) -> float:
        """Standard deviation of the mAP over seeds; not a number for a single one."""
        return spread(list(self.maps.values()))


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; not a number for fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def read_lines(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Lines of all finished runs; none where there is no file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_measured(path: Path, run: str, is_of: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a run is finished.

    Args:
        path: File of the lines.
        run: Name of the run.
        is_of: Whether a line was measured with the run's settings.

    Raises:
        ConfigError: A run of that name was measured with other settings.
    """
    lines = [line for line in read_lines(path) if line["run"] == run]
    if not all(is_of(line) for line in lines):
        raise ConfigError(
            f"{path}: {run} was measured with other settings; remove its line, or name another file (--results)"
        )
    return bool(lines)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add the line of a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Summary]:
    """Variants that have a finished run, by name."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_variant.setdefault(line["variant"], []).append(line)
    return {
        name: Summary(
            maps={line["seed"]: line["map"] for line in runs},
            saved_bytes=fmean(line["saved_bytes"] for line in runs),
            step_s=fmean(line["step_s"] for line in runs),
            machines=frozenset(f"{line['cpus']} cores, {line['processor']}" for line in runs),
        )
        for name, runs in by_variant.items()
    }
