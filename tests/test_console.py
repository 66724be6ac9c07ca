"""The shared console: how progress is shown on a terminal, in a log file and to programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallformer_infer import console
from tallformer_infer.console import make_speaker


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_numbers_that_json_cannot_represent_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = make_speaker(quiet=False, json_logs=True)

    with speaker.progress("training steps", 1) as advance:
        advance(1, "", loss=float("nan"))
    speaker.say("validation", "mAP", average_map=float("inf"))

    progress, validation = events(capsys)
    assert progress["loss"] is None
    assert validation["average_map"] is None


def test_programs_get_progress_once_per_second_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with make_speaker(quiet=False, json_logs=True).progress("clips", 1000) as advance:
        for _ in range(1000):
            advance(1)

    done = [event["done"] for event in events(capsys)]
    assert done[0] == 1
    assert done[-1] == 1000
    assert len(done) < 100


def test_a_log_file_gets_a_line_per_minute_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now_s)

    with make_speaker(quiet=False).progress("training steps", 10) as advance:
        for step in range(1, 11):
            now_s = 20.0 * step
            advance(1, f"loss {step}")

    assert capsys.readouterr().err.splitlines() == [
        "tallformer: training steps: 3 of 10, loss 3",
        "tallformer: training steps: 6 of 10, loss 6",
        "tallformer: training steps: 9 of 10, loss 9",
        "tallformer: training steps: 10 of 10, loss 10",
    ]


def test_a_terminal_shows_names_with_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")

    with make_speaker(quiet=False).progress("frames of videos", 2) as advance:
        advance(2, "match[red]1.mp4")

    shown = capsys.readouterr().err
    assert "match[red]1.mp4" in shown
    assert "2/2" in shown


@pytest.mark.parametrize("json_logs", [False, True])
def test_quiet_shows_warnings_and_no_progress(capsys: pytest.CaptureFixture[str], json_logs: bool) -> None:
    speaker = make_speaker(quiet=True, json_logs=json_logs)

    with speaker.progress("clips", 2) as advance:
        advance(2)
    speaker.say("note", "nothing")
    speaker.say("warning", "something")

    (line,) = capsys.readouterr().err.splitlines()
    assert "something" in line
