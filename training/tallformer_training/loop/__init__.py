"""The training loop with the long memory.

config, job      settings, data and folder of a run
beginning        initial weights, last checkpoint, first memory
encoder_stage    train a random encoder alone first
plan             windows and clips of every step
forward          read clips ahead, encode, remember, localize
costs            targets and losses of a step
stepping         gradients and optimiser
checkpoints      everything needed to continue
validation       mAP of the actions that `tallformer detect` would find
record           metrics of every step on disk, and curves
running          the whole run, in one process or several (`processes`)
"""

from tallformer_training.loop.config import (
    EncoderStageConfig,
    OptimiserConfig,
    TrainingConfig,
    read_training_config,
)
from tallformer_training.loop.job import TrainingJob
from tallformer_training.loop.processes import Processes, join_processes
from tallformer_training.loop.running import TrainingResult, train

__all__ = [
    "EncoderStageConfig",
    "OptimiserConfig",
    "Processes",
    "TrainingConfig",
    "TrainingJob",
    "TrainingResult",
    "join_processes",
    "read_training_config",
    "train",
]
