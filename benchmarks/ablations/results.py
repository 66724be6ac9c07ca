"""Results of the ablations: one JSON line per finished run, and summaries over seeds.

Needs no torch.

# Note [one machine per table]
The encoders that runs start from are trained on the same machine, and differ on another processor due to rounding.
Times differ more. So runs of different machines are never compared: a table shows those of the machine with most of its
runs, and the later one of two lines for one run. A line below it gives the results of other machines, from their own
starts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.measure import RESULTS, read_lines
from tallformer_infer.errors import ConfigError

RESULTS_FILE = RESULTS / "ablations.jsonl"


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
    """Machines of the runs."""

    @property
    def mean(self) -> float:
        """Mean mAP."""
        return fmean(self.maps.values())

    @property
    def deviation(self) -> float:
        """Standard deviation of the mAP over seeds; NaN for a single one."""
        return spread(list(self.maps.values()))


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; NaN for fewer than two values."""
    return stdev(values) if len(values) > 1 else math.nan


def finished_runs(path: Path = RESULTS_FILE) -> list[dict[str, Any]]:
    """Lines of all finished runs; none if there is no file yet."""
    return read_lines(path) if path.exists() else []


def is_measured(path: Path, run: str, settings_sha256: str, machine: str) -> bool:
    """Whether a run is finished on a machine.

    Args:
        path: File of the lines.
        run: Name of the run.
        settings_sha256: Hash of everything that affects its result.
        machine: From `machine_of`; lines of other machines do not count, see Note [one machine per table].

    Raises:
        ConfigError: A run of that name was measured with other settings.
    """
    lines = [line for line in finished_runs(path) if line["run"] == run and machine_of(line) == machine]
    if any(line["settings_sha256"] != settings_sha256 for line in lines):
        raise ConfigError(
            f"{path}: {run} was measured with other settings; remove its line, or name another file (--results)"
        )
    return bool(lines)


def machine_of(line: Mapping[str, Any]) -> str:
    """Name of the machine of a line."""
    return f"{line['cpus']} cores, {line['processor']}"


def by_machine(lines: Sequence[Mapping[str, Any]], variants: Collection[str]) -> list[list[Mapping[str, Any]]]:
    """Lines of some variants, grouped by machine, one per run; the machine with most runs comes first.

    See Note [one machine per table].

    Args:
        lines: In the order of measurement; of machines with equally many runs the last one comes first.
        variants: Their names.
    """
    found: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    for line in lines:
        if line["variant"] in variants:
            runs = found.pop(machine_of(line), {})
            found[machine_of(line)] = {**runs, (line["variant"], line["seed"]): line}
    newest_first = [list(runs.values()) for runs in reversed(list(found.values()))]
    return sorted(newest_first, key=len, reverse=True)


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Summary]:
    """Variants that have a finished run, by name; one line per run."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_variant.setdefault(line["variant"], []).append(line)
    return {
        name: Summary(
            maps={line["seed"]: line["map"] for line in runs},
            saved_bytes=fmean(line["saved_bytes"] for line in runs),
            step_s=fmean(line["step_s"] for line in runs),
            machines=frozenset(machine_of(line) for line in runs),
        )
        for name, runs in by_variant.items()
    }
