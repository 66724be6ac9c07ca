"""README tables from committed measurements: python -m benchmarks.tables writes them between their markers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Write every table of the README anew."""
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8")


def fill(text: str) -> str:
    """Text with every `<!-- table: NAME -->` … `<!-- end -->` filled from the committed lines."""
    return re.sub(
        r"<!-- table: (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def detect_table() -> str:
    """Speed of `detect` per recipe, with the time of each stage."""
    lines = read("detect")
    head = "| recipe | × real time | decode | encode | localize | suppress | whole | machine |"
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    for line in lines:
        stages = line["inputs"]["stages_s"]
        cells = [
            line["inputs"]["recipe"],
            f"{line['inputs']['speed_x_real_time']:.1f}",
            *(f"{stages[f'{name}_s']:.2f} s" for name in ("decode", "encode", "localize", "suppress")),
            f"{line['median_s']:.1f} s",
            f"{line['device']}: {line['cpus']} cores, {line['processor']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    repeats = min(line["repeats"] for line in lines)
    note = f"Random weights; {lines[0]['inputs']['video']}; float32; medians of {repeats} runs or more."
    return "\n".join([note, "", *rows])


def suppress_table() -> str:
    """Time of suppression per way and size."""
    rows = [
        "| suppression (NMW), one core | pairs | limit | actions | median | quartiles |",
        "|---|---|---|---|---|---|",
    ]
    for line in read("nms"):
        facts = line["inputs"]
        low, high = line["quartiles_s"]
        rows.append(
            f"| {line['name'].removeprefix('suppress_').removeprefix('nmw_')} | {facts['pairs']:,} "
            f"| {facts.get('limit') or ''} | {facts.get('actions', '')} "
            f"| {line['median_s'] * 1e3:.1f} ms | {low * 1e3:.1f}-{high * 1e3:.1f} ms |"
        )
    return "\n".join(rows)


def read(name: str) -> list[dict[str, Any]]:
    """The committed lines of one benchmark."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


TABLES = {"detect": detect_table, "suppress": suppress_table}


if __name__ == "__main__":
    main()
