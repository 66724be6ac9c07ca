"""Cores that a process may use, from files as Linux writes them for a process in a container."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tallformer_infer import devices
from tallformer_infer.archive.processes import share_videos
from tallformer_infer.bundle import load_bundle
from tallformer_infer.devices import allowed_cores, available_cores, core_quota, cores_by_quota, share_cores
from tallformer_infer.media import decoding
from tallformer_infer.media.byte_sources import open_source
from tallformer_infer.media.decoding import Decoder
from tallformer_infer.runtime import OnnxRuntime, onnx


class Described:
    """A folder like `/proc/self`, and a tree of control groups beside it."""

    def __init__(self, folder: Path) -> None:
        self.process = folder / "process"
        self.groups = folder / "control groups"
        self.process.mkdir()
        self.groups.mkdir()

    def is_in(self, *lines: str) -> None:
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mounts(self, kind: str, *, root: str = "/", options: str = "rw") -> None:
        place = str(self.groups).replace(" ", r"\040")
        (self.process / "mountinfo").write_text(
            "21 1 0:20 / /proc rw,nosuid - proc proc rw\n"
            f"30 21 0:26 {root} {place} rw,nosuid shared:4 - {kind} {kind} {options}\n"
        )

    def limits(self, group: str, **files: str) -> None:
        folder = self.groups / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def described(tmp_path: Path) -> Described:
    return Described(tmp_path)


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 cores, all of which may be used."""
    monkeypatch.setattr(devices, "allowed_cores", lambda: 64)


def test_quota_of_version_2_is_that_of_the_group_of_the_process(described: Described) -> None:
    described.is_in("0::/system.slice/job.service")
    described.mounts("cgroup2")
    described.limits("system.slice/job.service", cpu__max="150000 100000")
    described.limits("system.slice/other.service", cpu__max="50000 100000")

    assert core_quota(process=described.process) == 1.5


def test_quota_of_a_container_that_sees_its_own_group_only(described: Described) -> None:
    described.is_in("0::/")
    described.mounts("cgroup2")
    described.limits("", cpu__max="200000 100000")

    assert core_quota(process=described.process) == 2


def test_least_quota_of_the_groups_above_counts(described: Described) -> None:
    described.is_in("0::/pod/container")
    described.mounts("cgroup2")
    described.limits("pod/container", cpu__max="max 100000")
    described.limits("pod", cpu__max="300000 100000")
    described.limits("", cpu__max="400000 100000")

    assert core_quota(process=described.process) == 3


def test_quota_of_version_1_is_in_two_files_of_the_group_for_the_processor(described: Described) -> None:
    described.is_in("4:memory:/docker/a", "3:cpu,cpuacct:/docker/a", "1:name=systemd:/docker/b")
    described.mounts("cgroup", options="rw,cpu,cpuacct")
    described.limits("docker/a", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")

    assert core_quota(process=described.process) == 0.5


def test_path_of_the_host_is_read_from_where_the_mount_begins(described: Described) -> None:
    described.is_in("3:cpu:/docker/a/job")
    described.mounts("cgroup", root="/docker/a", options="rw,cpu")
    described.limits("job", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    described.limits("", cpu__cfs_quota_us="700000", cpu__cfs_period_us="100000")

    assert core_quota(process=described.process) == 7


@pytest.mark.parametrize("root", ["/", "/job"])
def test_group_that_cannot_be_seen_leaves_the_one_that_is_mounted(described: Described, root: str) -> None:
    described.is_in("0::/../elsewhere")
    described.mounts("cgroup2", root=root)
    described.limits("../elsewhere", cpu__max="100000 100000")
    described.limits("", cpu__max="200000 100000")

    assert core_quota(process=described.process) == 2


@pytest.mark.parametrize("text", ["max 100000", "-1 100000", "0 100000", "100000", "", "a b"])
def test_what_is_no_limit_is_none(described: Described, text: str) -> None:
    described.is_in("0::/")
    described.mounts("cgroup2")
    described.limits("", cpu__max=text)

    assert core_quota(process=described.process) is None


def test_files_of_other_controllers_are_not_read(described: Described) -> None:
    described.is_in("5:memory:/a", "not a line")
    described.mounts("cgroup", options="rw,memory")
    described.limits("a", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")

    assert core_quota(process=described.process) is None


def test_system_that_describes_no_process_has_no_quota(tmp_path: Path) -> None:
    assert core_quota(process=tmp_path) is None
    assert available_cores(process=tmp_path) == allowed_cores() >= 1


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(("quota", "wanted"), [("200000", 2), ("250000", 3), ("10000", 1), ("6350000", 64)])
def test_cores_are_those_of_the_quota_rounded_up(described: Described, quota: str, wanted: int) -> None:
    described.is_in("0::/")
    described.mounts("cgroup2")
    described.limits("", cpu__max=f"{quota} 100000")

    assert available_cores(process=described.process) == wanted
    assert cores_by_quota(process=described.process) == (None if wanted == 64 else wanted)


@pytest.mark.usefixtures("many_cores")
def test_quota_of_more_than_the_allowed_cores_changes_nothing(described: Described) -> None:
    described.is_in("0::/")
    described.mounts("cgroup2")
    described.limits("", cpu__max="12800000 100000")

    assert available_cores(process=described.process) == 64
    assert cores_by_quota(process=described.process) is None


def test_libraries_that_count_cores_themselves_are_told_of_a_quota(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(decoding, "available_cores", lambda: 3)
    monkeypatch.setattr(onnx, "cores_by_quota", lambda: 3)

    example = root / "docs/example/example.mp4"
    with (
        contextlib.closing(open_source(example)) as source,
        contextlib.closing(Decoder(source, str(example))) as decoder,
    ):
        threads = decoder._stream.codec_context.thread_count
    graphs = OnnxRuntime(load_bundle(), device="cpu")._localizer.get_session_options()

    assert (threads, graphs.intra_op_num_threads) == (5, 3)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 4), (14, 16), (64, 16)])
def test_a_codec_has_some_threads_more_than_cores(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    monkeypatch.setattr(decoding, "available_cores", lambda: cores)

    assert decoding.codec_threads() == threads


def test_quota_of_this_process_can_be_asked() -> None:
    quota = core_quota()

    assert quota is None or quota > 0
    assert 1 <= available_cores() <= allowed_cores()


@pytest.mark.parametrize(
    ("number", "most", "calls"),
    [
        (1, 8, 1),
        (2, 8, 2),
        (8, 8, 8),
        (9, 8, 8),
        (12, 8, 6),
        (13, 8, 6),
        (15, 8, 7),
        (16, 8, 8),
        (20, 8, 6),
        (12, 1, 1),
    ],
)
def test_clips_side_by_side_leave_few_cores_idle(number, most, calls):
    """Of 12 and 15 cores only 8 were used: eight clips of one thread each."""
    assert share_cores(number, most) == calls
    assert calls * (number // calls) >= 0.85 * number


@pytest.mark.parametrize(
    ("number", "videos", "most", "workers"),
    [
        (12, 1000, 99, 12),
        (12, 8, 99, 4),  # two rounds of three threads; eight of one thread would leave four cores idle
        (12, 1000, 8, 4),  # memory for eight workers only
        (15, 1000, 99, 15),
        (12, 1, 99, 1),
        (2, 5, 99, 2),
        (2, 5, 0, 1),
    ],
)
def test_workers_use_the_cores_that_there_are(number, videos, most, workers):
    assert share_videos(number, videos=videos, most=most) == workers
