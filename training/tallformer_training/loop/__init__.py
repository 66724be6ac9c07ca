"""The training loop with the long memory.

config, job      what to do: settings, data and folder
beginning        the start: weights, last checkpoint, memory
encoder_stage    an encoder without trained weights first learns alone
plan             which windows and clips every step looks at
forward          read clips ahead, encode, remember, localize
costs            targets and losses of a step
stepping         gradients and optimiser
checkpoints      everything needed to continue
validation       mAP as `tallformer detect` would reach it
record           metrics of every step on disk, and curves
running          all of it together, in one process or several (`processes`)
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
