"""What a session starts with: the detector's weights, the last checkpoint, and the memory."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from tallformer_infer.bundle import Bundle
from tallformer_infer.errors import CheckpointError, ConfigError
from tallformer_infer.text import counted
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.memory import Memory, RunMemory
from tallformer_training.model import Detector
from tallformer_training.training import checkpoints
from tallformer_training.training.batch_norm import share_batch_norms
from tallformer_training.training.bundle_start import bundle_to_start_from, encoder_of_bundle
from tallformer_training.training.display import Display
from tallformer_training.training.first_memory import count_clips, make_first_memory, require_memory
from tallformer_training.training.job import TrainingJob
from tallformer_training.training.material import Material
from tallformer_training.training.plan import Planner
from tallformer_training.training.processes import Processes

MAY_DIFFER = ("head.retina_cls.", "head.action_head.")
"""Weights that depend on the classes: they are made anew where a start checkpoint has other classes."""


def make_detector(job: TrainingJob, processes: Processes, display: Display) -> Detector:
    """The detector with its first weights: those of `job.start`, or random ones of the seed; equal on all processes.

    Raises:
        CheckpointError: The start checkpoint is missing, damaged, or does not fit the recipe.
    """
    torch.manual_seed(job.config.seed)
    detector = Detector(job.recipe, checkpointing=job.config.checkpointing)
    if job.start is not None:
        _load_start(detector, job.start, display)
    if processes.count > 1:
        share_batch_norms(detector, processes.device)
    return detector.to(processes.device)


def say_start(job: TrainingJob, learned: Material, processes: Processes, display: Display, *, is_new: bool) -> None:
    """Tell what is about to be done: steps, device, first weights."""
    planner = Planner(job.recipe, job.config, learned.frames, processes=processes.count)
    steps, epochs = job.config.epochs * planner.steps_per_epoch, job.config.epochs
    device = _device_name(processes)
    display.say(
        f"{counted(steps, 'step')} in {counted(epochs, 'epoch')}, on {device}",
        event="start",
        steps=steps,
        epochs=epochs,
        device=device,
        init=None if job.start is None else str(job.start),
    )
    if not is_new:
        return
    if job.start is not None:
        display.say(f"weights to start from: {job.start}")
    elif job.config.encoder_stage is not None:
        display.say(
            f"weights to start from: random; the encoder learns alone first, {job.config.encoder_stage.steps} steps"
        )
    else:
        display.say(
            "warning: training starts from random weights, which rarely works: start from a trained encoder (--init), "
            "or train a small one alone first (--recipe demo, --encoder-steps)"
        )


def _device_name(processes: Processes) -> str:
    device = processes.device
    name = (
        f"{torch.cuda.get_device_name(device)} (cuda)"
        if device.type == "cuda"
        else f"the CPU ({counted(torch.get_num_threads(), 'thread')})"
    )
    return name if processes.count == 1 else f"{processes.count} processes, the first on {name}"


class ExpectedTime:
    """Tells once how long a run will take, when a few steps have been timed."""

    _STEPS = 4
    """Timed steps; the first is left out, for it pays for what is made once."""

    def __init__(self, display: Display, total: int) -> None:
        """Take the steps of the whole run."""
        self._display = display
        self._total = total
        self._seconds: list[float] = []

    def add(self, step: int, seconds: float) -> None:
        """Take the seconds of a step; `step` are done."""
        if len(self._seconds) == self._STEPS:
            return
        self._seconds.append(seconds)
        left = self._total - step
        if len(self._seconds) == self._STEPS and left:
            per_step_s = statistics.median(self._seconds[1:])
            self._display.say(
                f"about {_rounded_time(left * per_step_s)} left for {counted(left, 'step')} of {per_step_s:.3g} s, "
                "without validation",
                event="expected",
                seconds_left=left * per_step_s,
                seconds_per_step=per_step_s,
            )


def _rounded_time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute"
    if minutes < 120:
        return counted(minutes, "minute")
    hours = round(seconds / 3600)
    return f"{hours} hours" if hours < 72 else f"{round(seconds / 86400)} days"


def last_state(job: TrainingJob, processes: Processes) -> checkpoints.RunState | None:
    """The checkpoint to go on from; None where the run has none yet.

    Raises:
        CheckpointError: It is damaged, or there is none of that name.
        ConfigError: It was written by another number of processes.
    """
    if not job.resume:
        return None
    folders = checkpoints.checkpoint_folders(job.out)
    folder = job.resume_from or (folders[-1] if folders else None)
    if folder is None:
        return None
    if folder.absolute().parent != (job.out / checkpoints.FOLDER).absolute():
        raise CheckpointError(f"{folder}: not a checkpoint of {job.out}; use --init to start a new run from weights")
    state = checkpoints.load_state(folder)
    require_as_many(folder, state, processes)
    if processes.is_main:
        checkpoints.drop_after(job.out, folder)
    processes.barrier()
    return state


def require_as_many(folder: Path, state: checkpoints.RunState, processes: Processes) -> None:
    """Refuse a checkpoint that another number of processes wrote.

    Raises:
        ConfigError: It was.
    """
    if len(state.random) != processes.count:
        raise ConfigError(f"{folder}: written by {len(state.random)} processes, this run has {processes.count}")


def encode_first_memory(
    job: TrainingJob, detector: Detector, learned: Material, processes: Processes, display: Display
) -> None:
    """Make the memory that the run starts from, unless it is there."""
    total = count_clips(learned.frames, job.config, job.recipe)
    folder = base_folder(job)
    if processes.is_main:
        folder.parent.mkdir(exist_ok=True)
    processes.barrier()
    with display.progress("clips to the memory", total) as advance:
        make_first_memory(
            folder,
            detector,
            learned.source,
            learned.videos,
            learned.frames,
            config=job.config,
            processes=processes,
            on_clips=lambda clips: advance(clips * processes.count, ""),
        )


def open_memory(
    job: TrainingJob, learned: Material, processes: Processes, snapshots: list[str | None] | None
) -> tuple[Memory, RunMemory | None]:
    """Open the memory of this machine.

    Args:
        job: The run.
        learned: Its videos.
        processes: This process; the first of each machine writes.
        snapshots: Of every process, from the checkpoint; None starts from the first memory.

    Returns:
        The memory to read, and to write on the process that writes.
    """
    folder = job.out / "memory" / f"machine-{processes.node}"
    writer: RunMemory | None = None
    if processes.local_rank == 0:
        snapshot = None if snapshots is None else snapshots[processes.rank]
        writer = RunMemory.begin(base_folder(job), folder) if snapshot is None else RunMemory.resume(folder, snapshot)
    processes.barrier()
    memory = writer.memory if writer is not None else RunMemory.attach(folder)
    require_memory(memory, learned.frames, job.config, job.recipe)
    return memory, writer


def base_folder(job: TrainingJob) -> Path:
    """Where the memory is that the run starts from."""
    return job.out / "memory" / "base"


def _load_start(detector: Detector, path: Path, display: Display) -> None:
    bundle = bundle_to_start_from(path)
    if bundle is not None:
        _load_encoder(detector, bundle, display)
        return
    state = load_checkpoint(path).state
    own = detector.state_dict()
    other_shape = [name for name in own if name in state and state[name].shape != own[name].shape]
    wrong = [name for name in other_shape if not name.startswith(MAY_DIFFER)]
    wrong += [name for name in own if name not in state] + [name for name in state if name not in own]
    if wrong:
        raise CheckpointError(
            f"{path}: made for another recipe: {len(wrong)} weights do not fit, {wrong[0]} first; "
            "take the recipe of the checkpoint, with your classes"
        )
    if other_shape:
        display.say(f"{path}: has other classes; fresh weights for {', '.join(other_shape)}")
    detector.load_state_dict({name: own[name] if name in other_shape else state[name] for name in own})


def _load_encoder(detector: Detector, bundle: Bundle, display: Display) -> None:
    """Of a bundle only the encoder is taken; what finds actions in its features is to be learned."""
    state, own = encoder_of_bundle(bundle), detector.state_dict()
    needed = [name for name in own if name.startswith("backbone.")]
    wrong = [name for name in needed if name not in state or state[name].shape != own[name].shape]
    if wrong:
        raise CheckpointError(
            f"{bundle.name}: its encoder ({bundle.recipe.model.backbone.text}) is not that of the recipe "
            f"({detector.recipe.model.backbone.text}): {len(wrong)} weights do not fit, {wrong[0]} first"
        )
    display.say(f"{bundle.name}: the encoder starts with its weights; everything else is fresh")
    detector.load_state_dict({**own, **{name: state[name] for name in needed}})
