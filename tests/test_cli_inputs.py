"""What a command line names: the options that are said again in the command to go on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import typer

from tallformer_infer import cli
from tallformer_infer.commands import detect, result_files
from tallformer_infer.commands.options import given_options
from tallformer_infer.errors import OutputError
from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video


def given(*arguments):
    """What `given_options` makes of a command line."""
    seen = []
    app = typer.Typer()

    @app.command()
    def one(
        context: typer.Context,
        videos: list[str],
        out: Annotated[Path | None, typer.Option("--out", "-o")] = None,
        threshold: Annotated[float | None, typer.Option("-t", "--threshold")] = None,
        classes: list[str] | None = None,
        quiet: Annotated[bool, typer.Option("--quiet", "-q")] = False,
        rows: int = 20,
    ) -> None:
        seen.append(given_options(context, without=("out",)))

    app(list(arguments), standalone_mode=False)
    return list(seen[0])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.mp4"], []),
        (["a.mp4", "-o", "x.json"], []),
        (["a.mp4", "-q", "-t", "0.25"], ["--threshold", "0.25", "--quiet"]),
        (["--rows=20", "a.mp4"], ["--rows", "20"]),
        (["a.mp4", "--classes", "b,c", "--classes", "d e"], ["--classes", "b,c", "--classes", "d e"]),
    ],
)
def test_options_are_said_again_as_they_were_given(arguments, expected):
    assert given(*arguments) == expected


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """Stop `tallformer detect` in its second video, `-b.mp4`; the exit code and the events come back."""
    monkeypatch.chdir(tmp_path)
    bundle = write_bundle(tmp_path / "small")
    write_video(tmp_path / "a.mp4", noise_pictures(10, height_px=32, width_px=32), fps=5)
    (tmp_path / "-b.mp4").touch()
    waiting = detect.run_interruptibly

    def run_interruptibly(work):
        if getattr(work, "args", ())[:1] == ("-b.mp4",):
            raise KeyboardInterrupt
        return waiting(work)

    monkeypatch.setattr(detect, "run_interruptibly", run_interruptibly)

    def run(*options):
        code = cli.run(["detect", "--model", str(bundle), "--json-logs", *options, "--", "a.mp4", "-b.mp4"])
        run.shown = capsys.readouterr()
        return code, [json.loads(line) for line in run.shown.err.splitlines()]

    return run


def test_the_command_to_go_on_with_has_every_option_and_can_be_run(stopped, tmp_path):
    code, events = stopped("--threshold", "0.25", "--top-k", "3", "--classes", "sit, then stand", "-o", "x.json")

    assert code == 130
    assert events[-1]["command"] == [
        *("tallformer", "detect", "--model", str(tmp_path / "small"), "--threshold", "0.25", "--top-k", "3"),
        *("--classes", "sit, then stand", "--json-logs", "--out", "x.rest.json", "--", "-b.mp4"),
    ]
    assert cli.run([*events[-1]["command"][1:-1], "a.mp4"]) == 0
    settings = [json.loads((tmp_path / name).read_text())["settings"] for name in ("x.partial.json", "x.rest.json")]
    assert settings[0] == settings[1]


def test_what_is_done_and_cannot_be_kept_is_told_of(stopped, monkeypatch):
    def full(document, out):
        raise OutputError(f"{out}: cannot be written: No space left on device")

    monkeypatch.setattr(result_files, "write_document", full)

    code, events = stopped("-o", "x.json")

    assert code == 130
    assert [event["event"] for event in events[-2:]] == ["error", "interrupted"]
    assert events[-2]["message"] == "x.partial.json: cannot be written: No space left on device"
    assert "x.json was not written; to resume, run the same command again" in events[-1]["message"]


def test_what_is_done_goes_to_stdout_where_the_result_would_have_gone(stopped):
    code, events = stopped("-o", "-")

    assert code == 130
    assert [video["path"] for video in json.loads(stopped.shown.out)["videos"]] == ["a.mp4"]
    assert "finished videos were written to stdout" in events[-1]["message"]
    assert events[-1]["command"][-4:] == ["--out", "-", "--", "-b.mp4"]
