"""Which Python packages are installed, for which part of the install, and which do not go together."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tallformer_infer.installing import BASE, DISTRIBUTION

_UNLISTED = {"all", "check", "dev", "docs", "trt-ci"}
"""Parts for those who change this project."""
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*])?(?P<bounds>[^;]*)(;.*\bextra == ['\"](?P<extra>[\w-]+)['\"])?")
_BOUND = re.compile(r"(>=|<)\s*([\d.]+)")
_HEAD_BYTES = 1 << 20
"""Names of linked libraries stand in the first 20 kB of ONNX Runtime's files (version 1.31.1)."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that some part of the install needs, or that is known to disturb."""

    name: str
    """As the requirement writes it."""
    version: str | None
    """The one installed; None: not installed."""
    parts: tuple[str, ...]
    """Parts of the install that need it: `base` and extras; none for one that only disturbs."""
    bounds: str
    """Versions that are asked for, such as `>=1.22`; empty: any."""
    is_within_bounds: bool | None
    """Whether the installed version is one of those; None: not installed, or a version that cannot be compared."""
    build: str | None = None
    """What it was built for, where that matters: `cpu`, or a CUDA version such as `13.0`."""


def find_packages(path: Sequence[str] | None = None) -> tuple[Package, ...]:
    """What this project's metadata asks for, and what of it is installed.

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
    """The numbers that a version begins with, so that versions can be compared; None where there are none."""
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
    """What torch says of itself in a file, as importing it takes seconds."""
    try:
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*(?:None|['\"]([\d.]+)['\"])", text, re.MULTILINE)
    return (match[1] or "cpu") if match else None
