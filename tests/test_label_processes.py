"""Workers that crash, hang and are killed, and a driver that is: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tallformer_infer.archive.database import ArchiveDatabase
from tests.archive_runs import content_of, start
from tests.videos import textured_pictures, write_video

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX")

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos, two of them the same, one that takes a few seconds, and two files that cannot be used."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, seconds in enumerate((3, 5, 8, 400)):
        frames = textured_pictures(seconds * 15, height_px=64, width_px=64, seed=seed)
        write_video(folder / f"{seed}.mp4", frames, fps=15)
    (folder / "same.mp4").write_bytes((folder / "2.mp4").read_bytes())
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mkv").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory):
    """What a run that nobody disturbs leaves."""
    out = tmp_path_factory.mktemp("expected")
    assert ended(start(videos, out))[0] == 1
    return content_of(out)


def events_of(run):
    for line in run.stderr:
        yield json.loads(line)


def test_run_that_stood_still_as_a_whole_blames_no_video(videos, tmp_path):
    run = start(videos / "3.mp4", tmp_path, "--timeout-factor", "1", start_new_session=True)
    wait_for_work(run)

    os.killpg(run.pid, signal.SIGSTOP)
    time.sleep(4)
    os.killpg(run.pid, signal.SIGCONT)

    assert ended(run)[0] == 0
    assert rows_of(tmp_path)["3.mp4"].attempts == 1


def ended(run):
    """Exit code, and every event there still is."""
    _, said = run.communicate(timeout=TIMEOUT_S)
    return run.returncode, [json.loads(line) for line in said.splitlines()]


def rows_of(out):
    with ArchiveDatabase(out) as database:
        return {Path(row.source).name: row for row in database.videos()}


def disturb(run, name, how, *, times):
    """Send the worker that begins a video a signal, for the first few attempts."""
    left = times
    said = []
    for event in events_of(run):
        said.append(event)
        if event["event"] == "video_started" and event["path"].endswith(name) and left:
            left -= 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(event["place"]), how)
    return ended(run)[0], said


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        (signal.SIGSEGV, "crash", "the worker crashed (SIGSEGV)"),
        (signal.SIGKILL, "killed", "the worker was killed (SIGKILL), as systems do when memory runs out"),
    ],
)
def test_video_whose_worker_dies_is_tried_again(videos, expected, tmp_path, how, kind, words):
    code, said = disturb(start(videos, tmp_path, "--workers", "2"), "3.mp4", how, times=1)

    (failure,) = [event for event in said if event["event"] == "video_failed" and event["path"].endswith("3.mp4")]
    assert (failure["kind"], failure["error"], failure["again"]) == (kind, words, True)
    assert code == 1
    rows, files = content_of(tmp_path)
    assert rows[str(videos / "3.mp4")].pop("attempts") == 2
    undisturbed = {source: dict(row) for source, row in expected[0].items()}
    assert undisturbed[str(videos / "3.mp4")].pop("attempts") == 1
    assert (rows, files) == (undisturbed, expected[1])


def test_video_that_kills_every_worker_fails_and_the_others_are_done(videos, tmp_path):
    run = start(videos, tmp_path, "--workers", "2", "--max-attempts", "2")

    code, _ = disturb(run, "3.mp4", signal.SIGSEGV, times=100)

    rows = rows_of(tmp_path)
    assert code == 1
    assert (rows["3.mp4"].status, rows["3.mp4"].attempts, rows["3.mp4"].error_kind) == ("failed", 2, "crash")
    assert {name for name, row in rows.items() if row.status == "done"} == {"0.mp4", "1.mp4", "2.mp4", "same.mp4"}


def test_worker_that_hangs_is_given_up(videos, tmp_path):
    run = start(videos / "3.mp4", tmp_path, "--timeout-factor", "1", "--max-attempts", "1")
    (worker,) = wait_for_work(run)
    os.kill(worker, signal.SIGSTOP)

    code, rest = ended(run)

    row = rows_of(tmp_path)["3.mp4"]
    assert code == 1, rest
    assert not is_alive(worker)
    assert (row.status, row.error_kind) == ("failed", "hang")
    assert row.error.startswith("hangs: no heartbeat for ")


def test_ctrl_c_ends_within_a_second_and_leaves_all_resumable(videos, expected, tmp_path):
    run = start(videos, tmp_path, "--workers", "2", start_new_session=True)
    workers = wait_for_work(run)

    os.killpg(run.pid, signal.SIGINT)  # as a terminal sends it
    sent_s = time.monotonic()
    code, said = ended(run)
    took_s = time.monotonic() - sent_s

    assert code == 130
    assert said[-1]["event"] == "interrupted"
    assert said[-1]["command"][:2] == ["tallformer", "label"]
    assert took_s < 3  # one second, and what a busy machine adds
    assert {row.status for row in rows_of(tmp_path).values()} <= {"waiting", "done", "failed"}
    assert are_gone(workers)
    assert ended(start(videos, tmp_path))[0] == 1
    assert content_of(tmp_path) == expected


def test_workers_end_with_a_driver_that_was_killed(videos, tmp_path):
    run = start(videos, tmp_path, "--workers", "2")
    workers = wait_for_work(run)

    run.kill()
    run.communicate(timeout=TIMEOUT_S)

    assert are_gone(workers)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_run_that_is_killed_again_and_again_comes_to_the_same_end(videos, expected, tmp_path, kills):
    chance = random.Random(kills)
    for _ in range(kills):
        run = start(videos, tmp_path, "--workers", "2")
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.communicate(timeout=chance.uniform(0.3, 3.5))
        run.kill()
        run.communicate(timeout=TIMEOUT_S)

    code, _ = ended(start(videos, tmp_path))

    assert code == 1
    assert content_of(tmp_path) == expected


def test_second_run_at_the_same_time_is_refused(videos, tmp_path):
    run = start(videos, tmp_path)
    wait_for_work(run)
    run.send_signal(signal.SIGSTOP)  # it must not end before the other has begun

    code, said = ended(start(videos, tmp_path))
    run.kill()
    run.communicate(timeout=TIMEOUT_S)

    assert code == 1
    assert said[-1]["message"].startswith(f"{tmp_path}: another run writes to this archive")


def wait_for_work(run):
    """Wait until a clip is done; the processes of the workers so far."""
    workers = set()
    for event in events_of(run):
        if event["event"] == "video_started":
            workers.add(int(event["place"]))
        if event["event"] == "progress" and event["position_s"]:
            break
    return workers


def are_gone(workers):
    for _ in range(50):
        if not any(is_alive(worker) for worker in workers):
            return True
        time.sleep(0.1)
    return False


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{number}/stat")  # a zombie is gone, but for whoever asks how it ended
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
