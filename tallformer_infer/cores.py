"""Processor cores that a process may use, in a container too.

Note [quotas]
    A container of `--cpus 2` on a machine of 64 cores may run on all 64 and is stopped, ten times a second, when it has
    used up its 0.2 s. Whoever starts 64 threads there waits most of the time. Neither the set of allowed cores nor
    Python (3.13's `os.process_cpu_count` included) knows of it; the kernel tells in files of the control group.
    Source: the kernel's admin-guide, cgroup-v1 (`cpu.cfs_quota_us`) and cgroup-v2 (`cpu.max`); man 7 cgroups and
    man 5 proc for `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_USED_PART = 0.85
_THIS_PROCESS = Path("/proc/self")


def available_cores(*, process: Path = _THIS_PROCESS) -> int:
    """Cores worth using: those that this process may run on, and no more than its quota, rounded up.

    Args:
        process: Folder in which Linux describes it.
    """
    return cores_by_quota(process=process) or allowed_cores()


def share_cores(cores: int, most: int) -> int:
    """How many calls to run side by side, `cores // calls` threads each: at most `most`, and few cores left over.

    More calls of fewer threads are faster, so it is the largest number that uses at least 85% of the cores; where none
    does, the one that uses most.
    """
    counts = range(min(cores, most), 0, -1)
    used = {count: count * (cores // count) for count in counts}
    return next((count for count in counts if used[count] >= _USED_PART * cores), max(counts, key=used.__getitem__))


def allowed_cores() -> int:
    """Cores that this process may run on; where the system does not tell, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_by_quota(*, process: Path = _THIS_PROCESS) -> int | None:
    """Cores that a quota leaves of the allowed ones, at least 1; None where none does, see Note [quotas].

    Libraries that count cores themselves do not see it: they are told, where this is not None.
    """
    quota = core_quota(process=process)
    if quota is None or quota > allowed_cores() - 1:
        return None
    return max(math.ceil(quota), 1)


def core_quota(*, process: Path = _THIS_PROCESS) -> float | None:
    """Cores' worth of time that a process may use: the least of its control groups; None where there is no limit."""
    quotas = (_quota(group) for group in _control_groups(process))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    """Of one group: version 2 has quota and period in one file, version 1 in two."""
    words = _read(group / "cpu.max").split() or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        return None  # `max` and -1 mean no limit
    return int(words[0]) / int(words[1])


def _control_groups(process: Path) -> Iterator[Path]:
    """Folders of the groups that a process is in, each with those above it, as far as they can be seen here."""
    groups = [line.split(":", 2) for line in _read(process / "cgroup").splitlines()]
    for mount, root, kind, options in _mounts(process):
        for _, controllers, path in (group for group in groups if len(group) == 3):
            is_version_2 = kind == "cgroup2" and not controllers
            if is_version_2 or (kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options):
                inner = PurePosixPath(path)
                is_seen = inner.is_relative_to(root) and ".." not in inner.parts
                inside = inner.relative_to(root) if is_seen else PurePosixPath()
                yield from (mount / part for part in (inside, *inside.parents))


def _mounts(process: Path) -> Iterator[tuple[Path, str, str, list[str]]]:
    """Mounted file systems: where, which folder of it, kind, and options."""
    for line in _read(process / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) >= 5 and len(kinds) >= 3:
            root, mount = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text) for text in fields[3:5])
            yield Path(mount), root, kinds[0], kinds[2].split(",")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
