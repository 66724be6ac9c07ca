"""Standard output that is full, closed or left by its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")

needs_full = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video and a model."""
    path = tmp_path_factory.mktemp("streams")
    write_bundle(path / "small")
    write_video(path / "a.mp4", noise_pictures(10, height_px=32, width_px=32), fps=5)
    return path


def shell(folder, line):
    """Run a line in which `tallformer` is the program."""
    line = line.replace("tallformer", f"{sys.executable} -m tallformer_infer", 1)
    return subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)


OUTPUTS = [
    "tallformer detect a.mp4 --model small -q --out -",
    "tallformer detect a.mp4 --model small -q",
    "tallformer info small",
    "tallformer info small --json",
    "tallformer models",
    "tallformer --version",
]


@needs_full
@pytest.mark.parametrize("line", OUTPUTS)
@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1 "])
def test_full_disk_behind_stdout_is_one_line(folder, line, unbuffered):
    run = shell(folder, f"{unbuffered}{line} > /dev/full")

    assert run.stderr == "tallformer: error: standard output: cannot be written: No space left on device\n"
    assert run.returncode == 1


@pytest.mark.parametrize("line", OUTPUTS)
def test_closed_stdout_is_one_line(folder, line):
    run = shell(folder, f"{line} >&-")

    assert run.stderr == "tallformer: error: standard output: is closed; leave it open, or write to a file\n"
    assert run.returncode == 1


def test_closed_stdout_is_refused_before_the_model_is_loaded(folder):
    run = shell(folder, "tallformer detect a.mp4 --model nowhere --out - >&-")

    assert run.stderr.startswith("tallformer: error: standard output: is closed")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("logs", ["", "--json-logs"])
def test_closed_stream_that_is_not_needed_is_no_error(folder, closed, logs, tmp_path):
    out = tmp_path / "x.json"

    run = shell(folder, f"tallformer detect a.mp4 --model small --rows 1 --out {out} {logs} {closed}")

    assert run.returncode == 0
    assert out.exists()


@needs_full
def test_table_that_cannot_be_shown_is_not_called_a_bug(folder):
    run = shell(folder, "tallformer detect a.mp4 --model small > /dev/full")

    assert "bug" not in run.stderr
    assert run.returncode == 1


def test_characters_that_stdout_cannot_carry_become_question_marks(folder):
    run = shell(folder, "PYTHONIOENCODING=ascii tallformer detect a.mp4 --model small -q")

    assert run.returncode == 0
    assert "32?32" in run.stdout
