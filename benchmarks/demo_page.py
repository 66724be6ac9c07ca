"""The tables of docs/demo.md and docs/anet-demo.md, from the committed line of each training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tallformer_infer.evaluation import Protocol, protocol_named

_RESULTS = Path(__file__).parent / "results"


def demo_table() -> str:
    """What the bundled model finds in videos that it has not seen, and what it took to train it."""
    return demo_rows(_read("train_demo"), protocol_named("thumos14"))


def anet_demo_table() -> str:
    """The same of the small model of whole videos."""
    return demo_rows(_read("train_anet_demo"), protocol_named("activitynet"))


def demo_rows(line: dict[str, Any], protocol: Protocol) -> str:
    """mAP per overlap and class of one training of a small model, and its time."""
    test, tious = line["test"], protocol.tiou_thresholds
    best = sorted(test["average_precision_per_class"].items(), key=lambda entry: -entry[1])
    cores = f"{line['cpus']} cores" if line.get("cores", 2) > 1 else "1 core"
    rows = [
        f"| tIoU | {' | '.join(f'{tiou:g}' for tiou in tious)} | mean |",
        f"|---|{'---|' * (len(tious) + 1)}",
        f"| mAP % | {' | '.join(f'{100 * value:.1f}' for value in (*test['map_per_tiou'], test['average_map']))} |",
        "",
        f"| class | {' | '.join(name for name, _ in best)} |",
        f"|---|{'---|' * len(best)}",
        f"| AP %, mean over tIoU | {' | '.join(f'{100 * value:.1f}' for _, value in best)} |",
        "",
        f"{test['truth']} actions of generated videos with a seed, looks and places of their own. Trained in "
        f"{line['minutes_together']:.0f} minutes on {cores} ({line['processor']}): "
        f"{', '.join(f'{name} {minutes:.1f}' for name, minutes in line['minutes'].items())}.".replace("_", " "),
    ]
    return "\n".join(rows)


def _read(name: str) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((_RESULTS / f"{name}.jsonl").read_text(encoding="utf-8"))
    return line
