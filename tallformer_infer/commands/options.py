"""Options that several commands share. Nothing heavy is imported, so that `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer import devices

RUN, SELECT, PROGRESS = "Model and device", "Which actions to keep", "Progress output"
"""Headings of `--help`."""

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="BUNDLE",
        help="Model: a folder, a .zip, or a name listed by `tallformer models`.",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        show_default=False,
        help="Folder, .zip, or a name listed by `tallformer models` (default: the default model).",
    ),
]
Device = Annotated[
    devices.Device,
    typer.Option(
        metavar="NAME",
        help="auto: CUDA where it works, else the fastest way on this CPU. Or cpu, openvino, openvino:GPU, "
        "openvino:NPU, cuda, onnx-tensorrt, or tensorrt (engines of `tallformer engine build`).",
        rich_help_panel=RUN,
    ),
]
Precision = Annotated[
    devices.RunPrecision | None,
    typer.Option(
        metavar="NAME",
        help="Encoder precision for auto and openvino: fp32, or bf16 (default: bf16 only where the CPU has it and the "
        "actions stay the same).",
        rich_help_panel=RUN,
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPU threads (default: one per core).", rich_help_panel=RUN)
]
Rates = Annotated[
    str | None,
    typer.Option(
        metavar="R,R",
        help="Frame rates to search at, such as 15,5,1.67: the model's own, and that divided by whole numbers. Lower "
        "rates find longer actions at little cost.",
        rich_help_panel=RUN,
    ),
]
ClassScores = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Class scores per video, in place of the model's own classifier (models of whole videos): a CUHK score "
        "file, or labels.",
        rich_help_panel=RUN,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="X", help="Drop actions with a lower score.", rich_help_panel=SELECT),
]
OperatingPoint = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Operating point of a calibrated model; all: every action; none: every action, uncalibrated scores.",
        rich_help_panel=SELECT,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Keep only the N best actions of each video.", rich_help_panel=SELECT),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        help="Keep only these classes, or groups such as @sports (`tallformer info` lists them). Repeatable.",
        rich_help_panel=SELECT,
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Keep only the classes and @groups in this file, one per line.", rich_help_panel=SELECT
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=PROGRESS)]
JsonLogs = Annotated[
    bool, typer.Option("--json-logs", help="Log as JSON, one object per line.", rich_help_panel=PROGRESS)
]
