"""Tables of docs/kinetics.md from committed lines. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]
_CHOSEN = "chosen"
_DEFAULT = (25.0, 64, 64, "square", 224)
_GFLOP_PER_PIXEL = 222.3e9 / (64 * 224 * 224)
"""FLOP of I3D per pixel of each frame, counted by torch's FlopCounterMode."""
_ALARMS = (12, 30, 60)
_HEAD_ROWS = 2
_PARTS = {"report": "held out", "tuning": "chosen on"}
_RUNTIMES = {"cpu": "ONNX Runtime", "openvino": "OpenVINO"}
_LONG_S = 3600
_ONCE = 1.1
"""A film that shows its unique footage once is at most this factor longer, due to borders of clips."""
_NOT_MEASURED = "Not measured yet."


def settings_table(lines: Sequence[Line]) -> str:
    """Recall for each setting of the head, on the tuning film."""
    rows = [
        "| differs from the chosen head in | all 400 classes, 12 / 30 / 60 per h | named classes, 12 / 30 / 60 per h |",
        "|---|---|---|",
    ]
    chosen = [line for line in lines if line["part"] == "tuning" and _key(line) == _DEFAULT]
    for line in chosen:
        what = "nothing" if line["setting"] == _CHOSEN else f"`{line['setting']}`"
        rows.append(f"| {what} | {_recalls(line, 'all')} | {_recalls(line, 'named')} |")
    first = chosen[0]
    hourly = 3600 / first["duration_s"]
    note = f"{first['duration_s']:.0f} s of film, {first['truths']} actions; one false alarm is {hourly:.0f} per hour."
    return "\n".join([*rows, "", note])


def encodings_table(lines: Sequence[Line], part: str) -> str:
    """Recall and threshold for each encoding, with the chosen head."""
    rows = [
        "| frames/s | clip | step from clip to clip | picture | GFLOP per s | film | all 400 classes | named classes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if line["part"] == part and line["setting"] == _CHOSEN:
            fps, clip, hop, crop, height = _key(line)
            width = height if crop == "square" else round(height * 480 / 272)
            cost = _GFLOP_PER_PIXEL * width * height * fps * clip / hop / 1e9
            cells = [
                f"{fps:g}",
                str(clip),
                str(hop),
                f"{width} x {height}",
                f"{cost:.0f}",
                f"{line['duration_s']:.0f} s, {line['truths']}",
                _recalls(line, "all"),
                _recalls(line, "named"),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if len(rows) > _HEAD_ROWS else _NOT_MEASURED


def points_table(lines: Sequence[Line]) -> str:
    """Results of the installed models at their operating points."""
    rows = [
        "| film | model | encoder computes in | operating point | found | false alarms per hour |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        found, truths = (sum(line[name].values()) for name in ("found", "of"))
        cells = [
            _film(line),
            f"`{line['model']}`",
            line["precision"] or "fp32",
            f"`{line['point']}`, {line['classes']} classes",
            f"{found} of {truths}, {100 * line['recall']:.0f} %",
            f"{line['false_alarms_per_h']:.1f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def point_classes_table(lines: Sequence[Line]) -> str:
    """Results by action, in the longest films."""
    longest = [line for line in lines if line["duration_s"] >= _LONG_S]
    kinds = sorted({kind for line in longest for kind in line["of"]})
    rows = [f"| film | model | operating point | {' | '.join(kinds)} |", f"|{'---|' * (len(kinds) + 3)}"]
    for line in longest:
        found = [f"{line['found'].get(kind, 0)}/{line['of'].get(kind, 0)}" for kind in kinds]
        rows.append(f"| {_PARTS[line['part']]} | `{line['model']}` | `{line['point']}` | {' | '.join(found)} |")
    return "\n".join(rows)


def speed_table(lines: Sequence[Line]) -> str:
    """Wall and processor time of the commands on 30 s of video."""
    rows = ["| model | runtime | encoder computes in | threads | wall time | processor time |", f"|{'---|' * 6}"]
    for line in lines:
        inputs = line["inputs"]
        names = [f"`{inputs['model']}`", _RUNTIMES[inputs["runtime"]], inputs["precision"], str(inputs["threads"])]
        rows.append(f"| {' | '.join(names)} | {line['median_s']:.0f} s | {line['median_cpu_s']:.1f} s |")
    return "\n".join(rows)


def _film(line: Line) -> str:
    minutes, unique = line["duration_s"] / 60, line["unique_s"] / 60
    once = f" ({unique:.1f} unique)" if line["duration_s"] > _ONCE * line["unique_s"] else ""
    return f"{_PARTS[line['part']]}, {minutes:.1f} min{once}"


def _key(line: Line) -> tuple[float, int, int, str, int]:
    encoding = line["encoding"]
    names = ("sample_fps", "clip_frames", "hop_frames", "crop", "height_px")
    fps, clip, hop, crop, height = (encoding[name] for name in names)
    return fps, clip, hop, crop, height


def _recalls(line: Line, vocabulary: str) -> str:
    points = [line[f"{vocabulary}_{alarms}"] for alarms in _ALARMS]
    return " / ".join(f"{100 * point['recall']:.0f} %" for point in points)
