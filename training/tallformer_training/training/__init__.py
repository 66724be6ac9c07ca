"""Training with the long memory.

config, job      what to do: settings, data, folder
material         videos checked, their frames ready to be read
encoder_stage    an encoder without trained weights learns alone first
plan             which windows and clips every step looks at
loading          their pixels, read ahead
targets          what their anchors learn
forward          encode, remember, localize
stepping         losses, gradients, optimiser
checkpoints      everything needed to go on
validation       mAP as `tallformer detect` would reach it
running          all of it together
"""

from tallformer_training.training.config import (
    EncoderStageConfig,
    OptimiserConfig,
    TrainingConfig,
    read_training_config,
)
from tallformer_training.training.job import TrainingJob
from tallformer_training.training.processes import Processes, join_processes
from tallformer_training.training.running import TrainingResult, train

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
