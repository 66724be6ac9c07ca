"""`tallformer detect` while it runs: what moves on a terminal, and what Ctrl-C leaves behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal and SIGINT")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_bundle(tmp_path_factory.mktemp("bundle") / "small"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_progress_on_a_terminal_has_position_speed_and_time_left(folder, bundle):
    write_video(folder / "a.mp4", noise_pictures(600, height_px=240, width_px=320), fps=10)
    screen = on_terminal("detect", "a.mp4", "--model", bundle, "--threads", "1", "--out", "x.json")

    assert re.search(r"a\.mp4 .*0:\d\d / 1:00 \S+× real time 0:\d\d left", screen)
    assert (folder / "x.json").exists()


def test_ctrl_c_ends_within_a_second_and_writes_nothing(folder, bundle):
    with start("detect", "-", "--model", bundle, "--out", "x.json", "--json-logs") as run:
        wait_for_event(run, "video_started")
        seconds = interrupt(run)
        shown = run.stderr.read()

    assert run.returncode == 130
    assert seconds < 1
    assert "x.json was not written; to resume, run the same command again" in shown
    assert list(folder.iterdir()) == []


def test_ctrl_c_keeps_finished_videos_apart_and_says_how_to_go_on(folder, bundle):
    write_video(folder / "a.mp4", noise_pictures(10, height_px=32, width_px=32), fps=5)
    (folder / "x.json").write_text("before")
    with start("detect", "a.mp4", "-", "--model", bundle, "--out", "x.json", "--json-logs") as run:
        wait_for_event(run, "video_done")
        wait_for_event(run, "video_started")
        interrupt(run)
        shown = run.stderr.read()

    assert run.returncode == 130
    assert "Traceback" not in shown
    assert (folder / "x.json").read_text() == "before"
    assert [found["path"] for found in json.loads((folder / "x.partial.json").read_bytes())["videos"]] == ["a.mp4"]
    again = ["tallformer", "detect", "--model", bundle, "--json-logs", "--out", "x.rest.json", "-"]
    assert json.loads(shown.splitlines()[-1])["command"] == again
    assert f"finished videos are in x.partial.json; for the rest, run: {shlex.join(again)}" in shown
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "x.json", "x.partial.json"]


def start(*arguments):
    """Start `tallformer` with a standard input that never ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "tallformer_infer", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_event(run, name):
    for line in run.stderr:
        if json.loads(line)["event"] == name:
            return
    pytest.fail(f"ended before the event {name}")


def interrupt(run):
    """Press Ctrl-C, and give the seconds until the end."""
    started = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.wait(10)
    return time.monotonic() - started


def on_terminal(*arguments):
    """Run `tallformer` on a pseudo-terminal, and give what it wrote without colours."""
    import pty  # noqa: PLC0415 (POSIX only)

    program = [sys.executable, "-m", "tallformer_infer", *arguments]
    here, there = pty.openpty()
    run = subprocess.Popen(program, stdin=there, stdout=there, stderr=there, env=os.environ | {"COLUMNS": "100"})
    os.close(there)
    written = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # Linux says so when the other side has closed
            part = b""
        if not part:
            break
        written += part
    os.close(here)
    assert run.wait(10) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())
