"""A disk that is full: stored features are done without, results that cannot be written are tried again."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from tallformer_infer.archive.database import ArchiveDatabase
from tests.archive_runs import content_of, label
from tests.videos import textured_pictures, write_video

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(4):
        write_video(folder / f"{seed}.mp4", textured_pictures(450, height_px=64, width_px=64, seed=seed), fps=15)
    return folder


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Runs a script in which `$disk` is a file system of its own; only root of a namespace may mount one."""
    folder = tmp_path_factory.mktemp("disk")

    def run(script, *, size):
        begin = f"disk={shlex.quote(str(folder))}; mount -t tmpfs -o size={size} none $disk || exit 99; "
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", begin + script],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        return done.returncode, done.stderr

    if not shutil.which("unshare") or run("true", size="64k")[0] != 0:
        pytest.skip("needs unshare, and leave to mount a file system")
    return run


def command(videos, out, *options):
    return (
        shlex.join(
            [
                sys.executable,
                "-m",
                "tallformer_infer",
                "label",
                str(videos),
                "--device",
                "cpu",
                "--json-logs",
                "--threads",
                "1",
                "--operating-point",
                "none",
                "--model",
                "demo",
                *options,
            ]
        )
        + f" --out {out}"
    )


def test_store_without_space_is_done_without(videos, small_disk, tmp_path):
    out = tmp_path / "out"

    code, said = small_disk(f"{command(videos, out)} --store $disk/store", size="48k")

    assert code == 0, said
    with ArchiveDatabase(out) as database:
        rows = database.videos()
    assert {row.status for row in rows} == {"done"}
    assert any("features are not stored: No space left on device" in row.remarks for row in rows)
    label(videos, out=tmp_path / "expected")
    found, expected = (
        {row["name"]: row["actions"] for row in content_of(folder)[0].values()}
        for folder in (out, tmp_path / "expected")
    )
    assert found == expected


def test_archive_without_space_goes_on_when_there_is_some(videos, small_disk, tmp_path):
    """Whatever could not be written: the run ends with a reason, and the next one ends as one with space would have."""
    label_all = command(videos, "$disk/out", "--store-gb", "0")
    copied = shlex.quote(str(tmp_path / "copied"))
    code, said = small_disk(
        f"{label_all}; echo '{{\"first\": '$?'}}' >&2; mount -o remount,size=64m $disk; {label_all}; "
        f"code=$?; cp -r $disk/out {copied}; exit $code",
        size="140k",
    )

    events = [json.loads(line) for line in said.splitlines()]
    assert code == 0, said
    assert {"first": 1} in events
    assert "cannot be written" in said
    label(videos, out=tmp_path / "expected", store=None)
    rows, files = content_of(tmp_path / "copied")
    for row in rows.values():
        row.pop("attempts")  # an attempt whose results could not be written counts
    expected, expected_files = content_of(tmp_path / "expected")
    for row in expected.values():
        row.pop("attempts")
    assert (rows, files) == (expected, expected_files)
