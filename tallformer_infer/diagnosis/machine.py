"""Cores, memory and disk that a run may use, in a container too, and the Python packages that are installed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tallformer_infer.devices import allowed_cores, core_quota, processor_features, processor_name
from tallformer_infer.installing import BASE, DISTRIBUTION

_CONTROL_GROUP = Path("/sys/fs/cgroup")
_MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that runs write to."""

    use: str
    """Purpose."""
    path: str
    """Path."""
    free_bytes: int | None
    """Free space; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Hardware that a run may use."""

    processor: str
    """Name of the processor."""
    processor_features: tuple[str, ...]
    """Instruction sets for matrix products, such as `AMX bf16`."""
    cores: int
    """Logical cores that this process may use."""
    core_limit: float | None
    """CPU quota of the container in cores; None: no limit."""
    memory_bytes: int | None
    """Total memory, or the container's limit; None if unknown."""
    free_memory_bytes: int | None
    """Available memory; None if unknown."""
    folders: tuple[Folder, ...]
    """Folders for outputs, caches and temporary files."""


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


_UNLISTED = {"all", "check", "dev", "docs", "trt-ci"}
"""Parts for those who change this project."""
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*])?(?P<bounds>[^;]*)(;.*\bextra == ['\"](?P<extra>[\w-]+)['\"])?")
_BOUND = re.compile(r"(>=|<)\s*([\d.]+)")
_HEAD_BYTES = 1 << 20
"""Names of linked libraries stand in the first 20 kB of ONNX Runtime's files (version 1.31.1)."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that a part of the install needs, or that is known to break others."""

    name: str
    """Name as in the requirement."""
    version: str | None
    """Installed version; None: not installed."""
    parts: tuple[str, ...]
    """Parts of the install that need it: `base` and extras; empty if none does."""
    bounds: str
    """Required versions, such as `>=1.22`; empty: any."""
    is_within_bounds: bool | None
    """Whether the installed version is one of those; None: not installed, or a version that cannot be compared."""
    build: str | None = None
    """Target of the build, for torch: `cpu`, or a CUDA version such as `13.0`."""


def find_packages(path: Sequence[str] | None = None) -> tuple[Package, ...]:
    """The packages that this project's metadata requires, with their installed versions.

    Args:
        path: Folders to look in; None: `sys.path`.

    Returns:
        One per package, in the order of the metadata; then packages of TensorRT that nothing asks for. Empty where
        this project itself is not installed.
    """
    installed = _installed(path)
    asked = _requirements(installed.get(DISTRIBUTION))
    names = {normal(name) for name in asked}
    rest = [name for name in installed if name.startswith("tensorrt") and name not in names]
    packages = [_package(name, parts, bounds, installed) for name, (parts, bounds) in asked.items()]
    return (*packages, *(_package(installed[name].name, (), "", installed) for name in rest))


def library_major(package: str, file: str, pattern: str, path: Sequence[str] | None = None) -> int | None:
    """Major version of a library that a file of an installed package links.

    Args:
        package: Name of the distribution.
        file: In the folder that the package is installed into.
        pattern: Matches the name of the library; its group 1 is the major version.
        path: As in `find_packages`.

    Returns:
        None where the package, the file or the name is not there.
    """
    found = _installed(path).get(normal(package))
    if found is None:
        return None
    try:
        with Path(str(found.locate_file(file))).open("rb") as library:
            match = re.search(pattern.encode(), library.read(_HEAD_BYTES))
    except OSError:
        return None
    return int(match[1]) if match else None


def normal(name: str) -> str:
    """The form of a name that is the same for all its spellings. Source: packaging.python.org, name normalization."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_numbers(version: str) -> tuple[int, ...] | None:
    """The leading numbers of a version, for comparison; None if there are none."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else None


def _installed(path: Sequence[str] | None) -> dict[str, metadata.Distribution]:
    """By normal name; of several the first, which is the one that gets imported."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=list(sys.path if path is None else path)):
        facts = distribution.metadata
        if "Name" in facts and "Version" in facts:  # the remains of a package that was half removed have neither
            found.setdefault(normal(facts["Name"]), distribution)
    return found


def _requirements(project: metadata.Distribution | None) -> dict[str, tuple[tuple[str, ...], str]]:
    """Parts and bounds of each package that the project asks for."""
    asked: dict[str, tuple[tuple[str, ...], str]] = {}
    for line in (project.requires if project is not None else None) or ():
        match = _REQUIREMENT.match(line)
        part = match["extra"] or BASE if match else ""
        if match and part not in _UNLISTED:
            parts, bounds = asked.get(match["name"], ((), match["bounds"].strip(" ()")))
            asked[match["name"]] = ((*parts, part), bounds)
    return asked


def _package(name: str, parts: tuple[str, ...], bounds: str, installed: dict[str, metadata.Distribution]) -> Package:
    distribution = installed.get(normal(name))
    version = distribution.version if distribution is not None else None
    return Package(
        name=name,
        version=version,
        parts=parts,
        bounds=bounds,
        is_within_bounds=None if version is None else _is_within(version, bounds),
        build=_torch_build(distribution) if distribution is not None and name == "torch" else None,
    )


def _is_within(version: str, bounds: str) -> bool | None:
    numbers = version_numbers(version)
    if numbers is None:
        return None
    limits: Iterable[tuple[str, tuple[int, ...]]] = (
        (sign, version_numbers(limit) or ()) for sign, limit in _BOUND.findall(bounds)
    )
    return all((_padded(numbers) >= _padded(limit)) == (sign == ">=") for sign, limit in limits)


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return (*numbers, 0, 0, 0, 0)[:4]


def _torch_build(distribution: metadata.Distribution) -> str | None:
    """Build target of torch, read from a file, since importing torch takes seconds."""
    try:
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*(?:None|['\"]([\d.]+)['\"])", text, re.MULTILINE)
    return (match[1] or "cpu") if match else None
