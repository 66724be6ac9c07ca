"""The command line apart from what its commands do: start-up, help, forwarding and errors."""

from __future__ import annotations

import json
import pkgutil
import re
import resource
import statistics
import subprocess
import sys
import types

import pytest
import typer

import tallformer_infer
from tallformer_infer import cli
from tallformer_infer.errors import MediaError
from tallformer_infer.installing import install_command

HEAVY = {"torch", "av", "onnxruntime", "numpy"}


def python(program, *arguments):
    """Run a program in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)


def modules_after(program):
    return set(python(f"{program}\nimport sys; print(' '.join(sys.modules))").stdout.split())


@pytest.fixture
def command(monkeypatch):
    """Make the body of `tallformer import` for one test; its arguments come back from the fixture's list."""

    def make(body, *, json_logs=False):
        app = typer.Typer(add_completion=False)

        @app.command()
        def one(context: typer.Context, file: str = "x", json_logs: bool = json_logs) -> None:
            """A command."""
            body(context)

        module = types.ModuleType("tallformer_training.commands.import_checkpoint")
        module.app = app
        monkeypatch.setitem(sys.modules, "tallformer_training.commands.import_checkpoint", module)

    return make


def test_help_answers_within_half_a_second():
    """In processor time: it is one thread that waits for nothing, and other programs may keep the machine busy."""

    def spent_s():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def seconds():
        before = spent_s()
        subprocess.run([sys.executable, "-m", "tallformer_infer", "--help"], check=True, stdout=subprocess.DEVNULL)
        return spent_s() - before

    assert 0 < statistics.median(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(argument):
    loaded = modules_after(f"from tallformer_infer.cli import run; run(['{argument}'])")

    assert "tallformer_infer.cli" in loaded
    assert not loaded & HEAVY


def test_importing_the_package_loads_nothing_heavy():
    assert not modules_after("import tallformer_infer") & HEAVY


def test_no_module_of_the_package_loads_torch():
    names = [module.name for module in pkgutil.walk_packages(tallformer_infer.__path__, "tallformer_infer.")]
    names.remove("tallformer_infer.__main__")

    loaded = modules_after(f"import importlib\nfor name in {names}: importlib.import_module(name)")

    assert set(names) <= loaded
    assert not {name.partition(".")[0] for name in loaded} & {"torch", "tallformer_training", "tallformer_export"}


def test_version_is_printed(capsys):
    assert cli.run(["--version"]) == 0

    assert capsys.readouterr().out == f"tallformer {tallformer_infer.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_command(arguments, capsys):
    assert cli.run(arguments) == 0

    shown = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert re.search(rf"{command.name} +{re.escape(command.help)}", shown)


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help_under_its_own_name(name, option, capsys):
    assert cli.run([name, option]) == 0

    assert f"Usage: tallformer {name}" in capsys.readouterr().out


def test_unknown_command_is_usage_and_names_a_near_one(capsys):
    assert cli.run(["detct"]) == 2

    assert "tallformer: error: no such command 'detct'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect"], "missing argument 'VIDEO"),
        (["detect", "x.mp4", "--threshold", "1.5"], "invalid value for '--threshold'"),
        (["detect", "x.mp4", "--top-k", "0"], "invalid value for '--top-k'"),
        (["detect", "x.mp4", "--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', "),
        (["detect", "x.mp4", "--windows", "none"], "invalid value for '--windows'"),
        (["detect", "x.mp4", "--thread", "2"], "no such option: --thread"),
        (["detect", "x.mp4", "./x.mp4"], "./x.mp4: is named twice"),
        (["detect", "nothing-*.mp4"], "nothing-*.mp4: no file matches this pattern"),
    ],
)
def test_wrong_usage_is_one_line_and_where_to_look(arguments, message, capsys):
    assert cli.run(arguments) == 2

    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("tallformer: error: ")
    assert message in first
    assert second == "tallformer: see `tallformer detect --help`"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["detect", "x.mp4", "--threshold", "1.5", "--json-logs"], 2, "invalid value for '--threshold'"),
        (["detect", "x.mp4", "./x.mp4", "--json-logs"], 2, "./x.mp4: is named twice"),
        (["detect", "x.mp4", "--out", "gone/x.json", "--json-logs"], 1, "gone/x.json: there is no folder gone"),
        (["detct", "--json-logs"], 2, "no such command 'detct'"),
    ],
)
def test_every_error_is_a_json_line_where_those_are_asked_for(arguments, code, message, capsys):
    assert cli.run(arguments) == code

    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["event"] == "error"
    assert message in event["message"]
    assert (event.get("hint", "").startswith("see `tallformer")) == (code == 2)


def test_unexpected_error_is_a_json_line_too(command, capsys):
    def body(_context):
        raise KeyError("weights")

    command(body, json_logs=True)

    assert cli.run(["import", "--json-logs"]) == 1
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["message"]) == ("error", "KeyError: 'weights'")
    assert "--debug" in event["hint"]


def test_what_stands_after_two_dashes_is_no_option(command, capsys):
    seen = []
    app = typer.Typer(add_completion=False)

    @app.command()
    def one(files: list[str]) -> None:
        seen.extend(files)
        raise KeyError("x")

    command(lambda context: None)
    sys.modules["tallformer_training.commands.import_checkpoint"].app = app

    assert cli.run(["import", "--", "--debug", "--json-logs"]) == 1
    assert seen == ["--debug", "--json-logs"]
    assert capsys.readouterr().err.startswith("tallformer: error: KeyError")


def test_arguments_are_forwarded_untouched(command):
    seen = []
    app = typer.Typer(add_completion=False)

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def one(context: typer.Context) -> None:
        seen.append((context.command_path, context.args))

    command(lambda context: None)
    sys.modules["tallformer_training.commands.import_checkpoint"].app = app

    assert cli.run(["import", "a.pth", "--out", "b", "-x", "c"]) == 0
    assert seen == [("tallformer import", ["a.pth", "--out", "b", "-x", "c"])]


def test_exit_code_of_a_command_is_passed_on(command):
    def body(_context):
        raise typer.Exit(1)

    command(body)

    assert cli.run(["import"]) == 1


def test_usage_of_a_forwarded_command_has_its_own_name(command, capsys):
    command(lambda context: None)

    assert cli.run(["import", "--nonsense"]) == 2
    assert "see `tallformer import --help`" in capsys.readouterr().err


def test_deliberate_error_is_one_line(command, capsys):
    def body(_context):
        raise MediaError("/x.mp4: no such video")

    command(body)

    assert cli.run(["import"]) == 1
    assert capsys.readouterr().err == "tallformer: error: /x.mp4: no such video\n"


def test_unexpected_error_is_told_without_a_traceback(command, capsys):
    def body(_context):
        raise KeyError("weights")

    command(body)

    assert cli.run(["import"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("tallformer: error: KeyError: 'weights'\n")
    assert "--debug" in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback_wherever_the_option_stands(command, capsys):
    def body(_context):
        raise KeyError("weights")

    command(body)

    for arguments in (["--debug", "import"], ["import", "--debug"]):
        assert cli.run(arguments) == 1
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_shown_as_an_escape(command, capsys):
    def body(_context):
        raise MediaError("a\x1b[2J\u202e.mp4: no such video")

    command(body)
    cli.run(["import"])

    assert r"a\x1b[2J\u202e.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "extra", "arguments"),
    [
        ("import", "train", ["a.pth", "--recipe", "thumos14-swin-t", "--out", "a.safetensors"]),
        ("export", "export", ["thumos14-swin-t", "--random-weights", "0", "--out", "bundle"]),
    ],
)
def test_missing_extra_is_told_with_the_line_that_installs_it(name, extra, arguments):
    program = (
        "import sys; sys.modules['torch'] = None; from tallformer_infer.cli import run; sys.exit(run(sys.argv[1:]))"
    )

    run = subprocess.run([sys.executable, "-c", program, name, *arguments], capture_output=True, text=True, check=False)

    assert run.returncode == 1
    assert run.stderr.startswith(f"tallformer: error: tallformer {name} needs the extra '{extra}'")
    assert run.stderr.endswith(f"{install_command(extra)}\n")
    assert run.stderr.count("tallformer: ") == 1


def test_missing_part_of_the_project_itself_is_not_blamed_on_an_extra(command, capsys):
    def body(_context):
        raise ModuleNotFoundError("No module named 'tallformer_training.gone'", name="tallformer_training.gone")

    command(body)

    assert cli.run(["import"]) == 1
    assert "needs the extra" not in capsys.readouterr().err


def test_reader_that_goes_away_is_no_traceback():
    pipeline = f"{sys.executable} -m tallformer_infer models show thumos14-swin-b --recipe | true"

    run = subprocess.run(pipeline, shell=True, capture_output=True, text=True, check=False)

    assert run.stderr == ""
