"""The tables of docs/speed.md on AFSD, from the committed lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.afsd.workload import (
    ACTIVITYNET,
    AFSD,
    AFSD_BF16,
    CLS_FLOW,
    FLOW,
    GMAC,
    MATRIX,
    PAPER_SCOPE,
    ROWS,
    SCOPES,
    SYSTEMS,
    TARGETS,
    Stage,
    rival,
    stages,
)
from benchmarks.measure import read_results

_DRAWS = 2000

Draws = NDArray[np.float64]


class Totals:
    """Seconds of stages and of their sums, with bootstrap draws from the samples."""

    def __init__(self, lines: list[dict[str, Any]], workload: str) -> None:
        self._tasks = {line["task"]: line for line in lines if line["name"] == "afsd_task"}
        self._workload = workload
        self._stages = stages(workload)
        # One generator for all tasks of a table; the same task gets the same draws in every cell.
        generator = np.random.default_rng(0)
        self._draws = {name: _draws(line, generator) for name, line in sorted(self._tasks.items())}

    def systems(self) -> list[str]:
        """Ours of which all stages were measured; bfloat16 only on CPUs that compute in it."""
        missing = {stage.system for stage in self._stages if stage.task not in self._tasks}
        return [name for name in SYSTEMS if name not in missing]

    def stage(self, system: str, row: str) -> tuple[float, Draws] | None:
        """Seconds of one video, and draws of them; None if the system has no such stage."""
        found = [stage for stage in self._stages if (stage.system, stage.row) == (system, row)]
        if not found:
            return None
        return self._once(found[0]) * found[0].units, self._draws[found[0].task] * found[0].units

    def scope(self, system: str, scope: str) -> tuple[float, Draws]:
        """Seconds of all rows of a total, and draws of them."""
        parts = [part for row in SCOPES[scope] if (part := self.stage(system, row)) is not None]
        return sum(value for value, _ in parts), np.sum([draws for _, draws in parts], axis=0)

    def on_paper(self, system: str, scope: str) -> float:
        """Estimate written down before measuring, in seconds; 0: none."""
        wanted = [stage for stage in self._stages if stage.system == system and stage.row in SCOPES[scope]]
        return sum(stage.on_paper_s or 0 for stage in wanted)

    def ratio(self, system: str, scope: str) -> tuple[float, float, float]:
        """Time of AFSD in the same runtime over that of a system, and the range of 95 % of the draws."""
        (afsd, afsd_draws), (ours, our_draws) = self.scope(rival(system), scope), self.scope(system, scope)
        low, high = np.percentile(afsd_draws / our_draws, [2.5, 97.5])
        return afsd / ours, float(low), float(high)

    def scopes(self) -> list[str]:
        """Totals of this data set."""
        rows = {stage.row for stage in self._stages}
        return [scope for scope in SCOPES if set(SCOPES[scope]) <= rows]

    def _once(self, stage: Stage) -> float:
        line = self._tasks[stage.task]
        return float(_centre(line)(line["samples_s"]))


def stage_table(workload: str) -> str:
    """Seconds per video of each stage, and their totals."""
    totals = Totals(read_results("afsd"), workload)
    systems = [AFSD, *(name for name in totals.systems() if rival(name) == AFSD)]
    if reduced := [name for name in totals.systems() if rival(name) == AFSD_BF16]:
        systems += [AFSD_BF16, *reduced]
    rows = [f"| s per {workload} video | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for row in ROWS:
        cells = [totals.stage(system, row) for system in systems]
        if any(cells):
            name = "RGB net, or encoder" if row == "RGB net" else row
            rows.append(f"| {name} | {' | '.join(_seconds(cell) for cell in cells)} |")
    for scope in totals.scopes():
        cells = [f"**{totals.scope(system, scope)[0]:.3g}**" for system in systems]
        rows.append(f"| **{scope}** | {' | '.join(cells)} |")
        expected = [f"{paper:.3g}" if (paper := totals.on_paper(system, scope)) else "" for system in systems]
        rows.append(f"| predicted on paper | {' | '.join(expected)} |")
    return "\n".join([*rows, "", _sample_note(workload)])


def ratio_table(workload: str) -> str:
    """Time of AFSD over ours, by scope."""
    totals = Totals(read_results("afsd"), workload)
    systems = totals.systems()
    rows = [f"| AFSD / TALLFormer, {workload} | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for scope in totals.scopes():
        cells = []
        for system in systems:
            ratio, low, high = totals.ratio(system, scope)
            cells.append(f"**{ratio:.2g}** ({low:.2g}-{high:.2g})")
        rows.append(f"| {scope} | {' | '.join(cells)} |")
        papers = [(totals.on_paper(AFSD, scope), totals.on_paper(system, scope)) for system in systems]
        cells = [f"{afsd / ours:.2g}" if ours else "" for afsd, ours in papers]
        rows.append(f"| predicted on paper | {' | '.join(cells)} |")
    return "\n".join(rows)


def target_table() -> str:
    """Target ratios and results."""
    totals = Totals(read_results("afsd"), ACTIVITYNET)
    rows = ["| AFSD / TALLFormer, ActivityNet | wanted | measured | met |", "|---|---|---|---|"]
    for (scope, system), wanted in TARGETS.items():
        ratio, low, high = totals.ratio(system, scope)
        met = "yes" if ratio >= wanted else "no"
        rows.append(f"| {system}, {scope} | ≥ {wanted:g} | {ratio:.3g} ({low:.2g}-{high:.2g}) | {met} |")
    return "\n".join(rows)


def share_table() -> str:
    """Share of the machine's rate of matrix products that each network reaches."""
    tasks = {line["task"]: line for line in read_results("afsd") if line["name"] == "afsd_task"}
    rate = 1 / float(np.median(tasks[MATRIX]["samples_s"]))
    rows = ["| network | GMAC | s | GFLOP/s | of the matrix rate |", "|---|---|---|---|---|"]
    for name, gmac in GMAC.items():
        seconds = float(np.median(tasks[name]["samples_s"]))
        rows.append(
            f"| {name.removeprefix('encode ')} | {gmac:.1f} | {seconds:.3g} | {2 * gmac / seconds:.0f} "
            f"| {2 * gmac / seconds / rate:.0%} |"
        )
    note = f"Matrix product of torch, float32, the same threads, in the same rounds: {rate:.0f} GFLOP/s."
    return "\n".join([*rows, "", note])


def full_table() -> str:
    """One short video in full, compared with the sum of its sample."""
    afsd, ours = [line for line in read_results("afsd") if line["name"] == "afsd_full"]
    rows = ["| AFSD's stage | in full | from a sample |", "|---|---|---|"]
    sampled = afsd["sampled_stages_s"]
    for name, seconds in afsd["stages_s"].items():
        expected = f"{sampled[name]:.3g} s" if name in sampled else ""
        rows.append(f"| {name} | {seconds:.3g} s | {expected} |")
    whole, total = afsd["whole_s"], afsd["sampled_s"]
    rows.append(f"| **file to actions** | **{whole:.1f} s** | **{total:.1f} s ({total / whole - 1:+.0%})** |")
    facts = afsd["inputs"]
    note = (
        f"`{facts['video']}`: {facts['frames']} frames, {facts['pairs']} pairs, {facts['snippets']} snippets. "
        f"`tallformer detect` with {ours['inputs']['system']} takes {ours['whole_s']:.2f} s for it, file to actions "
        f"({_detect_s(ours['inputs']['frames']):.2f} s from the sample): **{whole / ours['whole_s']:.1f} times** as "
        f"fast. Short videos favour it: beyond their end it encodes one empty clip, once, while AFSD's networks "
        f"always see 768 frames."
    )
    return "\n".join([*rows, "", note])


def _detect_s(frames: int) -> float:
    """Seconds of `detect` with Swin-T in int8 from the samples: clips two at a time, and an empty one."""
    seconds = {
        line["task"]: float(np.median(line["samples_s"]))
        for line in read_results("afsd")
        if line["name"] == "afsd_task"
    }
    clips = -(-frames // 32) + 1
    return (clips + clips % 2) * seconds["encode Swin-T int8"] + seconds["localize Swin-T ActivityNet"]


def _sample_note(workload: str) -> str:
    lines = {line["task"]: line for line in read_results("afsd") if line["name"] == "afsd_task"}
    line = lines[MATRIX]
    flows = [stage for stage in stages(workload) if stage.system == AFSD and stage.row in (FLOW, CLS_FLOW)]
    parts = []
    for stage in flows:
        each = np.array(lines[stage.task]["samples_s"]) * line["inputs"]["threads"] * 1e3
        parts.append(
            f"{stage.row}: {len(each)} pairs of {stage.units:,.0f}, {each.mean():.0f} ms of one core on average "
            f"({each.min():.0f} to {each.max():.0f})"
        )
    paper = f' The paper\'s 11.74 s agree best with "{PAPER_SCOPE}".' if workload == ACTIVITYNET else ""
    return (
        f"{line['inputs']['threads']} threads, {line['processor']}, {line['inputs']['rounds']} rounds in turn; in "
        f"brackets 95 % of draws from the sample. {'; '.join(parts)}.{paper}"
    )


def _draws(line: dict[str, Any], generator: np.random.Generator) -> Draws:
    samples = np.array(line["samples_s"])
    rows = generator.integers(0, len(samples), (_DRAWS, len(samples)))
    return np.asarray(_centre(line)(samples[rows], axis=1), np.float64)


def _centre(line: dict[str, Any]) -> Any:
    return np.mean if line["centre"] == "mean" else np.median


def _seconds(cell: tuple[float, Draws] | None) -> str:
    if cell is None:
        return ""
    low, high = np.percentile(cell[1], [2.5, 97.5])
    return f"{cell[0]:.3g} ({low:.3g}-{high:.3g})"
