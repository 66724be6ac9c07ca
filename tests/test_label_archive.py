"""The acceptance run: many short videos, and every odd file there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_training.synthetic import VideoSpec, write_script, write_video


def label(*sources, out, options=()):
    command = [sys.executable, "-m", "tallformer_infer", "label", *map(str, sources), "--out", str(out), "--json-logs"]
    before_s = children_cpu_s()
    done = subprocess.run(
        [*command, "--model", "demo", *options], capture_output=True, text=True, check=False, timeout=1500
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    return done.returncode, events, children_cpu_s() - before_s


def children_cpu_s():
    times = os.times()
    return times.children_user + times.children_system


def statuses(out):
    with ArchiveDatabase(out) as database:
        return Counter(row.status for row in database.videos())


def test_odd_files_do_not_disturb_a_run_and_say_what_is_wrong(shared_videos, tmp_path):
    code, events, _ = label(shared_videos, out=tmp_path)

    failed = [event for event in events if event["event"] == "video_failed"]
    count = len([path for path in shared_videos.iterdir() if path.suffix != ".md"])
    assert code == 1
    assert [(event["path"].rpartition("/")[2], event["kind"]) for event in failed] == [("tfio_audio_only.mp4", "media")]
    assert failed[0]["error"].endswith("no video stream")
    assert statuses(tmp_path) == {"done": count - 1, "failed": 1}


@pytest.mark.slow
def test_two_hundred_videos_and_every_odd_file(shared_videos, tmp_path):
    """Written by one run; a second does nothing within 3 s, and a third with another threshold takes at most 5 s.

    Of processor time, imports included, which is the same on a busy machine; `benchmarks/bench_archive.py` has both.
    """
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for index in range(200):
        spec = VideoSpec(subset="testing", seed=0, index=index, minutes=0.1, fps=15, width_px=96, height_px=96)
        write_video(write_script(spec), videos / f"{index}.mp4")

    code, events, _ = label(videos, shared_videos, out=out)
    assert code == 1
    assert statuses(out) == {"done": 224, "failed": 1}

    code, events, took_s = label(videos, shared_videos, out=out)
    assert (events[-1]["done"], events[-1]["unchanged"]) == (0, 224)
    assert took_s <= 3

    code, events, took_s = label(videos, shared_videos, out=out, options=["--threshold", "0.3"])
    assert (events[-1]["done"], events[-1]["clips_encoded"]) == (224, 0)
    assert took_s <= 5
