"""`tallformer bench`: what it measures, shows and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import get_args, get_type_hints

import pytest

from tallformer_infer import cli
from tallformer_infer.commands.bench import bench as bench_command
from tallformer_infer.diagnosis import sample_video
from tallformer_infer.diagnosis import stages as ceilings
from tallformer_infer.runtime import Device
from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video

QUICK = ("--threads", "1", "--rounds", "1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_bundle(tmp_path_factory.mktemp("bundle") / "small"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return str(write_video(path, noise_pictures(60, height_px=48, width_px=64), fps=10, codec_options={"g": "10"}))


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    monkeypatch.setitem(ceilings._SIDES, "cpu", 128)


def bench(capsys, *arguments):
    code = cli.run(["bench", *arguments, *QUICK])
    return code, *capsys.readouterr()


def test_json_holds_stages_ceilings_and_what_binds(capsys, video):
    code, shown, _ = bench(capsys, video, "--json", "--quiet")

    assert code == 0
    found = json.loads(shown)
    assert (found["video"]["path"], found["video"]["source_frames"], found["video"]["frames"]) == (video, 60, 90)
    assert (found["model"]["name"], found["encode"]["clips"], found["rounds"]) == ("demo", 3, 1)
    assert found["model"]["gigaflop_per_clip"] == pytest.approx(0.726)
    assert found["binds"] in {"decode", "encode"}
    assert found["ceilings"]["matrix_gigaflop_per_s"] > 0
    for stage in ("decode", "encode", "detect"):
        assert found[stage]["median_s"] > 0
        assert found[stage]["times_real_time"] == pytest.approx(6.0 / found[stage]["median_s"], rel=0.01)
        assert found[stage]["ceiling_share"] > 0


def test_the_table_goes_to_stderr_and_says_what_binds(capsys, video, bundle):
    code, shown, said = bench(capsys, video, "--model", bundle, "--batch", "3")

    assert (code, shown) == (0, "")
    lines = said.splitlines()
    assert lines[0] == f"{video}: 0:06.0, 64×48 h264, 60 frames, 90 sampled"
    assert "1 thread" in lines[1]
    assert [line[:18].strip() for line in lines[4:7]] == ["decode alone", "encode alone", "detect, all of it"]
    assert " is the bottleneck: alone it takes " in lines[8]


def test_only_the_first_seconds_of_a_long_video_are_measured(capsys, video, bundle):
    _, shown, _ = bench(capsys, video, "--model", bundle, "--seconds", "2", "--json", "--quiet")

    found = json.loads(shown)
    assert found["video"]["path"] == video
    assert found["video"]["measured_s"] == pytest.approx(2.0, abs=0.2)


def test_without_a_video_h264_is_made(capsys, monkeypatch, bundle):
    monkeypatch.setattr(sample_video, "_LOOP_S", 1)
    _, shown, _ = bench(capsys, "--model", bundle, "--seconds", "2", "--json", "--quiet")

    found = json.loads(shown)["video"]
    assert (found["path"], found["codec"], found["width_px"], found["height_px"]) == ("generated", "h264", 1280, 720)
    assert found["source_frames"] == 60


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.mp4", "nowhere.mp4: "),
        ("-", "-: is read several times; expected a regular file, so save it first"),
        ("https://example.org/a.mp4", "https://example.org/a.mp4: is read several times"),
    ],
)
def test_what_cannot_be_read_several_times_is_refused_in_one_line(capsys, source, reason):
    code, shown, said = bench(capsys, source)

    assert (code, shown) == (1, "")
    (line,) = said.splitlines()
    assert line.startswith(f"tallformer: error: {reason}")


def test_devices_are_those_of_every_runtime():
    assert get_args(get_type_hints(bench_command)["device"]) == get_args(Device)


def test_what_is_no_video_is_refused_in_one_line(capsys, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    code, _, said = bench(capsys, str(tmp_path / "a.mp4"), "--json-logs")

    assert code == 1
    assert json.loads(said.splitlines()[-1])["event"] == "error"


@pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX")
def test_ctrl_c_ends_within_a_second_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "tallformer_infer", "bench", "--model", "demo", "--rounds", "50", "--json-logs"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        for line in run.stderr:
            if "generating a video" in line:
                break
        started = time.monotonic()
        run.send_signal(signal.SIGINT)
        run.wait(10)
        seconds, said = time.monotonic() - started, run.stderr.read()

    assert run.returncode == 130
    assert seconds < 1
    assert json.loads(said.splitlines()[-1])["event"] == "interrupted"
    assert list(tmp_path.glob("tallformer*")) == []
