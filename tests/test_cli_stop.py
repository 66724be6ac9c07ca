"""Ctrl-C and SIGTERM at any moment: one line, the exit code of shells, and nothing that calls it a bug."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest
import typer

from tallformer_infer import cli
from tallformer_infer.errors import CheckpointError, StoppedError
from tallformer_infer.stopping import install_stop_handler, raise_if_stopped, run_interruptibly, stop_signal
from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX")

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TIMEOUT_S = 30


@pytest.fixture
def handlers():
    """Handlers of a program that has just begun; those of the tests come back afterwards."""
    before = {number: signal.getsignal(number) for number in CODES}
    for number in CODES:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(monkeypatch):
    """Make the body of `tallformer import` for one test."""

    def make(body):
        app = typer.Typer(add_completion=False)
        app.command()(body)
        module = types.ModuleType("tallformer_training.commands.import_checkpoint")
        module.app = app
        monkeypatch.setitem(sys.modules, "tallformer_training.commands.import_checkpoint", module)

    return make


def swallow(number):
    """Code that is not ours and makes another error of the signal, as onnxruntime does while it is imported."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(1)
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(run):
    """Exit code and what was said."""
    _, shown = run.communicate(timeout=TIMEOUT_S)
    return run.returncode, shown


def test_ctrl_c_is_exit_code_130_and_says_so(command, capsys):
    def body():
        raise KeyboardInterrupt

    command(body)

    assert cli.run(["import"]) == 130
    assert capsys.readouterr().err == "tallformer: stopped\n"


def test_command_that_has_told_of_the_stop_is_not_told_of_again(command, capsys):
    def body():
        raise StoppedError

    command(body)

    assert cli.run(["import"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_stop_that_other_code_makes_an_error_of_is_a_stop(number, code, command, handlers, capsys):
    command(lambda: swallow(number))
    install_stop_handler()

    assert cli.run(["import"]) == code
    assert capsys.readouterr().err == "tallformer: stopped\n"


def test_stop_that_became_one_of_our_errors_is_a_stop(command, handlers, capsys):
    def body():
        try:
            swallow(signal.SIGINT)
        except ImportError as error:
            raise CheckpointError("x.pth: not a readable checkpoint") from error

    command(body)
    install_stop_handler()

    assert cli.run(["import"]) == 130
    assert capsys.readouterr().err == "tallformer: stopped\n"


def test_stop_is_a_json_line_where_those_are_asked_for(command, handlers, capsys):
    def body(json_logs: bool = False):
        raise KeyboardInterrupt

    command(body)

    assert cli.run(["import", "--json-logs"]) == 130
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["message"]) == ("interrupted", "stopped")


def test_stop_that_was_dropped_is_heard_before_the_next_piece_of_work(handlers):
    install_stop_handler()
    with pytest.raises(ImportError):
        swallow(signal.SIGTERM)

    assert stop_signal() == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(lambda: pytest.fail("began"))


def test_without_a_signal_nothing_stops(handlers):
    install_stop_handler()
    raise_if_stopped()

    assert stop_signal() is None
    assert run_interruptibly(lambda: 7) == 7


def test_second_signal_of_the_same_stop_does_not_disturb_what_the_first_began(handlers):
    install_stop_handler()

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert stop_signal() == signal.SIGTERM


def test_later_signal_interrupts_again(handlers, monkeypatch):
    install_stop_handler()
    now_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(time, "monotonic", lambda: now_s + 2)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_signal_that_a_shell_has_ignored_stays_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    install_stop_handler()

    signal.raise_signal(signal.SIGINT)

    assert stop_signal() is None


@pytest.mark.parametrize(("number", "code"), CODES.items())
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("onnxruntime.capi.onnxruntime_pybind11_state", ["detect", "missing.mp4"]),
        ("torch._C", ["import", "missing.pth", "--recipe", "tiny", "--out", "gone.safetensors"]),
        ("torch._C", ["export", "missing.safetensors", "--out", "gone"]),
    ],
)
def test_signal_while_native_code_is_imported_is_one_line(module, arguments, number, code):
    program = f"""
import os, sys
class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Sender())
from tallformer_infer.cli import main
main()
"""
    assert ended(start(program, *arguments)) == (code, "tallformer: stopped\n")


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_finished_videos_are_kept_whichever_signal_stops(number, code, tmp_path):
    bundle = write_bundle(tmp_path / "small")
    video = write_video(tmp_path / "a.mp4", noise_pictures(10, height_px=32, width_px=32), fps=5)
    out = tmp_path / "x.json"
    arguments = ["detect", str(video), "-", "--model", str(bundle), "--threads", "1", "--out", str(out), "--json-logs"]
    run = start("from tallformer_infer.cli import main; main()", *arguments)
    events = []
    while events[-2:] != ["video_done", "video_started"]:
        event = json.loads(run.stderr.readline())["event"]
        events += [event] if event in ("video_done", "video_started") else []

    run.send_signal(number)
    got, shown = ended(run)

    assert got == code
    last = json.loads(shown.splitlines()[-1])
    assert last["event"] == "interrupted"
    rest = str(tmp_path / "x.rest.json")
    given = ["--model", str(bundle), "--threads", "1", "--json-logs"]
    assert last["command"] == ["tallformer", "detect", *given, "--out", rest, "-"]
    assert not out.exists()
    assert len(json.loads((tmp_path / "x.partial.json").read_text())["videos"]) == 1
