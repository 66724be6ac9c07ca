"""Results made by hand, for tests of what is done with results."""

from __future__ import annotations

import dataclasses
from typing import Any

from tallformer_infer.structures import Action, Provenance, Result, StageSeconds, VideoInfo

PROVENANCE = Provenance(
    tool_version="0.1.0",
    model_name="sample",
    model_trained=True,
    bundle_sha256="ab" * 32,
    recipe_name="tiny",
    runtime="onnxruntime 1.22.0",
    device="cpu",
    precision="fp32",
    windows="shared",
)


def action(start_s: float, end_s: float, label: str = "wave", score: float = 0.5) -> Action:
    """An action."""
    return Action(start_s=start_s, end_s=end_s, label=label, score=score)


def result(path: str = "a.mp4", actions: tuple[Action, ...] = (), **changes: Any) -> Result:
    """A result of a ten-second video; `changes` replace fields."""
    sample = Result(
        video=VideoInfo(
            path=path, width_px=320, height_px=240, codec="h264", source_fps=30.0, start_s=0.0, duration_s=10.0
        ),
        actions=actions,
        sample_fps=15.0,
        frame_count=150,
        duration_s=10.0,
        decode_errors=0,
        video_sha256="cd" * 32,
        timings=StageSeconds(decode_s=0.5, encode_s=1.5, localize_s=0.25, suppress_s=0.125, total_s=2.0),
        provenance=PROVENANCE,
    )
    return dataclasses.replace(sample, **changes)


def untrained() -> Provenance:
    """How a result of a model with random weights came about."""
    return dataclasses.replace(PROVENANCE, model_trained=False)
