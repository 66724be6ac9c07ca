"""`tallformer calibrate`: a model and a labelled set to a model with operating points."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from tallformer_infer import __version__
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.bundle_writing import calibration_destination, write_calibration
from tallformer_infer.commands.calibration_tables import calibration_tables, describe_calibration
from tallformer_infer.commands.labelled_videos import detect_labelled_videos, find_labelled_videos
from tallformer_infer.commands.reporting import Reporter
from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES, to_json
from tallformer_infer.devices import Device
from tallformer_infer.errors import AnnotationError, ConfigError
from tallformer_infer.evaluation import CalibrationReport, Predictions, Truth, calibrate, read_predictions, read_truth
from tallformer_infer.evaluation.annotations import read_origin
from tallformer_infer.evaluation.calibration import ENOUGH_TRUTHS, points_for
from tallformer_infer.evaluation.calibration_inputs import listed
from tallformer_infer.labels.names import read_video_list
from tallformer_infer.pipeline import Detector
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.text import printable

SCHEMA_VERSION = "1.0"
"""Of what `--json` prints. The number after the dot rises when a key is added, the one before it when one changes."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What the user asked for."""

    model: str
    """Bundle, or name of a bundled model."""
    truth: Path
    """Annotations of the labelled set."""
    videos: Path | None
    """Folder of its videos; None where there are predictions."""
    predictions: Path | None
    """What the model found in them."""
    subset: str | None
    """Subset of the truth; None takes the only one, or that of validation."""
    leave_out: Path | None
    """List of videos not to use."""
    device: Device
    """Where to detect."""
    threads: int | None
    """CPU threads."""
    tiou_threshold: float
    """Overlap from which an action is right."""
    precisions: tuple[float, ...]
    """Least precisions for which points are made."""
    default: str
    """What `detect` will use unless told otherwise."""
    out: Path | None
    """New bundle; None changes the model itself."""
    per_class: bool
    """Show a row per class."""
    as_json: bool
    """Print JSON."""


def calibrate_bundle(options: CalibrateOptions, reporter: Reporter) -> int:
    """Calibrate, store it and show it.

    Returns:
        Exit code: 0 all done; 1 a video failed.

    Raises:
        TallformerError: It cannot be done; nothing was changed.
        typer.BadParameter: An option is out of range.
    """
    _check_options(options)
    bundle = load_bundle(options.model)
    calibration_destination(bundle, options.out)
    truth = read_truth(options.truth, subset=options.subset, defaults=("validation",))
    if options.leave_out is not None:
        truth = truth.without(read_video_list(options.leave_out))
    failed: tuple[str, ...] = ()
    if options.predictions is not None:
        predictions = _read_predictions(options.predictions, bundle)
    else:
        predictions, failed = _detect(options, bundle, truth, reporter)
        truth = truth.without(failed) if failed else truth
    report = calibrate(
        predictions,
        truth,
        classes=bundle.recipe.classes,
        tiou_threshold=options.tiou_threshold,
        precisions=options.precisions,
        default=options.default,
    )
    made_from = {**report.calibration.made_from, "truth": options.truth.name, "tallformer": __version__}
    calibration = dataclasses.replace(report.calibration, made_from=made_from)
    written = write_calibration(bundle, calibration, out=options.out)
    _show(report, written, options)
    reporter.say("written", f"wrote the operating points to {printable(written.path)}", bundle=str(written.path))
    return 1 if failed else 0


def _check_options(options: CalibrateOptions) -> None:
    if not 0 < options.tiou_threshold <= 1:
        raise typer.BadParameter(f"--tiou {options.tiou_threshold}: expected an overlap above 0, up to 1, such as 0.5")
    try:
        names = (*points_for(options.precisions), ALL_ACTIONS, RAW_SCORES)
    except ConfigError as error:
        raise typer.BadParameter(f"--{error}") from error
    if options.default not in names:
        raise typer.BadParameter(f"--default {options.default}: expected one of {', '.join(names)}")


def _read_predictions(path: Path, bundle: Bundle) -> Predictions:
    """Predictions of a file, if they are all that this model found, with its own scores."""
    predictions = read_predictions(path)
    origin = read_origin(path)
    if origin is None:
        return predictions
    calibration = bundle.calibration
    if origin.bundle_sha256 not in (bundle.sha256, calibration and calibration.uncalibrated_sha256):
        raise AnnotationError(
            f"{path}: was made with another model than {bundle.path} (bundle_sha256 {origin.bundle_sha256[:12]}…, "
            f"not {bundle.sha256[:12]}…); detect again with this one and --operating-point {RAW_SCORES}"
        )
    if origin.operating_point is not None:
        raise AnnotationError(
            f"{path}: was made at operating point {origin.operating_point}; "
            f"detect again with --operating-point {RAW_SCORES}"
        )
    if "--classes" in origin.filters:
        raise AnnotationError(f"{path}: was made with --classes; detect again without, for all classes")
    notes = [f"the predictions were made with {name}: what it left out is not known here" for name in origin.filters]
    return dataclasses.replace(predictions, notes=(*predictions.notes, *notes))


def _detect(
    options: CalibrateOptions, bundle: Bundle, truth: Truth, reporter: Reporter
) -> tuple[Predictions, tuple[str, ...]]:
    assert options.videos is not None
    videos = find_labelled_videos(options.videos, truth.videos, source=truth.source)
    reporter.loading(options.device)
    try:
        detector = run_interruptibly(lambda: Detector.load(bundle, device=options.device, threads=options.threads))
        reporter.loaded(detector)
        predictions, failed = detect_labelled_videos(detector, videos, reporter)
    finally:
        reporter.stopped()
    if len(failed) == len(videos):
        raise AnnotationError(f"{options.videos}: no video of {truth.source} could be read; nothing was calibrated")
    return predictions, failed


def _show(report: CalibrationReport, written: Bundle, options: CalibrateOptions) -> None:
    if options.as_json:
        typer.echo(json.dumps(_document(report, written, options), indent=2, allow_nan=False))
        return
    console = Console(highlight=False)
    for part in _parts(report, per_class=options.per_class):
        console.print(part, soft_wrap=isinstance(part, Text))


def _document(report: CalibrationReport, written: Bundle, options: CalibrateOptions) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": str(written.path),
        "bundle_sha256": written.sha256,
        "truth": str(options.truth),
        "predictions": None if options.predictions is None else str(options.predictions),
        "calibration": to_json(written.calibration),
        "calibration_error": {"before": report.error_before, "after": report.error_after},
        "enough_truths": ENOUGH_TRUTHS,
        "videos": {
            "used": list(report.videos.scored),
            "skipped": {reason: list(names) for reason, names in report.videos.skipped.items()},
        },
        "notes": list(report.notes),
    }


def _parts(report: CalibrationReport, *, per_class: bool) -> list[RenderableType]:
    calibration = report.calibration
    parts: list[RenderableType] = [
        Text.assemble(("calibrated", "bold cyan"), (f"  {describe_calibration(calibration)}", "dim")),
        *calibration_tables(calibration, per_class=per_class),
        Text(
            "in these videos, scores are off from the share that is right by "
            f"{100 * report.error_before:.1f} % before, {100 * report.error_after:.1f} % after"
        ),
    ]
    if few := calibration.pooled:
        named = listed([f"{printable(label)} ({calibration.classes[label].truths})" for label in few])
        line = f"{len(few)} of {len(calibration.classes)} classes have fewer than {ENOUGH_TRUTHS} truths, and use what "
        parts.append(Text(f"{line}was found over all classes: {named}", style="yellow"))
    skipped = [(reason, names) for reason, names in report.videos.skipped.items() if names]
    parts += [Text(f"videos not used, {reason}: {printable(listed(names))}") for reason, names in skipped]
    return parts + [Text(f"note: {printable(note)}", style="yellow") for note in report.notes]
