"""`tallformer detect`: one model, one or more videos, one document."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import typer
from rich.console import Console, RenderableType

from tallformer_infer.bundle import Bundle
from tallformer_infer.commands.calibration_tables import describe_point
from tallformer_infer.commands.inputs import missing_files
from tallformer_infer.commands.reporting import Reporter
from tallformer_infer.commands.result_files import RunFacts, check_result_files, partial_files, write_result_files
from tallformer_infer.commands.tables import display_floor, outside_domain
from tallformer_infer.commands.truth_table import KnownSegments
from tallformer_infer.config import RAW_SCORES, Calibration
from tallformer_infer.config.class_groups import expand_groups
from tallformer_infer.devices import Device, RunPrecision
from tallformer_infer.errors import ConfigError, OutputError, TallformerError
from tallformer_infer.evaluation import read_class_scores
from tallformer_infer.pipeline import Detector, choose_layout, choose_point, choose_windows
from tallformer_infer.results import (
    STDOUT,
    Failure,
    Selection,
    check_selection,
)
from tallformer_infer.stopping import StoppedError, run_interruptibly
from tallformer_infer.structures import Result, Windows
from tallformer_infer.text import counted, printable


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """What the user asked for."""

    videos: tuple[str, ...]
    """Files and addresses, each once."""
    out: Path | None
    """File to write, `-` for stdout; None shows tables only."""
    model: str | None
    """Bundle, or name of a bundled model; None is the default one."""
    device: Device
    """Where to run."""
    precision: RunPrecision | None
    """Of the encoder; None leaves it to the runtime."""
    threads: int | None
    """CPU threads."""
    windows: Windows | float
    """How windows are laid, or seconds of one."""
    rates: tuple[float, ...] | None
    """Frames per second at which actions are looked for; None: the recipe's own."""
    class_scores: Path | None
    """File that says what whole videos show; None lets the model say it."""
    threshold: float | None
    """Lowest score to keep."""
    top_k: int | None
    """Most actions to keep per video."""
    classes: tuple[str, ...]
    """Names of the actions to keep, as typed: one or several with commas; none keeps all."""
    operating_point: str | None
    """Point of the model, `all` or `none`; None leaves it to the model."""
    form: str
    """Format of what is written."""
    known: KnownSegments | None
    """What is known to happen in the videos."""
    video_stream: int | None = None
    """Which of a file's video streams; None takes the main one."""
    show: Callable[[Result], RenderableType]
    """The table of a video."""
    given: tuple[str, ...]
    """Options as the user gave them, without `--out`, to be said again in the command to go on with."""


class DetectingModel(Protocol):
    """A model of this machine, or of a server."""

    def load(self, reporter: Reporter) -> None:
        """Make it ready, and check that what is asked for is something it can give."""

    def detect(self, path: str, reporter: Reporter) -> Result:
        """Detect in one video."""

    def warning(self, result: Result) -> str:
        """What is wrong with using the model on this video; empty where nothing is."""


def detect_videos(options: DetectOptions, model: DetectingModel, reporter: Reporter) -> int:
    """Detect in every video, and write the document.

    Returns:
        Exit code: 0 all done; 1 a video failed.

    Raises:
        StoppedError: The run was told to stop, and has said how to go on.
        TallformerError: The run cannot start, or its result cannot be written.
        typer.BadParameter: An option does not fit the model.
    """
    if options.out is not None:
        check_result_files(options.out, options.form, options.videos)
    run = _Run(options, model, reporter)
    try:
        there = run.report_missing()
        if there:
            model.load(reporter)
        for path in there:
            reporter.started(path, options.videos.index(path), len(options.videos))
            run.detect(path)
        return run.finish()
    except KeyboardInterrupt as error:
        reporter.stopped()
        run.keep_what_is_done()
        raise StoppedError from error


class LocalModel:
    """A model that runs here."""

    def __init__(self, options: DetectOptions) -> None:
        """Load nothing yet."""
        self._options = options

    def load(self, reporter: Reporter) -> None:
        """Load the model, and check that what is asked for is something it can give."""
        options = self._options
        scores = None if options.class_scores is None else read_class_scores(options.class_scores)
        reporter.loading(options.device)
        try:
            self._detector = run_interruptibly(
                lambda: Detector.load(
                    options.model,
                    device=options.device,
                    precision=options.precision,
                    threads=options.threads,
                    class_scores=scores,
                )
            )
        finally:
            reporter.stopped()
        bundle = self._detector.bundle
        self._selection = self._check(bundle)
        reporter.loaded(self._detector)
        if bundle.calibration is not None:
            _say_point(bundle.calibration, self._selection.operating_point, reporter)

    def _check(self, bundle: Bundle) -> Selection:
        """What decides which actions are kept, if the model can do it."""
        options = self._options
        see = shlex.join(["tallformer", "info", options.model or bundle.name])
        try:
            classes = split_classes(options.classes, bundle.recipe.classes)
            check_selection(
                threshold=options.threshold,
                top_k=options.top_k,
                classes=classes,
                known=bundle.recipe.classes,
                see=see,
            )
            laid, _ = choose_windows(bundle.recipe, options.windows)
            choose_layout(bundle.recipe, laid, options.rates)
            point = choose_point(bundle, options.operating_point, threshold=options.threshold, classes=classes)
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from error
        return Selection(threshold=options.threshold, top_k=options.top_k, classes=classes, operating_point=point)

    def detect(self, path: str, reporter: Reporter) -> Result:
        """Detect in one video."""
        return self._detector.detect(
            path,
            windows=self._options.windows,
            rates=self._options.rates,
            video_stream=self._options.video_stream,
            **{**vars(self._selection), "operating_point": self._selection.operating_point or RAW_SCORES},
            on_progress=reporter.progressed,
        )

    def warning(self, result: Result) -> str:
        """A model of generated videos does not work on others."""
        return outside_domain(result, self._detector.bundle.footage)


class _Run:
    """One model and what came of the videos so far."""

    def __init__(self, options: DetectOptions, model: DetectingModel, reporter: Reporter) -> None:
        self._options = options
        self._model = model
        self._reporter = reporter
        self._results: list[Result] = []
        self._has_warned = False
        self._failures: list[Failure] = []

    def report_missing(self) -> list[str]:
        """Report files that are not there, before a model is loaded; the other videos are given back."""
        missing = missing_files(self._options.videos)
        for path in missing:
            self._failures.append(Failure(path, printable(f"{path}: no such video")))
            self._reporter.failed(self._failures[-1])
        return [path for path in self._options.videos if path not in missing]

    def detect(self, path: str) -> None:
        """Detect in one video; in a run of many, whatever is wrong with it does not end the run."""
        try:
            result = run_interruptibly(lambda: self._model.detect(path, self._reporter))
        except Exception as error:
            is_known = isinstance(error, TallformerError)
            if not is_known and len(self._options.videos) == 1:
                self._reporter.stopped()
                error.add_note(f"(in {path})")
                raise
            message = str(error) if is_known else f"{type(error).__name__}: {error}"
            self._failures.append(Failure(path, printable(message)))
            self._reporter.failed(self._failures[-1])
            return
        self._results.append(result)
        self._reporter.done(result)
        if not self._has_warned and (warning := self._model.warning(result)):
            self._has_warned = True
            self._reporter.say("warning", f"warning: {printable(warning)}", path=path)
        if self._options.out is None:
            Console(highlight=False).print(self._options.show(result))

    def finish(self) -> int:
        """Write the document, sum up, and give the exit code."""
        out = self._options.out
        count = len(self._options.videos)
        if self._failures and count > 1:
            self._reporter.say("error", f"{len(self._failures)} of {count} videos failed")
        if out is not None and self._results:
            self._write(out)
        elif out is not None:
            self._reporter.say("error", f"{_named(out)} was not written", out=str(out))
        elif self._results:
            self._reporter.say("hint", "--out actions.json writes this as JSON")
        return 1 if self._failures else 0

    def keep_what_is_done(self) -> None:
        """When told to stop: keep finished videos in a document of another name, and say how to go on."""
        out = self._options.out
        reached = {result.video.path for result in self._results} | {failure.path for failure in self._failures}
        left = [path for path in self._options.videos if path not in reached]
        if out is not None and self._results and left and self._keep(out, left):
            return
        untouched = f"; {_named(out)} was not written" if out is not None else ""
        message = f"stopped{untouched}; to go on, run the same command again"
        self._reporter.say("interrupted", message, videos_left=left)

    def _keep(self, out: Path, left: list[str]) -> bool:
        kept, rest = partial_files(out)
        if out == STDOUT:
            return self._keep_on_stdout(left)
        try:
            self._write(kept)
        except OutputError as error:
            self._reporter.say("error", printable(error))
            return False
        again = ["tallformer", "detect", *self._options.given, "--out", str(rest), *as_arguments(left)]
        unwritten = "" if kept == out else f"{_named(out)} was not written, "
        message = f"stopped; {unwritten}what is done is in {_named(kept)}; for the rest: {printable(shlex.join(again))}"
        self._reporter.say("interrupted", message, videos_left=left, command=again)
        return True

    def _keep_on_stdout(self, left: list[str]) -> bool:
        try:
            self._write(STDOUT)
        except OutputError as error:
            self._reporter.say("error", printable(error))
            return False
        again = ["tallformer", "detect", *self._options.given, "--out", "-", *as_arguments(left)]
        message = f"stopped; what is done was written to stdout; for the rest: {printable(shlex.join(again))}"
        self._reporter.say("interrupted", message, videos_left=left, command=again)
        return True

    def _write(self, out: Path) -> None:
        form = self._options.form
        facts = RunFacts(selection=self._results[0].selection, failures=self._failures, known=self._options.known)
        for note in write_result_files(self._results, form, out, facts):
            self._reporter.say("warning", note)
        found = sum(len(result.actions) for result in self._results)
        numbers = {"out": str(out), "videos": len(self._results), "actions": found}
        done = f"{counted(found, 'action')} of {counted(len(self._results), 'video')}"
        self._reporter.say("written", f"wrote {done} to {_named(out)}", **numbers)
        low = sum(action.score < display_floor(result) for result in self._results for action in result.actions)
        if low and form not in ("json", "activitynet"):
            hint = (
                f"{low} of them have low scores: the model is not calibrated; --threshold X leaves out those below X, "
                "`tallformer calibrate` finds a threshold"
            )
            self._reporter.say("hint", hint)


def _say_point(calibration: Calibration, point: str | None, reporter: Reporter) -> None:
    """Which actions are kept, and what is never among them."""
    message = f"operating point {describe_point(calibration, point)}"
    nothing = calibration.keeps_nothing_of(point) if point in calibration.points and point is not None else ()
    if nothing:
        message = f"{message}; it keeps nothing of: {printable(', '.join(nothing))}"
    reporter.say("operating_point", message, name=point, keeps_nothing_of=nothing)


def split_classes(values: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...] | None:
    """Class names as typed, each once, `@groups` expanded; a name that has a comma in it is not split.

    Raises:
        ConfigError: A group is unknown, or the model knows none of its classes.
    """
    names = [name.strip() for value in values for name in ([value] if value in known else value.split(","))]
    return expand_groups(names, known) or None


def as_arguments(videos: Sequence[str]) -> list[str]:
    is_like_an_option = any(video.startswith("-") and video != "-" for video in videos)
    return [*(["--"] if is_like_an_option else []), *videos]


def _named(out: Path) -> str:
    return "stdout" if out == STDOUT else printable(out)
