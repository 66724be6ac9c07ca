"""The command that installs an extra, however tallformer itself was installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "tallformer"
BASE = "base"
"""The part that every install has."""
_WITH_TORCH = frozenset({"train", "export", "all", "dev"})
_TORCH_FOR_CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of builds for the CPU; the default one on Linux has builds of several GB for CUDA."""


def install_command(extra: str) -> str:
    """The command that installs an extra, such as `pip install 'tallformer[report]'`.

    An editable install and a checkout are named by their folder, a wheel by its file, and the pip is that of the Python
    which runs. Where a part brings torch and there is no NVIDIA GPU, torch's build for the CPU is asked for.

    Args:
        extra: Name of the part, or `base`.
    """
    options = f" {_TORCH_FOR_CPU}" if extra in _WITH_TORCH and sys.platform == "linux" and not _has_nvidia() else ""
    return f"{_pip()} install{options} {_requirement(extra)}"


def _requirement(extra: str) -> str:
    part = "" if extra == BASE else f"[{extra}]"
    origin = _origin()
    url = origin.get("url")
    if not isinstance(url, str):
        return _quoted(f"{DISTRIBUTION}{part}")
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = f"@{vcs['commit_id']}" if "commit_id" in vcs else ""
        return _quoted(f"{DISTRIBUTION}{part} @ {vcs.get('vcs', 'git')}+{url}{revision}")
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    if path is not None and not path.exists():
        return _quoted(f"{DISTRIBUTION}{part}")
    if path is None or "dir_info" not in origin:
        return _quoted(f"{DISTRIBUTION}{part} @ {url}")
    folder = "." if path == Path.cwd() else str(path)
    editable = "--editable " if origin["dir_info"].get("editable") else ""
    return f"{editable}{_quoted(f'{folder}{part}')}"


def _origin() -> dict[str, Any]:
    """Where this install came from; empty for a package index. Source: packaging.python.org, direct URL origin."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        found = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _pip() -> str:
    if importlib.util.find_spec("pip") is None:  # as in environments of uv
        return "uv pip"
    program = shutil.which("pip")
    if program is not None and Path(program).parent == Path(sys.executable).parent:
        return "pip"
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shown} -m pip"


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if any(character in requirement for character in "[]@ ") else requirement
