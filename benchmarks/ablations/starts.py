"""The encoders that runs start from: given, or trained here on the training videos.

# Note [where an encoder starts]
The paper's encoders are pretrained on Kinetics. Here each run starts from an encoder trained on single clips of half of
the classes, and from random weights of its seed elsewhere. Variants with the same encoder and resolution share a start,
so that they differ only in the compared setting. A start that is not given (`--init`) is trained first, by the encoder
stage of `tallformer train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ablations.plan import Plan, Run
from tallformer_infer.config import Recipe
from tallformer_infer.errors import CheckpointError
from tallformer_infer.files import file_sha256
from tallformer_training.checkpoint import load_checkpoint, save_checkpoint
from tallformer_training.datasets import DatasetRequest
from tallformer_training.loop import Processes, TrainingJob, checkpoints, encoder_stage, train
from tallformer_training.loop.job import RUN_FILE
from tallformer_training.model import Detector

ENCODER = "backbone."


def find_start(name: str, plan: Plan, given: Mapping[str, Path], out: Path) -> Path | None:
    """Checkpoint of a start: the given or the trained one; None if there is none yet.

    Args:
        name: Name of the start.
        plan: Its plan.
        given: Checkpoints by start.
        out: Folder of the ablations.
    """
    if name in given:
        return given[name]
    made = _made(name, plan, out)
    return made if made is not None and made.exists() else None


def make_start(name: str, plan: Plan, training: DatasetRequest, out: Path, until: Callable[[], bool]) -> Path | None:
    """Train the encoder of a start, or continue; None if time was up before it was done.

    Args:
        name: Name of the start.
        plan: Its plan, with training settings for starts.
        training: Videos to train on.
        out: Folder of the ablations.
        until: Called after every step; True ends the call.
    """
    made = _made(name, plan, out)
    assert made is not None, "asked for a plan that makes starts"
    assert plan.start_config is not None
    folder, recipe = _folder(name, out), plan.starts()[name]
    learned = recipe.classes if plan.start_classes is None else plan.start_classes
    others = tuple(label for label in recipe.classes if label not in learned)
    job = TrainingJob(
        recipe=replace(recipe, classes=learned),
        config=plan.start_config,
        training=replace(training, ignored_labels=(*training.ignored_labels, *others)),
        out=folder,
        cache=out / "frames",
        resume=(folder / RUN_FILE).exists(),
        quiet=True,
    )
    train(job, Processes(), until=lambda: until() or made.exists())  # do not train the detector
    return made if made.exists() else None


def compose(run: Run, start: Path, folder: Path) -> Path:
    """Initial weights of a run: the encoder of `start`, everything else random; written once.

    Args:
        run: The run.
        start: Checkpoint of its start.
        folder: Folder of the run; the weights are written beside it.

    Raises:
        CheckpointError: The encoder is not that of the run's recipe.
    """
    path = folder.with_name(f"{folder.name}-from-{file_sha256(start)[:12]}.safetensors")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            state = Detector(run.variant.recipe).state_dict()
        learned = {key: value for key, value in load_checkpoint(start).state.items() if key.startswith(ENCODER)}
        _require_encoder(start, run.variant.recipe, state, learned)
        save_checkpoint(path, state | learned, run.variant.recipe, provenance={"trained": False, "encoder": start.name})
    return path


def _folder(name: str, out: Path) -> Path:
    return out / "starts" / name


def _made(name: str, plan: Plan, out: Path) -> Path | None:
    """Path of the checkpoint of a trained start; None if the plan trains none."""
    if plan.start_config is None or plan.start_config.encoder_stage is None:
        return None
    last = f"step-{plan.start_config.encoder_stage.steps:09d}"
    return _folder(name, out) / encoder_stage.FOLDER / checkpoints.FOLDER / last / checkpoints.WEIGHTS


def _require_encoder(path: Path, recipe: Recipe, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    shapes = {name: value.shape for name, value in wanted.items() if name.startswith(ENCODER)}
    given = {name: value.shape for name, value in found.items()}
    wrong = sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name))
    if wrong:
        raise CheckpointError(
            f"{path}: not the encoder of this variant ({recipe.sampling.crop_px} px): {len(wrong)} weights do not fit, "
            f"{wrong[0]} first; --recipes writes the recipe that each start needs"
        )
