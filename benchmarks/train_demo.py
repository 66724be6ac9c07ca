"""Train the demo model from nothing on generated videos, and measure it on videos of other seeds, looks and places.

    torchrun --nproc-per-node 2 -m benchmarks.train_demo --out runs/demo --minutes 20

Data, training and figures are made in `--out`. `--minutes` is how long this call may train: the same command goes on
where it stopped, so that the whole may be done in pieces. When the last epoch is done, the test set is scored, and the
figures are written to `--result`.
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

RECIPE = preset("demo")
CONFIG = TrainingConfig(
    ratio=0.125,
    sampling="stratified",
    epochs=20,
    windows_per_video=4,
    batch_windows=8,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-3, encoder_factor=0.1, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=20, min_factor=0.02, warmup_steps=100),
    smooth_schedule=True,
    max_gradient_norm=1.0,
    ema_decay=0.998,
    encoder_stage=EncoderStageConfig(steps=3000, batch_clips=16, precision="bf16"),
    keep_encoder_norms=True,
    step_loss_weight=0.5,
    augmentation=AugmentationConfig(
        random_crop=False, mirrored_classes=(("spin left", "spin right"),), rotate=0.3, rotation_deg=15.0
    ),
    checkpoint_every_steps=200,
    validate_every_epochs=4,
    seed=1,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the data, train for a while, and score the test set when training is finished."""
    options = parse_options("train_demo", arguments, videos=(240, 36))
    run(plan(options), options)


def plan(options: argparse.Namespace) -> DemoTraining:
    """What is trained, on as many videos as `options` say."""
    return DemoTraining(
        name="train_demo",
        recipe=RECIPE,
        config=CONFIG,
        training=SetSpec(subset="training", videos=options.videos, seed=7),
        validation=SetSpec(subset="validation", videos=16, seed=8),
        testing=SetSpec(subset="testing", videos=options.test_videos, seed=9),
    )


if __name__ == "__main__":
    main()
