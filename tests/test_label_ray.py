"""Labelling in Ray actors: the same rows as in processes, also when a node is lost."""

from __future__ import annotations

import json
import os

import pytest

from tests.archive_runs import content_of, start
from tests.videos import textured_pictures, write_video

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Ray's own
]
TIMEOUT_S = 180


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, seconds in enumerate((400, 200, 3, 5, 8)):
        frames = textured_pictures(seconds * 15, height_px=64, width_px=64, seed=seed)
        write_video(folder / f"{seed}.mp4", frames, fps=15)
    (folder / "same.mp4").write_bytes((folder / "2.mp4").read_bytes())
    (folder / "text.mkv").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    run = start(videos, out, "--workers", "2", "--threads", "1")
    run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 1
    return content_of(out)


@pytest.fixture
def cluster():
    """Two nodes with a CPU each."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    yield cluster, other
    cluster.shutdown()


def events_of(lines):
    """Ray writes to standard error, too."""
    return (json.loads(line) for line in lines if line.startswith('{"time"'))


def test_rows_are_those_of_processes(videos, expected, tmp_path):
    run = start(videos, tmp_path, "--engine", "ray", "--address", "local", "--workers", "2")

    _, said = run.communicate(timeout=TIMEOUT_S)

    assert run.returncode == 1, said
    assert content_of(tmp_path) == expected


def test_node_that_is_killed_in_mid_run_costs_nothing(videos, expected, tmp_path, cluster):
    both, other = cluster
    run = start(videos, tmp_path, "--engine", "ray", "--address", both.address)
    said = []
    began = set()
    for event in events_of(run.stderr):
        said.append(event)
        if said[-1]["event"] == "progress" and said[-1]["position_s"]:
            began.add(said[-1]["path"])
            if len(began) == 2:
                break

    both.remove_node(other, allow_graceful=False)
    _, rest = run.communicate(timeout=TIMEOUT_S)

    events = [*said, *events_of(rest.splitlines())]
    assert run.returncode == 1, rest
    assert any("was lost" in event.get("error", "") for event in events)
    assert content_of(tmp_path) == expected


def test_address_where_no_cluster_is_is_one_line(videos, tmp_path):
    run = start(videos, tmp_path, "--engine", "ray", "--address", "127.0.0.1:1")

    _, said = run.communicate(timeout=TIMEOUT_S)

    assert run.returncode == 1
    assert json.loads(said.splitlines()[-1])["message"].startswith("--address 127.0.0.1:1: no Ray cluster answers")
