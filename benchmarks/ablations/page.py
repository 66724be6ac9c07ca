"""Tables of docs/ablations.md: what was measured, and whether its order is the paper's. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.ablations.groups import Group, Row
from benchmarks.ablations.results import Summary, spread

NOT_MEASURED = "not measured yet"
MIB = 2**20


def group_page(group: Group, found: Mapping[str, Summary]) -> str:
    """Table of a group, and a line for each pair that the paper orders.

    Args:
        group: Its settings.
        found: What was measured, by variant.
    """
    head = "| setting | mAP (tIoU 0.3-0.7) | seeds | kept for backward | time per step | the paper |"
    rows = [head, "|---|---|---|---|---|---|", *(_row(row, found.get(row.variant)) for row in group.rows)]
    machines = sorted({name for row in group.rows if row.variant in found for name in found[row.variant].machines})
    if machines:
        rows += ["", f"Measured with {'; '.join(machines)}."]
    labels = {row.variant: row.label for row in group.rows}
    pairs = [_pair(pair, labels, found) for pair in group.order]
    return "\n".join([*rows, "", *(pairs or ["The paper orders none of these."])])


def percent(summary: Summary) -> str:
    """Mean and standard deviation of the mAP, in percent."""
    mean = f"{100 * summary.mean:.1f}"
    return f"{mean} ± {100 * summary.deviation:.1f} %" if len(summary.maps) > 1 else f"{mean} %"


def _row(row: Row, summary: Summary | None) -> str:
    if summary is None:
        cells = [row.label, NOT_MEASURED, "0", "", "", row.paper]
    else:
        cells = [
            row.label,
            percent(summary),
            str(len(summary.maps)),
            f"{summary.saved_bytes / MIB:.1f} MiB",
            f"{1e3 * summary.step_s:.0f} ms",
            row.paper,
        ]
    return f"| {' | '.join(cells)} |"


def _pair(pair: tuple[str, str], labels: Mapping[str, str], found: Mapping[str, Summary]) -> str:
    """Whether two variants come in the paper's order, from the seeds that both have."""
    higher, lower = pair
    claim = f"- {labels[higher]} above {labels[lower]}: "
    seeds = sorted(found[higher].maps.keys() & found[lower].maps.keys()) if {higher, lower} <= found.keys() else []
    if not seeds:
        return claim + NOT_MEASURED
    gains = [found[higher].maps[seed] - found[lower].maps[seed] for seed in seeds]
    mean, wins = sum(gains) / len(gains), sum(gain > 0 for gain in gains)
    return claim + f"{_verdict(gains)}; {_points(mean, gains)}, higher with {wins} of {len(gains)} seeds"


def _verdict(gains: list[float]) -> str:
    if all(gain > 0 for gain in gains):
        return "the paper's order"
    return "not decided" if any(gain > 0 for gain in gains) else "**not the paper's order**"


def _points(mean: float, gains: list[float]) -> str:
    mean_points = f"{100 * mean:+.1f}"
    return f"{mean_points} ± {100 * spread(gains):.1f} points" if len(gains) > 1 else f"{mean_points} points"
