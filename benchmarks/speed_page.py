"""The tables of docs/speed.md on decoding, growth and length, from committed lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results"
_SHOWN = {"everything": "tallformer, decoding frames that it never shows"}


def decode_table() -> str:
    """Rate and processor time of every way to read, per size of picture."""
    lines = _read("decode")
    measured = [line for line in lines if line["name"] == "decode"]
    heads = ("way", "to", "source frames per s", "processor time per source frame", "wall time over ours (quartiles)")
    rows = [f"| {' | '.join(heads)} | pixels differ by (mean, most) |", f"|{'---|' * 6}"]
    for line in measured:
        facts = line["inputs"]
        low, middle, high = facts["times_ours"]
        cells = [
            f"{_SHOWN.get(facts['way'], facts['way'])} ({facts['version']})",
            f"{facts['side_px']} px",
            f"{facts['source_frames_per_s']:.0f}",
            f"{facts['cpu_ms_per_source_frame']:.2f} ms",
            f"{middle:.2f} ({low:.2f}-{high:.2f})",
            f"{facts['compared']['mean_levels']:.2f}, {facts['compared']['most_levels']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    first = measured[0]
    missing = [f"{line['way']}: {line['reason']}" for line in lines if line["name"] == "decode_left_out"]
    note = (
        f"{first['inputs']['video']}, to {first['inputs']['sample_fps']} per second; {first['cpus']} cores, "
        f"{first['processor']}; medians of {first['repeats']} rounds; levels of 0 to 255."
    )
    return "\n".join([*rows, "", note, *(f"Left out: {reason}." for reason in missing)])


def growth_table() -> str:
    """Seconds at each number of candidates, ours and the loop's, and how they grow."""
    lines = _read("growth")
    counts = sorted({count for line in lines for count in line["ours_s"]}, key=int)
    heads = [f"{int(count):,}" for count in counts]
    rows = [f"| ms for so many candidates | | {' | '.join(heads)} | exponent |", f"|{'---|' * (len(counts) + 3)}"]
    for line in lines:
        for name, shown in (("ours", "ours"), ("loop", "loop")):
            seconds, exponent = line[f"{name}_s"], line[f"{name}_exponent"]
            cells = [_milliseconds(seconds.get(count)) for count in counts]
            case = line["case"] if name == "ours" else ""
            rows.append(f"| {case} | {shown} | {' | '.join(cells)} | {'' if exponent is None else exponent} |")
    return "\n".join([*rows, "", f"One core, {lines[0]['processor']}; medians of processor time."])


def length_table() -> str:
    """Time and memory of `detect` by the length of the video."""
    lines = [line for line in _read("memory") if line["name"] == "memory"]
    fits = [line for line in _read("memory") if line["name"] == "memory_fit"]
    if not fits:  # lines from before time was measured
        raise FileNotFoundError("memory.jsonl: no line says how time grows")
    rows = ["| length | frames | processor time | per minute | peak memory |", "|---|---|---|---|---|"]
    for line in lines:
        cells = [
            f"{line['minutes']} min",
            f"{line['frames']:,}",
            f"{line['cpu_s']:.1f} s",
            f"{line['cpu_s'] / line['minutes']:.3f} s",
            f"{line['peak_mb']:.0f} MB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    (fit,) = fits
    note = (
        f"Straight line: R² = {fit['r2']:.4f}, exponent {fit['exponent']:.2f}; the longest needs "
        f"{fit['peak_mb_longest_over_shortest']:.2f} times the memory of the shortest. {lines[0]['processor']}."
    )
    return "\n".join([*rows, "", note])


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (_RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
