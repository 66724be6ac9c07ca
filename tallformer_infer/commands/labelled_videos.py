"""The actions of every video of a labelled set, from the files of a folder."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

from tallformer_infer.commands.reporting import Reporter
from tallformer_infer.config import RAW_SCORES
from tallformer_infer.errors import AnnotationError, TallformerError
from tallformer_infer.evaluation import Predictions
from tallformer_infer.evaluation.calibration_inputs import listed
from tallformer_infer.labels.names import files_of, find_videos
from tallformer_infer.pipeline import Detector
from tallformer_infer.results import Failure
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.structures import Action
from tallformer_infer.text import printable


def find_labelled_videos(folder: Path, names: Collection[str], *, source: str) -> dict[str, Path]:
    """The file of every video, in the order of `names`; it may lie in a folder below.

    Args:
        folder: Where to look.
        names: Videos of the truth: file names with or without suffix, and with or without a leading `v_`.
        source: File of the truth, for messages.

    Raises:
        AnnotationError: A video has no file, or two; or there is no such folder, or no video in it.
    """
    files = find_videos(folder)
    found = {name: files_of(name, files) for name in names}
    if missing := [name for name, paths in found.items() if not paths]:
        raise AnnotationError(
            f"{folder}: lacks {len(missing)} of the {len(names)} videos of {source}: {listed(missing)}; "
            "add them, or leave them out with --leave-out FILE"
        )
    for name, paths in found.items():
        if len(paths) > 1:
            raise AnnotationError(f"{paths[0]} and {paths[1]}: both are the video {name} of {source}; keep one")
    return {name: paths[0] for name, paths in found.items()}


def detect_labelled_videos(
    detector: Detector, videos: dict[str, Path], reporter: Reporter
) -> tuple[Predictions, tuple[str, ...]]:
    """All actions of every video, with the model's own scores.

    Args:
        detector: The model.
        videos: File of each video, by its name in the truth.
        reporter: Told of progress, and of what went wrong.

    Returns:
        The predictions, and the names of the videos that could not be read.
    """
    found: dict[str, tuple[Action, ...]] = {}
    failed: list[str] = []
    for index, (name, path) in enumerate(videos.items()):
        detect = functools.partial(detector.detect, path, operating_point=RAW_SCORES, on_progress=reporter.progressed)
        reporter.started(str(path), index, len(videos))
        try:
            result = run_interruptibly(detect)
        except TallformerError as error:
            failed.append(name)
            reporter.failed(Failure(str(path), printable(error)))
            continue
        reporter.done(result)
        found[name] = result.actions
    return Predictions.of(found, source=f"model {detector.bundle.name}"), tuple(failed)
