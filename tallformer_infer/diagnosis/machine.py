"""Cores, memory and disk that a run may use: of the machine, or of the container it is in."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.devices import allowed_cores, core_quota, processor_features, processor_name

_CONTROL_GROUP = Path("/sys/fs/cgroup")
_MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that runs write to."""

    use: str
    """What for."""
    path: str
    """Where it is."""
    free_bytes: int | None
    """Free there; None where it cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to run on."""

    processor: str
    """Its name."""
    processor_features: tuple[str, ...]
    """Instructions for matrix products that it has, such as `AMX bf16`."""
    cores: int
    """Logical cores that this process may use."""
    core_limit: float | None
    """Cores' worth of time that the container gives; None: no limit."""
    memory_bytes: int | None
    """All memory, or the container's limit; None where it cannot be asked."""
    free_memory_bytes: int | None
    """Memory that could be had now; None where it cannot be asked."""
    folders: tuple[Folder, ...]
    """Where outputs, caches and temporary files go."""


def look_at_machine(*, control_group: Path = _CONTROL_GROUP) -> Machine:
    """Ask the operating system.

    Args:
        control_group: Where Linux tells a container's memory. Source: the kernel's admin-guide, cgroup-v1 and -v2.
    """
    installed, limit = _installed_bytes(), _memory_limit(control_group)
    known = [value for value in (installed, limit) if value is not None]
    return Machine(
        processor=processor_name(),
        processor_features=processor_features(),
        cores=allowed_cores(),
        core_limit=core_quota(),
        memory_bytes=min(known, default=None),
        free_memory_bytes=_free_bytes(),
        folders=(
            _folder("outputs and the caches of training", Path.cwd()),
            _folder("temporary files", Path(tempfile.gettempdir())),
        ),
    )


def _memory_limit(group: Path) -> int | None:
    return _number(_read(group / "memory.max")) or _number(_read(group / "memory" / "memory.limit_in_bytes"))


def _installed_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _free_bytes() -> int | None:
    for line in _read(_MEMORY_INFO).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return (_number(value.split()[0]) or 0) * 1024
    return None


def _folder(use: str, path: Path) -> Folder:
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        free = None
    return Folder(use=use, path=str(path), free_bytes=free)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """A positive whole number; None for anything else, such as the `max` and -1 that mean no limit."""
    return int(text) if text.isdecimal() and int(text) > 0 else None
