"""Run a training job from start to final weights, in one process or several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from tallformer_infer.console import Speaker, make_speaker
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.loop import checkpoints
from tallformer_training.loop.beginning import (
    ExpectedTime,
    encode_first_memory,
    last_state,
    make_detector,
    open_memory,
    say_start,
)
from tallformer_training.loop.costs import TargetMaker
from tallformer_training.loop.encoder_stage import EncoderStage
from tallformer_training.loop.forward import LoadedWindow, load_window, run_ahead
from tallformer_training.loop.job import Material, TrainingJob, begin_run, check_run, prepare, provenance
from tallformer_training.loop.plan import PlannedWindow, Planner, share
from tallformer_training.loop.processes import Processes
from tallformer_training.loop.record import Metrics, draw_curves, read_metrics
from tallformer_training.loop.step_classifier import StepClassifier
from tallformer_training.loop.stepping import Stepper, StepReport
from tallformer_training.loop.validation import measure, protocol_of
from tallformer_training.model import Detector

MODEL_FILE = "model.safetensors"
"""The last weights, or their running mean."""
BEST_FILE = "best.safetensors"
"""The weights with the best validation mAP so far."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Result of a run."""

    model: Path
    """The last weights, or their running mean."""
    steps: int
    """Training steps done, over all sessions."""
    is_finished: bool
    """Whether all epochs are done."""
    validations: tuple[dict[str, Any], ...]
    """Validation results, in order."""


def train(
    job: TrainingJob,
    processes: Processes,
    *,
    until: Callable[[], bool] | None = None,
    speaker: Speaker | None = None,
) -> TrainingResult:
    """Train, from the start or from a checkpoint; called by all processes of a run.

    Args:
        job: The request.
        processes: This process among those of the run.
        until: Called after every step; True writes a checkpoint and ends the session, which can be resumed.
        speaker: Where progress is reported; None reports it on stderr, unless `job.quiet`.

    Raises:
        AnnotationError: Annotations are wrong; one line per problem, before anything else is done.
        ConfigError: Recipe, settings and folder do not fit together.
        CheckpointError: A checkpoint to start or resume from is missing or damaged.
    """
    speaker = speaker or make_speaker(quiet=job.quiet or not processes.is_main)
    job.config.require_fit(job.recipe)
    if processes.is_main:
        check_run(job)
    processes.barrier()
    learned, measured = prepare(job, processes, speaker)
    detector = make_detector(job, processes, speaker)
    state = last_state(job, processes)
    if processes.is_main:
        begin_run(job)
    job = _long_enough(job, learned, processes)
    say_start(job, learned, processes, speaker, is_new=state is None)
    teacher: StepClassifier | None = None
    if state is None and job.start is None and job.config.encoder_stage is not None:
        teacher = _teach_encoder(EncoderStage(job, detector, learned, processes, speaker), until)
        if teacher is None:
            return _unfinished(job, detector, processes)
    with _Session(job, processes, speaker, (learned, measured), (detector, state, teacher)) as session:
        session.run(until)
        return session.result()


def _long_enough(job: TrainingJob, learned: Material, processes: Processes) -> TrainingJob:
    """The job with as many epochs as `least_steps` needs. The run's description keeps what was requested."""
    planner = Planner(job.recipe, job.config, learned.frames, processes=processes.count)
    epochs = math.ceil(job.config.least_steps / planner.steps_per_epoch)
    return job if epochs <= job.config.epochs else replace(job, config=job.config.lasting(epochs))


def _teach_encoder(stage: EncoderStage, until: Callable[[], bool] | None) -> StepClassifier | None:
    """Train the encoder alone; None if stopped. Frees the stage's optimiser before the detector is trained."""
    return stage.teacher if stage.run(until) else None


def _unfinished(job: TrainingJob, detector: Detector, processes: Processes) -> TrainingResult:
    """Result of a run stopped before the detector's first step."""
    path = job.out / MODEL_FILE
    if processes.is_main:
        save_checkpoint(
            path, detector.state_dict(), job.recipe, provenance=provenance(job, step=0, processes=processes.count)
        )
    processes.barrier()
    return TrainingResult(model=path, steps=0, is_finished=False, validations=())


class _Session:
    """One session of a run in one process."""

    def __init__(
        self,
        job: TrainingJob,
        processes: Processes,
        speaker: Speaker,
        data: tuple[Material, Material | None],
        start: tuple[Detector, checkpoints.RunState | None, StepClassifier | None],
    ) -> None:
        self.job, self.config, self.processes, self.speaker = job, job.config, processes, speaker
        self.learned, self.measured = data
        detector, state, teacher = start
        self.planner = Planner(job.recipe, job.config, self.learned.frames, processes=processes.count)
        self.step = self.epoch = self.steps_into_epoch = 0
        self.history: list[dict[str, Any]] = []
        self._saved_step = -1
        started_s, processor_s = time.perf_counter(), time.process_time()
        if state is None:
            encode_first_memory(job, detector, self.learned, processes, speaker)
        filled = {"seconds": time.perf_counter() - started_s, "processor_s": time.process_time() - processor_s}
        targets = TargetMaker(job.recipe, job.config, self.learned.videos, self.learned.frames)
        self.stepper = Stepper(detector, job.config, targets, processes)
        if teacher is not None and self.stepper.teacher is not None:
            self.stepper.teacher.load_state_dict(teacher.state_dict())
        torch.manual_seed(job.config.seed + processes.rank)
        if state is not None:
            self._restore(state)
        self.memory, self.writer = open_memory(job, self.learned, processes, state.snapshots if state else None)
        self.sampler_state = self.planner.sampler.state()
        self.metrics = Metrics(job.out, steps_done=self.step) if processes.is_main else None
        if self.metrics is not None and state is None:
            self.metrics.write("memory", 0, filled)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.metrics is not None:
            self.metrics.close()

    def run(self, until: Callable[[], bool] | None) -> None:
        """Train until the last epoch is done or `until` returns True."""
        total = self.config.epochs * self.planner.steps_per_epoch
        expected = ExpectedTime(self.speaker, total)
        with self.speaker.progress("training steps", total) as advance:
            advance(self.step, "")
            while self.epoch < self.config.epochs:
                for report, seconds in self._steps_of_epoch():
                    self._record(report, seconds)
                    expected.add(self.step, seconds["step_s"])
                    advance(1, self._note(report), **self._facts(report))
                    if self.step % self.config.checkpoint_every_steps == 0:
                        self.save()
                    if until is not None and any(self.processes.gather(until())):
                        self.save()
                        return
                self._end_epoch()
        self.save()

    def result(self) -> TrainingResult:
        """Write the weights and the curves."""
        out = self.job.out
        if self.processes.is_main:
            self._write_weights(out / MODEL_FILE)
            draw_curves(out, read_metrics(out), protocol_of(self.job.recipe))
        self.processes.barrier()
        return TrainingResult(
            model=out / MODEL_FILE,
            steps=self.step,
            is_finished=self.epoch >= self.config.epochs,
            validations=tuple(self.history),
        )

    def save(self) -> None:
        """Write a snapshot of the memory, then a checkpoint with its name; called by all processes."""
        if self._saved_step == self.step:
            return
        snapshot = None if self.writer is None else self.writer.snapshot(self.step)
        own = (checkpoints.torch_random_state(self.processes.device).cpu(), snapshot)
        gathered = self.processes.gather(own)
        if self.processes.is_main:
            state = self._state([random for random, _ in gathered], [name for _, name in gathered])
            checkpoints.save_state(self.job.out, state, self.job.recipe, provenance=self._provenance())
        self.processes.barrier()
        held = checkpoints.prune(self.job.out, self.config.keep_checkpoints) if self.processes.is_main else set()
        names = {name for part in self.processes.gather(held) for name in part}
        if self.writer is not None:
            self.writer.prune(names)
        self._saved_step = self.step

    def _state(self, random: list[Tensor], snapshots: list[str | None]) -> checkpoints.RunState:
        mean = self.stepper.mean
        return checkpoints.RunState(
            step=self.step,
            epoch=self.epoch,
            steps_into_epoch=self.steps_into_epoch,
            weights=self.stepper.detector.state_dict(),
            mean=None if mean is None else mean.state,
            teacher={} if self.stepper.teacher is None else self.stepper.teacher.state_dict(),
            optimiser=self.stepper.optimiser.state_dict(),
            scaler=self.stepper.scaler.state_dict(),
            random=random,
            sampler=dict(self.sampler_state),
            snapshots=snapshots,
            history=self.history,
        )

    def _restore(self, state: checkpoints.RunState) -> None:
        self.step, self.epoch, self.steps_into_epoch = state.step, state.epoch, state.steps_into_epoch
        self.history = list(state.history)
        self.stepper.detector.load_state_dict(state.weights)
        if self.stepper.teacher is not None:
            self.stepper.teacher.load_state_dict(state.teacher)
        self.stepper.optimiser.load_state_dict(state.optimiser)
        self.stepper.scaler.load_state_dict(state.scaler)
        if self.stepper.mean is not None and state.mean is not None:
            self.stepper.mean.load(state.mean)
        self.planner.sampler.restore(state.sampler)
        checkpoints.restore_random_state(state.random[self.processes.rank], self.processes.device)
        self._saved_step = self.step
        line = f"resuming after step {self.step}, in epoch {self.epoch + 1}"
        self.speaker.say("resumed", line, step=self.step, epoch=self.epoch)

    def _steps_of_epoch(self) -> Iterator[tuple[StepReport, dict[str, float]]]:
        """Do the remaining steps of an epoch; yields reports, and the seconds of each step and its wait for data."""
        self.sampler_state = self.planner.sampler.state()
        plan = self.planner.draw_epoch(self.epoch)[self.steps_into_epoch :]
        loaded = run_ahead(plan, self._load, threads=self.config.loader_threads)
        mark_s, processor_s = time.perf_counter(), time.process_time()
        for windows, passes in zip(plan, loaded, strict=True):
            data_s = time.perf_counter() - mark_s
            part = self.steps_into_epoch / self.planner.steps_per_epoch if self.config.smooth_schedule else 0
            report = self.stepper.step(
                windows, passes, (self.memory, self.writer), step=self.step, epoch=(self.epoch, self.epoch + part)
            )
            self.step += 1
            self.steps_into_epoch += 1
            seconds = {"step_s": time.perf_counter() - mark_s, "processor_s": time.process_time() - processor_s}
            yield report, {"data_s": data_s, **seconds}
            mark_s, processor_s = time.perf_counter(), time.process_time()

    def _load(self, windows: list[PlannedWindow]) -> list[list[LoadedWindow]]:
        paths, clip_frames = self.learned.paths, self.job.recipe.window.clip_frames
        return [
            [load_window(self.learned.source, paths[window.video], window, clip_frames=clip_frames) for window in batch]
            for batch in share(windows, self.config, rank=self.processes.rank)
        ]

    def _end_epoch(self) -> None:
        self.epoch += 1
        self.steps_into_epoch = 0
        self.sampler_state = self.planner.sampler.state()
        is_last = self.epoch == self.config.epochs
        if self.measured is None or not (is_last or self.epoch % self.config.validate_every_epochs == 0):
            return
        line = {"epoch": self.epoch, **measure(self.job.recipe, self._weights(), self.measured, self.processes)}
        best = max((past["average_map"] for past in self.history), default=-1.0)
        self.history.append({"step": self.step, **line})
        tious = protocol_of(self.job.recipe).tiou_thresholds
        span = f"tIoU {tious[0]:g} to {tious[-1]:g}"
        said = f"epoch {self.epoch}: validation mAP {100 * line['average_map']:.2f} % ({span})"
        self.speaker.say("validation", said, step=self.step, epoch=self.epoch, average_map=line["average_map"])
        if self.metrics is not None:
            self.metrics.write("validation", self.step, line)
            if line["average_map"] > best:
                self._write_weights(self.job.out / BEST_FILE)

    def _weights(self) -> Mapping[str, Tensor]:
        mean = self.stepper.mean
        return self.stepper.detector.state_dict() if mean is None else mean.state

    def _write_weights(self, path: Path) -> None:
        save_checkpoint(path, self._weights(), self.job.recipe, provenance=self._provenance())

    def _provenance(self) -> dict[str, Any]:
        return provenance(self.job, step=self.step, processes=self.processes.count)

    def _record(self, report: StepReport, seconds: dict[str, float]) -> None:
        if self.metrics is not None:
            rate = self.config.optimiser.base_lr * report.rate_factor
            values = {"epoch": self.epoch, **report.values(), "learning_rate": rate, **seconds}
            self.metrics.write("step", self.step, values)

    def _facts(self, report: StepReport) -> dict[str, float]:
        loss = report.classification + report.segment
        return {"epoch": self.epoch, "loss": loss, "memory_age_mean_steps": report.staleness.mean_steps}

    def _note(self, report: StepReport) -> str:
        loss = report.classification + report.segment
        last = f", mAP {100 * self.history[-1]['average_map']:.1f} %" if self.history else ""
        return f"loss {loss:.3f}, remembered {report.staleness.mean_steps:.0f} steps old{last}"
