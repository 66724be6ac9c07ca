"""The command line: its commands, and how their errors reach the user.

Note [commands are loaded when they run]
    `tallformer --help` must be instant, without NumPy, PyAV, ONNX Runtime or torch, and `tallformer_infer` must not
    import the packages that need torch. So this module names the module of each command, and loads the one that runs.
    Each has a Typer `app`, which gets the arguments unchanged.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperCommand

from tallformer_infer.errors import AnnotationError, ExtraError, OutputError, StoppedError, TallformerError
from tallformer_infer.stopping import install_stop_handler, stop_code, stop_signal

_TYPER_STOPPED = 130
"""What Typer returns when Ctrl-C reaches it; commands that have reported it raise `StoppedError`."""


@dataclass(frozen=True)
class Command:
    """A subcommand that is loaded when it runs."""

    name: str
    """Name of the subcommand."""
    module: str
    """Module of its Typer `app`."""
    extra: str
    """Extra that installs what it needs."""
    help: str
    """One line for `tallformer --help`."""
    panel: str
    """Heading under which `tallformer --help` lists it."""


_USE, _MAKE = "Use a model", "Make a model"
COMMANDS = (
    Command("detect", "tallformer_infer.commands.detect", "cpu", "Detect actions in videos.", _USE),
    Command(
        "label", "tallformer_infer.commands.label", "cpu", "Detect actions in an archive of videos; resumable.", _USE
    ),
    Command("archive", "tallformer_infer.commands.archive", "archive", "Query and export labelled results.", _USE),
    Command(
        "suggest-next", "tallformer_infer.commands.suggest_next", "cpu", "Suggest which videos to label next.", _USE
    ),
    Command("eval", "tallformer_infer.commands.eval", "cpu", "Score predictions against ground truth.", _USE),
    Command(
        "calibrate",
        "tallformer_infer.commands.calibrate",
        "cpu",
        "Calibrate score thresholds on labelled videos.",
        _USE,
    ),
    Command("convert", "tallformer_infer.commands.convert", "cpu", "Convert labels between formats.", _USE),
    Command("report", "tallformer_infer.commands.report", "report", "Write an HTML page to review results.", _USE),
    Command("features", "tallformer_infer.commands.features", "cpu", "Extract clip features for other models.", _USE),
    Command("watch", "tallformer_infer.commands.watch", "cpu", "Detect actions in a live stream.", _USE),
    Command("serve", "tallformer_infer.commands.serve", "serve", "Serve detection over HTTP, with a page.", _USE),
    Command("models", "tallformer_infer.commands.models", "cpu", "List models and recipes, or show one.", _USE),
    Command("info", "tallformer_infer.commands.info", "cpu", "Show the contents of a model bundle.", _USE),
    Command("engine", "tallformer_infer.commands.engine", "tensorrt", "Build and list TensorRT engines.", _USE),
    Command("doctor", "tallformer_infer.commands.doctor", "cpu", "Check devices and packages of this machine.", _USE),
    Command("bench", "tallformer_infer.commands.bench", "cpu", "Benchmark detection on this machine.", _USE),
    Command("train", "tallformer_training.commands.train", "train", "Train a detector on your own videos.", _MAKE),
    Command(
        "import",
        "tallformer_training.commands.import_checkpoint",
        "train",
        "Import checkpoints of other projects.",
        _MAKE,
    ),
    Command("export", "tallformer_export.commands.export", "export", "Export a checkpoint to a model bundle.", _MAKE),
)

app = typer.Typer(
    name="tallformer",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line on the program's arguments, and exit."""
    guard_streams()
    install_stop_handler()
    code = run(sys.argv[1:])
    if stop_signal() is not None:
        # Threads that decode or run a graph would keep the program alive for as long as their call takes.
        with contextlib.suppress(OSError, OutputError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; no exception gets out but `SystemExit`.

    Args:
        arguments: Without the name of the program.

    Returns:
        0 all done; 1 an input or the run failed; 2 usage; 130 Ctrl-C; 143 SIGTERM.
    """
    options, values = _split_at_dashes(arguments)
    debug, as_json = "--debug" in options, "--json-logs" in options
    try:
        code = app(
            [*(option for option in options if option != "--debug"), *values], prog_name=NAME, standalone_mode=False
        )
    except StoppedError as error:
        return _stopped(as_json=as_json) if str(error) else stop_code()
    except (KeyboardInterrupt, typer.Abort):
        return _stopped(as_json=as_json)
    except Exception as error:
        if debug:
            traceback.print_exc()
        # Note [a stop can get lost] in `stopping`
        return _explain(error, options, as_json=as_json) if stop_signal() is None else _stopped(as_json=as_json)
    if code == _TYPER_STOPPED:
        return _stopped(as_json=as_json)
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def _tallformer(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback on errors.")] = False,
) -> None:
    """Temporal action detection: find actions in video, with start, end, name and score.

    [bold]First steps[/bold]

      tallformer detect video.mp4
      tallformer detect *.mp4 --out actions.json
      tallformer detect --help
    """
    if version:
        from tallformer_infer import __version__

        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _Forwarding(TyperCommand):
    """A command that forwards every argument, `--help` and `--` included."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []


def _register(command: Command) -> None:
    @app.command(command.name, cls=_Forwarding, help=command.help, rich_help_panel=command.panel, add_help_option=False)
    def forward(context: typer.Context) -> None:
        from tallformer_infer.stopping import import_interruptibly

        name = f"{NAME} {command.name}"
        with _naming_the_extra(name, command.extra):
            module = import_interruptibly(command.module)
            code = module.app(context.args, prog_name=name, standalone_mode=False, help_option_names=["-h", "--help"])
        raise typer.Exit(code if isinstance(code, int) else 0)


NAME = "tallformer"
for _command in COMMANDS:
    _register(_command)


@contextlib.contextmanager
def _naming_the_extra(name: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        from tallformer_infer.installing import install_command

        missing = (error.name or "").partition(".")[0]
        if missing.startswith(NAME):
            raise
        raise ExtraError(
            f"{name} needs the extra {extra!r} ({missing} is not installed): {install_command(extra)}"
        ) from error


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # Typer does not export what its parser raises


def _split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments before `--`, and those from `--` on, none of which is an option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:end]), list(arguments[end:])


def _stopped(*, as_json: bool) -> int:
    if as_json:
        from tallformer_infer.console import write_event

        write_event("interrupted", message="stopped")
    else:
        _say("stopped")
    return stop_code()


def _explain(error: Exception, options: Sequence[str], *, as_json: bool) -> int:
    """Print what is wrong in one line, and return the exit code."""
    if isinstance(error, _UsageError):
        return _explain_usage(error, options, as_json=as_json)
    if isinstance(error, TallformerError):
        # One line for each problem of a file of annotations, else one for the error.
        for line in str(error).splitlines() if isinstance(error, AnnotationError) else [str(error)]:
            _say_error(line, as_json=as_json)
        return 1
    notes = " ".join(getattr(error, "__notes__", ()))
    hint = "this is a bug in tallformer or a damaged install; run with --debug to see the traceback"
    _say_error(f"{type(error).__name__}: {error} {notes}".rstrip(), hint=hint, as_json=as_json)
    return 1


def _explain_usage(error: Any, options: Sequence[str], *, as_json: bool) -> int:
    message = error.format_message()
    if not message.strip():  # a group called without a command, which has printed its help
        return 2
    message = message.replace(": Value error, ", ": ").removeprefix("Invalid value: ")
    hint = f"see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
    if file := _file_taken_for_options(options):
        hint = f"if you mean the file {file}, write ./{file} or put -- before it"
    _say_error(f"{message[:1].lower()}{message[1:].rstrip('.')}", hint=hint, as_json=as_json)
    return 2


def _file_taken_for_options(options: Sequence[str]) -> str | None:
    """The first argument that looks like an option, and is the name of a file."""
    return next((one for one in options if one.startswith("-") and one != "-" and os.path.lexists(one)), None)


def _say_error(message: str, *, hint: str = "", as_json: bool) -> None:
    if as_json:
        from tallformer_infer.console import write_event

        write_event("error", message=message, **({"hint": hint} if hint else {}))
        return
    _say(f"error: {message}", colour=typer.colors.RED)
    if hint:
        _say(hint)


def _say(text: str, *, colour: str | None = None) -> None:
    from tallformer_infer.text import printable

    line = " ".join(part.strip() for part in text.splitlines())
    typer.secho(f"{NAME}: {printable(line)}", err=True, fg=colour)


def guard_streams() -> None:
    """Have writing to a full or closed standard output raise `OutputError`; a closed standard error takes everything.

    A character that a stream cannot carry becomes a question mark. What is to be exact is written as bytes.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (as long as the program)
    sys.stdout = _guarded(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _guarded(stdout: TextIO | None) -> TextIO:
    if stdout is None:  # as `>&-` makes it
        return _ClosedOutput()  # type: ignore[return-value]
    buffer = stdout.buffer
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(stdout, io.TextIOWrapper) or type(raw) is not io.FileIO:  # a console of Windows, a test
        return stdout
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(raw.fileno(), "w", closefd=False)),
        encoding=stdout.encoding,
        line_buffering=stdout.line_buffering or stdout.write_through,
    )


class _Output(io.FileIO):
    """Fails once; then it takes everything, as what is left in buffers is written again when the program ends."""

    _has_failed = False

    def write(self, data: Any, /) -> int:
        """As `FileIO`, with an `OutputError`; a reader that went away stays the error that it is."""
        if self._has_failed:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._has_failed = True
            raise OutputError(f"standard output: cannot be written: {error.strerror or error}") from error


class _ClosedOutput(io.TextIOBase):
    @property
    def closed(self) -> bool:
        """Yes, for whoever asks before writing."""
        return True

    def isatty(self) -> bool:
        """No."""
        return False

    def flush(self) -> None:
        """Nothing to do."""

    def write(self, _text: str, /) -> int:
        """Refuse."""
        raise OutputError("standard output: is closed; leave it open, or write to a file")
