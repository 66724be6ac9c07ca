"""Estimate the cost of the official THUMOS14 run at full size: operations counted by torch, hours from a measured step.

The FLOP of a training step are counted without computing anything (`meta` tensors): for every encoded clip once
forward, backward through the trained stages, and forward again if activations are recomputed (`checkpointing`); for
every window the localizer, forward and backward. Only matrix products and convolutions count.

Source: memory per ratio from the paper (arXiv 2204.01680), for 4 windows per GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import read_results
from tallformer_infer.config import Recipe, preset
from tallformer_training.memory import encoded_count
from tallformer_training.model import Detector

STEPS = 13_000
"""200 videos, 16 windows per step, 1000 epochs."""
WINDOWS = 4
"""Windows per GPU and step."""
EXAMPLE_RATE = 10.0
"""TFLOP per second for the column of hours; an example, not a measurement."""
PAPER_GB = {0.15: "12", 0.3: "22", 0.4: "29", 0.6: "45", 1.0: "out of memory"}
"""Memory per GPU for each ratio, from the paper."""
_MEASURED = "thumos14-swin-t-112"


def cost_table() -> str:
    """FLOP of the run per GPU, for each ratio of the paper, and the paper's memory."""
    recipe = preset("thumos14-swin-b")
    clip, window = training_gigaflop(recipe, checkpointing=True)
    kept, _ = training_gigaflop(recipe, checkpointing=False)
    heads = ("r", "clips encoded", "TFLOP per step", "PFLOP per run", f"hours at {EXAMPLE_RATE:g} TFLOP/s", "GB, paper")
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for ratio, memory in PAPER_GB.items():
        clips = WINDOWS * encoded_count(recipe.window.clips, ratio)
        step = (clips * clip + WINDOWS * window) / 1e3
        cells = [
            f"{ratio:g}",
            str(clips),
            f"{step:.1f}",
            f"{STEPS * step / 1e3:.0f}",
            f"{hours(step, EXAMPLE_RATE):.1f}",
        ]
        rows.append(f"| {' | '.join([*cells, memory])} |")
    note = (
        f"Per encoded clip {clip:.0f} GFLOP ({kept:.0f} without `checkpointing`), per window's localizer {window:.1f}; "
        f"a clip of the first memory {encoder_gigaflop(recipe):.0f}."
    )
    return "\n".join([*rows, "", note])


def rate_table() -> str:
    """The rate of the committed training steps of one recipe, and the hours of the run at that rate."""
    recipe = preset(_MEASURED)
    clip, window = training_gigaflop(recipe, checkpointing=False)
    big_clip, big_window = training_gigaflop(preset("thumos14-swin-b"), checkpointing=True)
    rows = [
        "| measured step, r | GFLOP | s of one core | TFLOP/s | hours of the run, one core per GPU |",
        f"|{'---|' * 5}",
    ]
    for line in _measured_steps():
        facts = line["inputs"]
        step = facts["clips_encoded"] * clip + facts["batch_windows"] * window
        rate = step / 1e3 / line["median_cpu_s"]
        clips = WINDOWS * facts["clips_encoded"]
        whole = hours((clips * big_clip + WINDOWS * big_window) / 1e3, rate)
        rows.append(f"| {facts['ratio']:g} | {step:.0f} | {line['median_cpu_s']:.3g} | {rate:.3f} | {whole:,.0f} |")
    batch = _measured_steps()[0]["inputs"]["batch_windows"]
    note = f"Measured: {_MEASURED}, {batch} window, without `checkpointing`, on {_measured_steps()[0]['processor']}."
    return "\n".join([*rows, "", note])


def hours(step_teraflop: float, rate: float) -> float:
    """Hours of the run at `rate` TFLOP per second."""
    return STEPS * step_teraflop / rate / 3600


def encoder_gigaflop(recipe: Recipe) -> float:
    """GFLOP to encode one clip, without gradients."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _detector(recipe).eval().encode(_clip(recipe))
    return counter.get_total_flops() / 1e9


def training_gigaflop(recipe: Recipe, *, checkpointing: bool) -> tuple[float, float]:
    """GFLOP of a training step for each encoded clip, and for each window's localizer."""
    detector = _detector(recipe, checkpointing=checkpointing).train()
    with FlopCounterMode(display=False) as encoding:
        torch.autograd.backward(detector.encode(_clip(recipe)).sum())
    features = torch.zeros(1, recipe.model.backbone.out_channels, recipe.window_steps, device="meta")
    with FlopCounterMode(display=False) as localizing:
        outputs = detector.localize(features)
        torch.autograd.backward(torch.stack([part.sum() for part in (*outputs.logits, *outputs.regressions)]).sum())
    return encoding.get_total_flops() / 1e9, localizing.get_total_flops() / 1e9


def _detector(recipe: Recipe, *, checkpointing: bool = False) -> Detector:
    with torch.device("meta"):
        detector = Detector(recipe, checkpointing=checkpointing)
    return detector.to("meta")  # some buffers are created on the CPU regardless of the default


def _clip(recipe: Recipe) -> Tensor:
    side = recipe.sampling.crop_px
    return torch.zeros(1, 3, recipe.window.clip_frames, side, side, device="meta")


def _measured_steps() -> list[dict[str, Any]]:
    return [
        line
        for line in read_results("training")
        if line["inputs"]["recipe"] == _MEASURED and line["inputs"]["clips_encoded"]
    ]
