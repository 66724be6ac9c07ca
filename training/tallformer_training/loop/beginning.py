"""The start of a run: the detector's weights, the last checkpoint, and the memory, which encodes every clip once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from tallformer_infer.bundle import Bundle
from tallformer_infer.config import Recipe
from tallformer_infer.console import Speaker
from tallformer_infer.errors import CheckpointError, ConfigError
from tallformer_infer.text import counted
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.datasets import FrameSource, TrainingVideo
from tallformer_training.loop import checkpoints
from tallformer_training.loop.checkpoints import bundle_to_start_from, encoder_of_bundle
from tallformer_training.loop.config import TrainingConfig, autocast
from tallformer_training.loop.job import Material, TrainingJob
from tallformer_training.loop.plan import MIRRORED, Planner, memory_clips
from tallformer_training.loop.processes import Processes
from tallformer_training.loop.validation import encode_video
from tallformer_training.memory import Memory, MemoryBuilder, RunMemory, encoder_fingerprint
from tallformer_training.model import Detector
from tallformer_training.model.i3d import InceptionI3d

MAY_DIFFER = ("head.retina_cls.", "head.action_head.")
"""Weights that depend on the classes: random if the start checkpoint has other classes."""


def make_detector(job: TrainingJob, processes: Processes, speaker: Speaker) -> Detector:
    """The detector with its initial weights: those of `job.start`, or random ones; equal on all processes.

    Raises:
        CheckpointError: The start checkpoint is missing, damaged, or does not fit the recipe.
    """
    torch.manual_seed(job.config.seed)
    detector = Detector(job.recipe, checkpointing=job.config.checkpointing)
    if job.start is not None:
        _load_start(detector, job.start, speaker)
    if processes.count > 1:
        share_batch_norms(detector, processes.device)
    is_bf16_on_cpu = job.config.precision == "bf16" and processes.device.type == "cpu"
    if is_bf16_on_cpu and isinstance(detector.backbone, InceptionI3d):
        detector.backbone.lay_channels_last()
    return detector.to(processes.device)


def say_start(job: TrainingJob, learned: Material, processes: Processes, speaker: Speaker, *, is_new: bool) -> None:
    """Log steps, device and initial weights."""
    planner = Planner(job.recipe, job.config, learned.frames, processes=processes.count)
    steps, epochs = job.config.epochs * planner.steps_per_epoch, job.config.epochs
    device = _device_name(processes)
    speaker.say(
        "start",
        f"{counted(steps, 'step')} in {counted(epochs, 'epoch')}, on {device}",
        steps=steps,
        epochs=epochs,
        device=device,
        init=None if job.start is None else str(job.start),
    )
    if not is_new:
        return
    if job.start is not None:
        speaker.say("note", f"initial weights: {job.start}")
    elif job.config.encoder_stage is not None:
        speaker.say(
            "note",
            f"initial weights: random; the encoder is trained alone first, {job.config.encoder_stage.steps} steps",
        )
    else:
        speaker.say(
            "note",
            "warning: training starts from random weights, which rarely works: start from a trained encoder (--init), "
            "or train a small one alone first (--recipe demo, --encoder-steps)",
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
    """Logs the expected duration of a run once, after a few timed steps."""

    _STEPS = 4
    """Timed steps; the first does not count, as it includes one-time work."""

    def __init__(self, speaker: Speaker, total: int) -> None:
        """Expect `total` steps in the whole run."""
        self._speaker = speaker
        self._total = total
        self._seconds: list[float] = []

    def add(self, step: int, seconds: float) -> None:
        """Add the seconds of a step, the number `step` of the run."""
        if len(self._seconds) == self._STEPS:
            return
        self._seconds.append(seconds)
        left = self._total - step
        if len(self._seconds) == self._STEPS and left:
            per_step_s = statistics.median(self._seconds[1:])
            self._speaker.say(
                "expected",
                f"about {_rounded_time(left * per_step_s)} left for {counted(left, 'step')} of {per_step_s:.3g} s, "
                "without validation",
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
    """The checkpoint to continue from; None if the run has none yet.

    Raises:
        CheckpointError: It is damaged, or the named one does not exist.
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
    """Refuse a checkpoint written by another number of processes.

    Raises:
        ConfigError: The numbers differ.
    """
    if len(state.random) != processes.count:
        raise ConfigError(f"{folder}: written by {len(state.random)} processes, this run has {processes.count}")


def encode_first_memory(
    job: TrainingJob, detector: Detector, learned: Material, processes: Processes, speaker: Speaker
) -> None:
    """Fill the memory that the run starts from, unless it exists."""
    total = count_clips(learned.frames, job.config, job.recipe)
    folder = base_folder(job)
    if processes.is_main:
        folder.parent.mkdir(exist_ok=True)
    processes.barrier()
    with speaker.progress("clips of the memory", total) as advance:
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
        processes: This process; the first one on each machine writes.
        snapshots: Names of the snapshots of all processes, from the checkpoint; None starts from the first memory.

    Returns:
        The memory to read, and the memory to write on the process that writes, else None.
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
    """Folder of the memory that the run starts from."""
    return job.out / "memory" / "base"


def _load_start(detector: Detector, path: Path, speaker: Speaker) -> None:
    bundle = bundle_to_start_from(path)
    if bundle is not None:
        _load_encoder(detector, bundle, speaker)
        return
    state = load_checkpoint(path).state
    own = detector.state_dict()
    other_shape = [name for name in own if name in state and state[name].shape != own[name].shape]
    wrong = [name for name in other_shape if not name.startswith(MAY_DIFFER)]
    wrong += [name for name in own if name not in state] + [name for name in state if name not in own]
    if wrong:
        raise CheckpointError(
            f"{path}: made for another recipe: {len(wrong)} weights do not fit, such as {wrong[0]}; "
            "use the recipe of the checkpoint, with your classes"
        )
    if other_shape:
        speaker.say("note", f"{path}: has other classes; random weights for {', '.join(other_shape)}")
    detector.load_state_dict({name: own[name] if name in other_shape else state[name] for name in own})


def _load_encoder(detector: Detector, bundle: Bundle, speaker: Speaker) -> None:
    """Load only the encoder of a bundle; the localizer is trained from random weights."""
    state, own = encoder_of_bundle(bundle), detector.state_dict()
    needed = [name for name in own if name.startswith("backbone.")]
    wrong = [name for name in needed if name not in state or state[name].shape != own[name].shape]
    if wrong:
        raise CheckpointError(
            f"{bundle.name}: its encoder ({bundle.recipe.model.backbone.text}) is not that of the recipe "
            f"({detector.recipe.model.backbone.text}): {len(wrong)} weights do not fit, such as {wrong[0]}"
        )
    speaker.say("note", f"{bundle.name}: the encoder starts with its weights; all other weights are random")
    detector.load_state_dict({**own, **{name: state[name] for name in needed}})


def make_first_memory(
    folder: Path,
    detector: Detector,
    source: FrameSource,
    videos: Sequence[TrainingVideo],
    frames: Mapping[str, int],
    *,
    config: TrainingConfig,
    processes: Processes,
    on_clips: Callable[[int], None] = lambda _: None,
) -> None:
    """Fill the memory, or continue filling it; all processes call it and share the work.

    Rows cover whole clips: a last partial clip is padded with frames that are zero after normalisation, as at test
    time, and all its feature steps are kept. The encoder is in evaluation mode; the official code encodes with
    stochastic depth.

    Args:
        folder: Folder of the finished memory; if it exists, nothing is done.
        detector: Detector with the initial weights.
        source: Source of frames.
        videos: All training videos.
        frames: Their lengths, by name.
        config: Whether to encode, number format, mirrored videos.
        processes: Processes that share the work.
        on_clips: Called with the number of clips done.
    """
    recipe = detector.recipe
    clips = memory_clips(frames, config, clip_frames=recipe.window.clip_frames)
    if not folder.exists():
        builder = MemoryBuilder(
            folder,
            {name: count * recipe.clip_steps for name, count in clips.items()},
            channels=recipe.model.backbone.out_channels,
            dtype=config.memory_dtype,
            fingerprint=encoder_fingerprint(recipe),
            worker=processes.rank,
        )
        processes.barrier()
        by_name = {video.name: video for video in videos}
        detector.eval()
        for entry in builder.missing(workers=processes.count, worker=processes.rank):
            video = by_name[entry.removesuffix(MIRRORED)]
            with autocast(config.precision, processes.device):
                features = _features(detector, source, video, frames[video.name], entry, config)
            builder.write(entry, features)
            on_clips(clips[entry])
        processes.barrier()
        if processes.is_main:
            builder.finish()
    processes.barrier()


def count_clips(frames: Mapping[str, int], config: TrainingConfig, recipe: Recipe) -> int:
    """Number of clips in the memory."""
    return sum(memory_clips(frames, config, clip_frames=recipe.window.clip_frames).values())


def require_memory(memory: Memory, frames: Mapping[str, int], config: TrainingConfig, recipe: Recipe) -> None:
    """Check that a memory belongs to these videos.

    Raises:
        LongMemoryError: It does not.
    """
    clips = memory_clips(frames, config, clip_frames=recipe.window.clip_frames)
    steps = {name: count * recipe.clip_steps for name, count in clips.items()}
    memory.require(steps, channels=recipe.model.backbone.out_channels)


def _features(
    detector: Detector, source: FrameSource, video: TrainingVideo, frames: int, entry: str, config: TrainingConfig
) -> np.ndarray:
    """Features of one entry, shape (C, steps)."""
    recipe = detector.recipe
    clips = -(-frames // recipe.window.clip_frames)
    if config.memory_start == "zeros":
        return np.zeros((recipe.model.backbone.out_channels, clips * recipe.clip_steps), np.float32)
    is_mirrored = entry.endswith(MIRRORED)
    parts = [
        encoded.features.float().cpu()
        for encoded in encode_video(detector, source, video.path, frames, is_mirrored=is_mirrored)
    ]
    features: np.ndarray = torch.cat(parts).transpose(0, 1).flatten(1).numpy()  # (C, clips * clip steps)
    return features


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with statistics over all processes in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        values = x.float()  # sums of many values in 16 bits would be inexact
        count = values.new_tensor([x.numel() / x.shape[1]])
        others = [axis for axis in range(x.dim()) if axis != 1]
        sums = torch.cat([values.sum(dim=others), (values * values).sum(dim=others), count])
        total: Tensor = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        channels = x.shape[1]
        number = total[-1].detach()
        mean = total[:channels] / number
        variance = (total[channels : 2 * channels] / number - mean * mean).clamp(min=0)  # rounding may make it negative
        self._follow(mean.detach(), variance.detach() * number / (number - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        wide = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(wide), values, scale.view(wide)).to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of axes."""

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over all processes, with the same weights and names."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm3d):
                shared = SharedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum or 0.1)
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared)
    return module


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes; each process's loss depends on all values, so gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
