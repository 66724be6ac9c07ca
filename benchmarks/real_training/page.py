"""Tables of docs/real.md from committed lines. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Any

Line = dict[str, Any]
_TITLES = {
    "anchor": "anchor head",
    "anchor-tcm": "anchor head with TCM",
    "anchor-tcm-quiet": "anchor head with a TCM that begins by passing on what it gets",
    "points": "point head (ActionFormer)",
    "refined": "refined head (one class for a whole window)",
    "linear": "linear layer per step, segments by contrast",
    "contrast": "contrast head of Kinetics-400, not trained",
    "shots": "whole shots with the right class (no model: what cuts alone allow)",
}
LONG_TITLES = {
    "anchor": "without TCM",
    "anchor-warm": "without TCM, warm-up of 500 steps",
    "anchor-tcm": "with TCM",
    "anchor-tcm-quiet": "with a TCM that begins by passing on what it gets",
    "anchor-tcm-slow": "with TCM, a third of the learning rate",
    "anchor-tcm-warm": "with TCM, warm-up of 500 steps",
}
"""Titles of the variants in the long runs."""
LONG_STEPS = (250, 500, 750, 1000, 1500, 2000, 2500)
_PARTS = {"first": "head only", "frozen": "… continued, head only", "end-to-end": "… continued, end to end"}
_ENOUGH_STEPS = 400
_ENCODERS = {"kinetics400": "", "demo": ", encoder of generated video"}
_SPLITS = {"both": "(a) both places, 5 folds", "across": "(b) parking lot to lawn"}


def heads_table(lines: Sequence[Line], *, is_short: bool = False) -> str:
    """mAP of each head in both splits, over seeds; `is_short`: those of short runs only."""
    lines = [line for line in lines if (0 < line["steps"] < _ENOUGH_STEPS) == is_short]
    rows = [
        "| | split | seeds | 0.3 | 0.4 | 0.5 | 0.6 | 0.7 | mean | steps | training, processor time |",
        f"|{'---|' * 11}",
    ]
    for name, title, runs in _groups(lines):
        cells = [name, title, str(len(runs)), *_maps(runs), _steps(runs), _seconds(runs)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def classes_table(lines: Sequence[Line]) -> str:
    """Average precision of each class at tIoU 0.5, mean over seeds."""
    trained = [line for line in lines if line["ap_per_class_0.5"] and not 0 < line["steps"] < _ENOUGH_STEPS]
    kinds = sorted({kind for line in trained for kind in line["ap_per_class_0.5"]})
    rows = [f"| | split | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
    for name, title, runs in _groups(trained):
        values = [mean(line["ap_per_class_0.5"].get(kind, 0.0) for line in runs) for kind in kinds]
        rows.append(f"| {name} | {title} | {' | '.join(f'{value:.0f}' for value in values)} |")
    return "\n".join(rows)


def curves_table(lines: Sequence[Line], steps: Sequence[int] = LONG_STEPS) -> str:
    """Loss and mAP during long runs, mean over seeds."""
    grouped: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        grouped[line["variant"]].append(line)
    rows = [
        f"| loss, mAP at tIoU 0.5 after steps | seeds | {' | '.join(map(str, steps))} |",
        f"|{'---|' * (len(steps) + 2)}",
    ]
    for variant, name in LONG_TITLES.items():
        if runs := grouped.get(variant):
            cells = [_at(runs, step) for step in steps]
            rows.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def beginning_table(lines: Sequence[Line]) -> str:
    """What a TCM with random weights adds to its input."""
    rows = ["| seed | steps differ by | the TCM adds | of which differs from step to step |", "|---|---|---|---|"]
    rows += [f"| {one['seed']} | {one['steps_differ']} | {one['added']} | {one['added_differs']} |" for one in lines]
    return "\n".join(rows)


def end_to_end_table(lines: Sequence[Line]) -> str:
    """mAP after the first part of training, and after the second with a frozen encoder and end to end."""
    rows = ["| part | r | steps | 0.3 | 0.4 | 0.5 | 0.6 | 0.7 | mean | training, processor time |", f"|{'---|' * 10}"]
    grouped: dict[tuple[str, float, int], list[Line]] = defaultdict(list)
    for line in lines:
        if line["part"] != "cost":
            grouped[line["part"], line["ratio"], line["steps"]].append(line)
    for (part, ratio, _), runs in grouped.items():
        cells = [_PARTS[part], f"{ratio:g}", _steps(runs), *_maps(runs), _seconds(runs)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def stale_table(lines: Sequence[Line]) -> str:
    """mAP at tIoU 0.5 with a fresh and a stale memory."""
    grouped: dict[str, dict[float, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        grouped[line["variant"]][line["fresh_share"]].append(line)
    shares = sorted({line["fresh_share"] for line in lines}, reverse=True)
    heads = [f"{share:.0%} of the clips fresh" for share in shares]
    rows = [f"| mAP at tIoU 0.5 | seeds | {' | '.join(heads)} |", f"|{'---|' * (len(shares) + 2)}"]
    for variant, name in LONG_TITLES.items():
        if by_share := grouped.get(variant):
            cells = [_spread([line["map"][2] for line in by_share[share]]) for share in shares]
            rows.append(f"| {name} | {len(by_share[shares[0]])} | {' | '.join(cells)} |")
    return "\n".join(rows)


def cost_table(lines: Sequence[Line]) -> str:
    """Processor time of a step that also trains the encoder."""
    rows = ["| r | clips per step | encoder computes in | processor time per step |", "|---|---|---|---|"]
    for line in lines:
        if line["part"] == "cost":
            clips = f"{line['clips']} of {line['clip_frames']} frames, {line['side_px']} px"
            rows.append(f"| {line['ratio']} | {clips} | {line['precision']} | {line['step_cpu_s']:.2f} s |")
    return "\n".join(rows)


def _at(runs: Sequence[Line], step: int) -> str:
    found = [row for run in runs for row in run["curve"] if row["step"] == step]
    if not found:
        return ""
    return f"{mean(row['loss'] for row in found):.3f}, {_spread([row['map'][2] for row in found])}"


def _groups(lines: Sequence[Line]) -> Iterator[tuple[str, str, list[Line]]]:
    """Name, split and runs of each row."""
    grouped: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        grouped[line["split"], line["encoder"], line["variant"]].append(line)
    for split, title in _SPLITS.items():
        for encoder, addition in _ENCODERS.items():
            for variant, name in _TITLES.items():
                if runs := grouped.get((split, encoder, variant)):
                    yield f"{name}{addition}", title, runs


def _maps(runs: Sequence[Line]) -> list[str]:
    columns = [*zip(*(run["map"] for run in runs), strict=True), tuple(run["average_map"] for run in runs)]
    return [_spread(values) for values in columns]


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{mean(values):.1f}"


def _steps(runs: Sequence[Line]) -> str:
    return f"{mean(run['steps'] for run in runs):.0f}" if runs[0]["steps"] else ""


def _seconds(runs: Sequence[Line]) -> str:
    return f"{mean(run['train_cpu_s'] for run in runs):.0f} s" if runs[0]["train_s"] else ""
