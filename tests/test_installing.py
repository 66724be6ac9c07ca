"""The command that a message names to add a part works for this install, however it was made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tallformer_infer import installing
from tallformer_infer.installing import install_command


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Pretend an install from somewhere, with the pip of this Python first on the path and no GPU."""
    folder = tmp_path / "environment" / "bin"
    folder.mkdir(parents=True)
    for name in ("pip", "python"):
        (folder / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(installing, "_has_nvidia", lambda: False)
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda _name: object())

    class Distribution:
        def __init__(self, text: str | None) -> None:
            self._text = text

        def read_text(self, _name: str) -> str | None:
            return self._text

    def make(origin: dict[str, Any] | None) -> None:
        text = None if origin is None else json.dumps(origin)
        monkeypatch.setattr(installing.metadata, "distribution", lambda _name: Distribution(text))

    return make


def test_from_an_index_it_is_named_by_its_name(installed: Any) -> None:
    installed(None)

    assert install_command("report") == "pip install 'tallformer[report]'"
    assert install_command("base") == "pip install tallformer"


def test_a_checkout_is_named_by_its_folder(installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    url = checkout.as_uri()

    installed({"url": url, "dir_info": {"editable": True}})
    assert install_command("report") == f"pip install --editable '{checkout}[report]'"
    installed({"url": url, "dir_info": {}})
    assert install_command("report") == f"pip install '{checkout}[report]'"

    monkeypatch.chdir(checkout)
    assert install_command("report") == "pip install '.[report]'"


def test_a_wheel_is_named_by_its_file_as_long_as_it_is_there(installed: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "tallformer-0.2.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})

    assert install_command("report") == f"pip install 'tallformer[report] @ {wheel.as_uri()}'"
    wheel.unlink()
    assert install_command("report") == "pip install 'tallformer[report]'"


def test_a_repository_is_named_by_its_commit(installed: Any) -> None:
    installed({"url": "https://example.org/t.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}})

    assert install_command("report") == "pip install 'tallformer[report] @ git+https://example.org/t.git@abc123'"


def test_torch_is_the_build_for_the_cpu_where_there_is_no_gpu(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(None)
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"

    assert install_command("train") == f"pip install {index} 'tallformer[train]'"
    assert index not in install_command("report")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert index not in install_command("train")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(installing, "_has_nvidia", lambda: True)
    assert index not in install_command("train")


def test_the_pip_is_that_of_the_python_that_runs(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(None)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)

    assert install_command("report") == "environment/bin/python -m pip install 'tallformer[report]'"
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda _name: None)
    assert install_command("report") == "uv pip install 'tallformer[report]'"
