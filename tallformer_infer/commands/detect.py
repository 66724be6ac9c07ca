"""`tallformer detect`: detect actions in videos with a model of this machine or of a server, and write the results."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer
from rich.console import Console, RenderableType

from tallformer_infer.commands import options
from tallformer_infer.commands.options import (
    DetectorOptions,
    as_arguments,
    expand_videos,
    given_options,
    missing_files,
    output_format,
    output_named,
    parse_rates,
    parse_windows,
    wanted_classes,
)
from tallformer_infer.errors import OutputError, StoppedError, TallformerError
from tallformer_infer.stopping import import_interruptibly, run_interruptibly
from tallformer_infer.text import counted, printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.commands.progress import Reporter
    from tallformer_infer.commands.tables import KnownSegments
    from tallformer_infer.config import Calibration
    from tallformer_infer.results import Failure
    from tallformer_infer.structures import Result


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


_SERVER = "On a server"
_ONLY_HERE = ("model", "device", "precision", "threads", "hwaccel", "windows", "stream", "rates", "class_scores")
"""Options that a server decides itself."""


@app.command()
def detect(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    context: typer.Context,
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            show_default=False,
            help="Files, folders, patterns such as '*.mp4', http(s) URLs, or - (stdin).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Output file; - is stdout."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            parser=output_named,
            help="Output format (default: from the ending of --out, else json).",
        ),
    ] = None,
    dialect: Annotated[Literal["tallformer", "activitynet"] | None, typer.Option(hidden=True)] = None,
    model: options.Model = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    hwaccel: options.Hwaccel = "none",
    windows: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="Window layout. shared: encode each frame once. reference: as in the paper. SECONDS: window length "
            "for models of whole videos.",
            rich_help_panel=options.RUN,
        ),
    ] = "shared",
    stream: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Video stream to analyse in files with several, from 0 (default: the main one).",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    rates: options.Rates = None,
    class_scores: options.ClassScores = None,
    threshold: options.Threshold = None,
    operating_point: options.OperatingPoint = None,
    top_k: options.TopK = None,
    classes: options.Classes = None,
    classes_file: options.ClassesFile = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send the videos to a `tallformer serve`, which detects with its model.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    token: Annotated[
        str | None,
        options.token_option("Token of the server (default: TALLFORMER_TOKEN).", _SERVER),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=0, metavar="N", help="Rows to show per video.", rich_help_panel=options.PROGRESS)
    ] = 20,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ground truth to show next to the detections.", rich_help_panel=options.PROGRESS
        ),
    ] = None,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Detect actions in videos.

    Without --out, prints a table per video. With --out, writes the actions to
    FILE, which is replaced atomically, and prints the tables to stderr.

    A calibrated model keeps the actions of its default operating point, or
    those above --threshold. `tallformer info` lists the points.

    Formats: json (actions.json), html (report page), activitynet, csv, tsv,
    jsonl, labelstudio, via and boris hold all videos; srt, vtt, eaf (ELAN),
    otio, edl, fcp7 and ffmetadata hold one video per file, and --out is then a
    folder for several.

    Exit code: 0 success; 1 a video failed (the others are written); 2 usage
    error; 130 Ctrl-C; 143 SIGTERM.

    [bold]Examples[/bold]

      tallformer detect match.mp4
      tallformer detect *.mp4 --out actions.json --threshold 0.3
      tallformer detect match.mp4 --out match.eaf
      tallformer detect match.mp4 --rates 15,5,1.67
      tallformer detect match.mp4 --classes @sports -o - | jq .videos
      tallformer detect match.mp4 --server http://127.0.0.1:8080
    """
    _check_server_options(context, server)
    named = expand_videos(videos)  # before the imports that take time

    import_interruptibly("tallformer_infer.commands.progress")
    import_interruptibly("tallformer_infer.commands.result_files")

    from tallformer_infer.commands.progress import JsonReporter, TerminalReporter
    from tallformer_infer.commands.tables import KnownSegments, actions_table

    known = None if truth is None else KnownSegments(truth)
    show = functools.partial(actions_table, rows=rows, known=known)
    wanted = DetectOptions(
        videos=named,
        out=out,
        detector=DetectorOptions(
            model=model,
            device=device,
            precision=precision,
            threads=threads,
            hwaccel=hwaccel,
            windows=parse_windows(windows),
            rates=parse_rates(rates),
            class_scores=class_scores,
            threshold=threshold,
            top_k=top_k,
            classes=wanted_classes(classes, classes_file),
            operating_point=operating_point,
        ),
        form=form or ("activitynet" if dialect == "activitynet" else output_format(out)),
        known=known,
        video_stream=stream,
        show=show,
        given=given_options(context, without=("out", "token")),
    )
    tables = None if out is None else show  # without --out, the table is what goes to stdout
    reporter: Reporter = JsonReporter(quiet=quiet) if json_logs else TerminalReporter(quiet=quiet, show=tables)
    if server is None:
        raise typer.Exit(detect_videos(wanted, LocalModel(wanted), reporter))

    from tallformer_infer.commands.remote import RemoteModel

    with RemoteModel(server, token, wanted) as remote:
        raise typer.Exit(detect_videos(wanted, remote, reporter))


def _check_server_options(context: typer.Context, server: str | None) -> None:
    """Refuse options of the local model beside --server, and the token without it."""
    others = [name for name in context.params if name not in _ONLY_HERE]
    given = given_options(context, without=others)
    if server is not None and given:
        raise typer.BadParameter(f"{given[0]} does not go with --server, which decides it: `tallformer serve --help`")
    if server is None and given_options(context, without=[name for name in context.params if name != "token"]):
        raise typer.BadParameter("--token is for --server URL")


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """What the user asked for."""

    videos: tuple[str, ...]
    """Files and URLs, each once."""
    out: Path | None
    """Output file, `-` for stdout; None: tables only."""
    detector: DetectorOptions
    """Model, device, and which actions to keep."""
    form: str
    """Output format."""
    known: KnownSegments | None
    """Ground truth to show next to the detections."""
    video_stream: int | None = None
    """Video stream of a file with several; None: the main one."""
    show: Callable[[Result], RenderableType]
    """Makes the table of a video."""
    given: tuple[str, ...]
    """Options as the user gave them, without `--out`, for the command that resumes the run."""


class DetectingModel(Protocol):
    """A model on this machine or on a server."""

    def load(self, reporter: Reporter) -> None:
        """Load the model, and check that the options fit it."""

    def detect(self, path: str, reporter: Reporter) -> Result:
        """Detect in one video."""

    def warning(self, result: Result) -> str:
        """Why the model does not fit this video; empty if it does."""


def detect_videos(options: DetectOptions, model: DetectingModel, reporter: Reporter) -> int:
    """Detect in every video, and write the results.

    Returns:
        Exit code: 0 all done; 1 a video failed.

    Raises:
        StoppedError: The run was stopped, and has printed how to resume.
        TallformerError: The run cannot start, or its result cannot be written.
        typer.BadParameter: An option does not fit the model.
    """
    from tallformer_infer.commands.result_files import check_result_files

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
    """A model on this machine."""

    def __init__(self, options: DetectOptions) -> None:
        """Load nothing yet."""
        self._options = options

    def load(self, reporter: Reporter) -> None:
        """Load the model, and check that the options fit it."""
        options = self._options.detector
        reporter.loading(options.device)
        try:
            self._detector = options.load()
        finally:
            reporter.stopped()
        bundle = self._detector.bundle
        self._selection = options.selection(bundle)
        options.layout(bundle)
        reporter.loaded(self._detector)
        if options.hwaccel != "none":
            hardware = self._detector.hardware
            reporter.say("decoder", f"decoding: {printable(hardware.reason)}", hwaccel=hardware.kind)
        if bundle.calibration is not None:
            _say_point(bundle.calibration, self._selection.operating_point, reporter)

    def detect(self, path: str, reporter: Reporter) -> Result:
        """Detect in one video."""
        from tallformer_infer.config import RAW_SCORES

        return self._detector.detect(
            path,
            windows=self._options.detector.windows,
            rates=self._options.detector.rates,
            video_stream=self._options.video_stream,
            **{**vars(self._selection), "operating_point": self._selection.operating_point or RAW_SCORES},
            on_progress=reporter.progressed,
        )

    def warning(self, result: Result) -> str:
        """A model of generated videos does not work on others."""
        from tallformer_infer.commands.tables import outside_domain

        return outside_domain(result, self._detector.bundle.footage)


class _Run:
    """The state of a run: the model, and the videos so far."""

    def __init__(self, options: DetectOptions, model: DetectingModel, reporter: Reporter) -> None:
        self._options = options
        self._model = model
        self._reporter = reporter
        self._results: list[Result] = []
        self._has_warned = False
        self._failures: list[Failure] = []

    def report_missing(self) -> list[str]:
        """Report missing files before a model is loaded, and return the other videos."""
        from tallformer_infer.results import Failure

        missing = missing_files(self._options.videos)
        for path in missing:
            self._failures.append(Failure(path, printable(f"{path}: no such video")))
            self._reporter.failed(self._failures[-1])
        return [path for path in self._options.videos if path not in missing]

    def detect(self, path: str) -> None:
        """Detect in one video; in a run of several, an error does not end the run."""
        from tallformer_infer.results import Failure

        try:
            result = run_interruptibly(functools.partial(self._model.detect, path, self._reporter))
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
        """Write the results, and return the exit code."""
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
        """When stopped: write the finished videos to a file of another name, and print how to resume."""
        out = self._options.out
        reached = {result.video.path for result in self._results} | {failure.path for failure in self._failures}
        left = [path for path in self._options.videos if path not in reached]
        if out is not None and self._results and left and self._keep(out, left):
            return
        untouched = f"; {_named(out)} was not written" if out is not None else ""
        message = f"stopped{untouched}; to resume, run the same command again"
        self._reporter.say("interrupted", message, videos_left=left)

    def _keep(self, out: Path, left: list[str]) -> bool:
        from tallformer_infer.commands.result_files import partial_files
        from tallformer_infer.results import STDOUT

        kept, rest = partial_files(out)
        try:
            self._write(kept)
        except OutputError as error:
            self._reporter.say("error", printable(error))
            return False
        again = ["tallformer", "detect", *self._options.given, "--out", str(rest), *as_arguments(left)]
        unwritten = "" if kept == out else f"{_named(out)} was not written, "
        where = "were written to stdout" if out == STDOUT else f"are in {_named(kept)}"
        message = f"stopped; {unwritten}finished videos {where}; for the rest, run: {printable(shlex.join(again))}"
        self._reporter.say("interrupted", message, videos_left=left, command=again)
        return True

    def _write(self, out: Path) -> None:
        from tallformer_infer.commands.result_files import RunFacts, write_result_files
        from tallformer_infer.results import display_floor

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
    """Report the operating point, and classes that it never keeps."""
    from tallformer_infer.commands.tables import describe_point

    message = f"operating point {describe_point(calibration, point)}"
    nothing = calibration.keeps_nothing_of(point) if point in calibration.points and point is not None else ()
    if nothing:
        message = f"{message}; it keeps nothing of: {printable(', '.join(nothing))}"
    reporter.say("operating_point", message, name=point, keeps_nothing_of=nothing)


def _named(out: Path) -> str:
    from tallformer_infer.results import STDOUT

    return "stdout" if out == STDOUT else printable(out)
