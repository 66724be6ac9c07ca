"""Tables of docs/ablations.md: results, and whether their order is that of the paper. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.ablations.groups import Group, Row
from benchmarks.ablations.results import Summary, spread

NOT_MEASURED = "not measured yet"
MIB = 2**20


def group_page(group: Group, found: Mapping[str, Summary], elsewhere: Sequence[Mapping[str, Summary]] = ()) -> str:
    """Table of a group, and a line for each pair that the paper orders.

    Args:
        group: The group.
        found: Results by variant.
        elsewhere: Results of other machines.
    """
    head = "| setting | mAP (tIoU 0.3-0.7) | seeds | kept for backward | time per step | the paper |"
    rows = [head, "|---|---|---|---|---|---|", *(_row(row, found.get(row.variant)) for row in group.rows)]
    machines = sorted({name for row in group.rows if row.variant in found for name in found[row.variant].machines})
    if machines:
        rows += ["", f"Measured with {'; '.join(machines)}."]
    rows += [_elsewhere(group, other) for other in elsewhere if len(other) > 1]
    labels = {row.variant: row.label for row in group.rows}
    pairs = [_pair(pair, labels, found) for pair in group.order] or ["The paper orders none of these."]
    compared = [_comparison(pair, labels, found) for pair in group.compared]
    return "\n".join([*rows, "", *pairs, *([""] if compared else []), *compared])


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


def _elsewhere(group: Group, found: Mapping[str, Summary]) -> str:
    """mAP of all settings measured on another machine."""
    measured = [(row, found[row.variant]) for row in group.rows if row.variant in found]
    (machine,) = {name for _, summary in measured for name in summary.machines}
    values = "; ".join(f"{row.label} {percent(summary)} ({len(summary.maps)})" for row, summary in measured)
    return f"From the start of {machine}, seeds in brackets: {values}."


def _pair(pair: tuple[str, str], labels: Mapping[str, str], found: Mapping[str, Summary]) -> str:
    """Whether two variants are in the paper's order, for seeds that both have."""
    higher, lower = pair
    claim = f"- {labels[higher]} above {labels[lower]}: "
    gains = _gains(pair, found)
    return claim + (f"{_verdict(gains)}; {_points(gains)}" if gains else NOT_MEASURED)


def _comparison(pair: tuple[str, str], labels: Mapping[str, str], found: Mapping[str, Summary]) -> str:
    """Difference between two variants, for seeds that both have."""
    one, other = pair
    gains = _gains(pair, found)
    return f"- {labels[one]} against {labels[other]}: " + (_points(gains) if gains else NOT_MEASURED)


def _gains(pair: tuple[str, str], found: Mapping[str, Summary]) -> list[float]:
    """Difference of mAP, first minus second, by seed."""
    one, other = (found[name].maps if name in found else {} for name in pair)
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def _verdict(gains: list[float]) -> str:
    if all(gain > 0 for gain in gains):
        return "the paper's order"
    return "not decided" if any(gain > 0 for gain in gains) else "**not the paper's order**"


def _points(gains: list[float]) -> str:
    mean, wins = f"{100 * sum(gains) / len(gains):+.1f}", sum(gain > 0 for gain in gains)
    points = f"{mean} ± {100 * spread(gains):.1f} points" if len(gains) > 1 else f"{mean} points"
    return f"{points}, higher with {wins} of {len(gains)} seeds"
