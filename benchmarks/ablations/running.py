"""Run a plan within a time limit; interrupted runs are resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.ablations.plan import DataConfig, Plan, Run
from benchmarks.ablations.results import RESULTS_FILE, is_measured, machine_of
from benchmarks.ablations.starts import compose, find_start, make_start
from benchmarks.measure import append_line, circumstances
from benchmarks.training_step import StepTrial
from tallformer_infer.config import to_json
from tallformer_infer.files import file_sha256
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.datasets import DatasetRequest, FrameCache, read_video_set
from tallformer_training.loop import Processes, TrainingJob, TrainingResult, train
from tallformer_training.loop.job import RUN_FILE, Material
from tallformer_training.loop.record import read_metrics
from tallformer_training.loop.validation import measure
from tallformer_training.memory import encoded_count
from tallformer_training.synthetic import SetSpec, VideoSpec, make_dataset
from tallformer_training.synthetic.dataset import VERSION

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Until = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Result of a call."""

    finished: tuple[str, ...]
    """Runs that this call finished."""
    left: tuple[str, ...]
    """Remaining runs, an interrupted one first."""
    waiting: tuple[str, ...]
    """Runs whose start was neither given nor can be trained."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Folders of runs, videos and results, and given starts."""

    out: Path
    """Folder of videos, frames and runs."""
    results: Path = RESULTS_FILE
    """File of the result lines."""
    starts: Mapping[str, Path] = field(default_factory=dict)
    """Checkpoints of given starts; only their encoder is used."""
    jobs: int = 1
    """Processes that make videos."""


def run_plan(plan: Plan, place: Place, *, only: Collection[str] = (), until: Until = lambda: False) -> Progress:
    """Do the remaining runs of a plan.

    Args:
        plan: The runs.
        place: Folders and starts.
        only: Groups or variants; empty for all.
        until: Called after every training step and every video; True ends the call, and the next one continues.

    Raises:
        ConfigError: `only` names nothing of the plan, or a result was measured with other settings.
        CheckpointError: A start does not fit.
    """
    finished, left, waiting = [], [], []
    for run in plan.runs(only):
        if plan.start_config is None and run.variant.start not in place.starts:
            waiting.append(run.name)
        elif not is_done(run, plan, place):
            line = None if until() else _do(run, plan, place, until)
            if line is None:
                left.append(run.name)
            else:
                append_line(place.results, line)
                finished.append(run.name)
    return Progress(finished=tuple(finished), left=tuple(left), waiting=tuple(waiting))


def is_done(run: Run, plan: Plan, place: Place) -> bool:
    """Whether a run is measured.

    Raises:
        ConfigError: It was measured with other settings.
    """
    start = find_start(run.variant.start, plan, place.starts, place.out)
    if start is None:
        return False
    settings = settings_sha256(run, plan.data, start)
    return is_measured(place.results, run.name, settings, machine_of(circumstances()))


def settings_sha256(run: Run, data: DataConfig, start: Path) -> str:
    """Hash of everything that affects the result of a run; `start` is the checkpoint of its start.

    Settings at their defaults are left out, so that new settings do not change hashes.
    """
    decisive = {
        "recipe": _chosen(run.variant.recipe),
        "training": _chosen(run.config),
        "data": _chosen(data),
        "videos": VERSION,
        "start": file_sha256(start),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _chosen(settings: DataclassInstance) -> dict[str, Any]:
    """Settings that are not at their defaults."""
    chosen = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if value != default:
            chosen[item.name] = {"": type(value).__name__, **_chosen(value)} if is_dataclass(value) else value
    return chosen


def run_folder(place: Place, run: str) -> Path:
    """Folder of a run."""
    return place.out / "runs" / run


def make_videos(data: DataConfig, place: Place, subset: Literal["training", "testing"], until: Until) -> DatasetRequest:
    """Generate the missing videos of a subset.

    Raises:
        OutOfTimeError: `until` returned True before all were generated; finished ones are kept.
    """

    def stop_in_time(_video: VideoSpec, is_new: bool) -> None:
        if is_new and until():
            raise OutOfTimeError

    videos, seed = {
        "training": (data.training_videos, data.training_seed),
        "testing": (data.testing_videos, data.testing_seed),
    }[subset]
    folder = place.out / "data" / f"{subset}-seed-{seed}-{videos}-of-{data.minutes:g}-min"
    spec = SetSpec(subset=subset, videos=videos, seed=seed, minutes=data.minutes)
    truth = make_dataset(spec, folder, jobs=place.jobs, on_video=stop_in_time)
    return DatasetRequest(annotations=truth, videos=folder, subset=subset)


class OutOfTimeError(Exception):
    """Time was up before all videos were generated."""


def _do(run: Run, plan: Plan, place: Place, until: Until) -> dict[str, Any] | None:
    """Train, measure, and describe a run; None if time was up before."""
    try:
        training, testing = (make_videos(plan.data, place, subset, until) for subset in ("training", "testing"))
    except OutOfTimeError:
        return None
    name, folder = run.variant.start, run_folder(place, run.name)
    start = find_start(name, plan, place.starts, place.out) or make_start(name, plan, training, place.out, until)
    if start is None:
        return None
    job = TrainingJob(
        recipe=run.variant.recipe,
        config=run.config,
        training=training,
        out=folder,
        start=compose(run, start, folder),
        cache=place.out / "frames",
        resume=(folder / RUN_FILE).exists(),
        quiet=True,
    )
    result = train(job, Processes(), until=until)
    return _line(run, job, result, testing, settings_sha256(run, plan.data, start)) if result.is_finished else None


def _line(run: Run, job: TrainingJob, result: TrainingResult, testing: DatasetRequest, settings: str) -> dict[str, Any]:
    found = _score(job, result.model, testing)
    steps = [line for line in read_metrics(job.out) if line["kind"] == "step"]
    with TemporaryDirectory() as folder, StepTrial(job.recipe, job.config, Path(folder)) as trial:
        saved_bytes = trial.saved_bytes(job.config.ratio)
    clips = job.recipe.window.clips
    return {
        "name": "ablation",
        "run": run.name,
        "variant": run.variant.name,
        "seed": run.seed,
        "start": run.variant.start,
        "settings_sha256": settings,
        "map": found["average_map"],
        "map_per_tiou": found["map_per_tiou"],
        "truth": found["truth"],
        "saved_bytes": saved_bytes,
        "step_s": float(f"{median(line['step_s'] for line in steps):.4g}"),
        "steps": len(steps),
        "clips_encoded": encoded_count(clips, job.config.ratio),
        "clips": clips,
        "memory_age_steps": round(median(line["memory_age_mean_steps"] for line in steps), 1),
        "threads": torch.get_num_threads(),
        "recipe": to_json(job.recipe),
        "training": to_json(job.config),
    }


def _score(job: TrainingJob, model: Path, testing: DatasetRequest) -> dict[str, Any]:
    videos = read_video_set(testing, job.recipe.classes).videos
    cache = FrameCache(job.cache_folder, job.recipe.sampling)
    frames = {video.name: cache.add(video.path) for video in videos}
    return measure(job.recipe, load_checkpoint(model).state, Material(videos, frames, cache), Processes())
