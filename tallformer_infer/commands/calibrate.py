"""`tallformer calibrate`: operating points for a bundle, from a labelled set of videos or from predictions on it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from tallformer_infer import __version__
from tallformer_infer.commands import options
from tallformer_infer.devices import Device
from tallformer_infer.errors import AnnotationError, ConfigError, TallformerError
from tallformer_infer.stopping import import_interruptibly, run_interruptibly
from tallformer_infer.text import printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.bundle import Bundle
    from tallformer_infer.commands.progress import Reporter
    from tallformer_infer.evaluation import CalibrationReport, Predictions, Truth
    from tallformer_infer.pipeline import Detector
    from tallformer_infer.structures import Action


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_FROM, _POINTS, _SAY = "Labelled data", "Operating points", "Output"

SCHEMA_VERSION = "1.0"
"""Version of what `--json` prints: minor when a key is added, major when one changes."""


@app.command()
def calibrate(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", show_default=False, help="Folder, .zip, or a name listed by `tallformer models`."
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(metavar="TRUTH", show_default=False, help="ActivityNet-form JSON, or the THUMOS14 text folder."),
    ],
    videos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the labelled videos, to run detection on.", rich_help_panel=_FROM),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Use these predictions: output of `detect --operating-point none`, or a file that `eval` reads.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Subset of the ground truth (default: the only one, or validation).",
            rich_help_panel=_FROM,
        ),
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of videos to skip, one name per line.", rich_help_panel=_FROM),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    tiou: Annotated[
        float, typer.Option(metavar="X", help="Least overlap (tIoU) of a right action.", rich_help_panel=_POINTS)
    ] = 0.5,
    precision: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X",
            help="Create a point of this precision, besides max-f1. Repeatable. \\[default: 0.9]",
            rich_help_panel=_POINTS,
        ),
    ] = None,
    default: Annotated[
        str,
        typer.Option(metavar="NAME", help="Default of `detect`: a point, all or none.", rich_help_panel=_POINTS),
    ] = "max-f1",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="NEW_BUNDLE",
            help="Output bundle: a folder or .zip (default: change BUNDLE in place).",
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print a row per class.", rich_help_panel=_SAY)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.", rich_help_panel=_SAY)] = False,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Calibrate score thresholds on labelled videos that the model was not trained on.

    Creates operating points: score thresholds per class. max-f1 balances wrong
    and missed actions; precision-0.90 keeps as many actions as possible at
    90 % precision. They are stored in the bundle and used by `tallformer
    detect`. Scores become the probability that an action is right.

    Exit code: 0 success; 1 nothing could be calibrated, or a video failed (the
    others were used); 2 usage error.

    [bold]Examples[/bold]

      tallformer calibrate my-model validation.json --videos validation
      tallformer calibrate my-model truth.json --predictions actions.json --precision 0.8
      tallformer detect match.mp4 --model my-model --operating-point precision-0.90
    """
    if (videos is None) == (predictions is None):
        raise typer.BadParameter("give --videos DIR to detect in, or --predictions FILE; one of them")

    import_interruptibly("tallformer_infer.pipeline")

    from tallformer_infer.commands.progress import JsonReporter, TerminalReporter

    wanted = CalibrateOptions(
        model=model,
        truth=truth,
        videos=videos,
        predictions=predictions,
        subset=subset,
        leave_out=leave_out,
        device=device,
        threads=threads,
        tiou_threshold=tiou,
        precisions=tuple(precision or (0.9,)),
        default=default,
        out=out,
        per_class=per_class,
        as_json=as_json,
    )
    reporter: Reporter = JsonReporter(quiet=quiet) if json_logs else TerminalReporter(quiet=quiet, show=None)
    raise typer.Exit(calibrate_bundle(wanted, reporter))


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What the user asked for."""

    model: str
    """Bundle, or name of a bundled model."""
    truth: Path
    """Annotations of the labelled set."""
    videos: Path | None
    """Folder of its videos; None if there are predictions."""
    predictions: Path | None
    """File of the model's predictions on them."""
    subset: str | None
    """Subset of the truth; None: the only one, or validation."""
    leave_out: Path | None
    """List of videos to skip."""
    device: Device
    """Where to detect."""
    threads: int | None
    """CPU threads."""
    tiou_threshold: float
    """Least overlap of a right action."""
    precisions: tuple[float, ...]
    """Precisions to create points for."""
    default: str
    """Default operating point of `detect`."""
    out: Path | None
    """New bundle; None: change the model in place."""
    per_class: bool
    """Show a row per class."""
    as_json: bool
    """Print JSON."""


def calibrate_bundle(options: CalibrateOptions, reporter: Reporter) -> int:
    """Calibrate, store the operating points and print them.

    Returns:
        Exit code: 0 all done; 1 a video failed.

    Raises:
        TallformerError: The bundle could not be calibrated, and is unchanged.
        typer.BadParameter: An option is out of range.
    """
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.bundle.writing import calibration_destination, write_calibration
    from tallformer_infer.evaluation import calibrate, read_truth
    from tallformer_infer.labels import read_video_list

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
    from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES
    from tallformer_infer.evaluation import points_for

    if not 0 < options.tiou_threshold <= 1:
        raise typer.BadParameter(f"--tiou {options.tiou_threshold}: expected an overlap above 0, up to 1, such as 0.5")
    try:
        names = (*points_for(options.precisions), ALL_ACTIONS, RAW_SCORES)
    except ConfigError as error:
        raise typer.BadParameter(f"--{error}") from error
    if options.default not in names:
        raise typer.BadParameter(f"--default {options.default}: expected one of {', '.join(names)}")


def _read_predictions(path: Path, bundle: Bundle) -> Predictions:
    """Predictions of a file; refuses those of another model, filtered ones and calibrated ones."""
    from tallformer_infer.config import RAW_SCORES
    from tallformer_infer.evaluation import read_origin, read_predictions

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
    from tallformer_infer.pipeline import Detector

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
    from tallformer_infer.config import to_json
    from tallformer_infer.evaluation import ENOUGH_TRUTHS

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
    from tallformer_infer.commands.tables import calibration_tables, describe_calibration
    from tallformer_infer.evaluation import ENOUGH_TRUTHS, listed

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


def find_labelled_videos(folder: Path, names: Collection[str], *, source: str) -> dict[str, Path]:
    """The file of every video, in the order of `names`; it may lie in a folder below.

    Args:
        folder: Where to look.
        names: Videos of the truth: file names with or without suffix, and with or without a leading `v_`.
        source: File of the truth, for messages.

    Raises:
        AnnotationError: A video has no file, or two; or there is no such folder, or no video in it.
    """
    from tallformer_infer.evaluation import listed
    from tallformer_infer.labels import files_of, find_videos

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
        reporter: Shows progress and failures.

    Returns:
        The predictions, and the names of the videos that could not be read.
    """
    from tallformer_infer.config import RAW_SCORES
    from tallformer_infer.evaluation import Predictions
    from tallformer_infer.results import Failure

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
