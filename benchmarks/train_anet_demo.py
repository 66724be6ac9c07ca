"""Train a small model of whole videos from nothing, on generated videos of one class each, and measure it on others.

    python -m benchmarks.train_anet_demo --out runs/anet-demo --minutes 60

Data, training and figures are made in `--out`, in pieces where `--minutes` says so, as by `train_demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.demo_training import DemoTraining, parse_options, run
from tallformer_infer.config import preset
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.loop import EncoderStageConfig, OptimiserConfig, TrainingConfig
from tallformer_training.schedule import ScheduleConfig
from tallformer_training.synthetic import SetSpec

RECIPE = preset("anet-demo")
CONFIG = TrainingConfig(
    ratio=0.125,
    sampling="stratified",
    epochs=16,
    batch_windows=8,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-3, encoder_factor=0.1, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=16, min_factor=0.02, warmup_steps=100),
    smooth_schedule=True,
    max_gradient_norm=1.0,
    ema_decay=0.995,
    encoder_stage=EncoderStageConfig(steps=2000, batch_clips=16, precision="bf16"),
    keep_encoder_norms=True,
    step_loss_weight=0.5,
    least_part=0.0,
    augmentation=AugmentationConfig(
        random_crop=False, mirrored_classes=(("spin left", "spin right"),), rotate=0.3, rotation_deg=15.0
    ),
    precision="bf16",
    checkpoint_every_steps=200,
    validate_every_epochs=4,
    loader_threads=1,
    seed=1,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the data, train for a while, and score the test set when training is finished."""
    options = parse_options("train_anet_demo", arguments, videos=(500, 180))
    run(plan(options), options)


def plan(options: argparse.Namespace) -> DemoTraining:
    """What is trained, on as many videos as `options` say."""
    return DemoTraining(
        name="train_anet_demo",
        recipe=RECIPE,
        config=CONFIG,
        training=SetSpec(subset="training", videos=options.videos, seed=27, style="activitynet"),
        validation=SetSpec(subset="validation", videos=48, seed=28, style="activitynet"),
        testing=SetSpec(subset="testing", videos=options.test_videos, seed=29, style="activitynet"),
    )


if __name__ == "__main__":
    main()
