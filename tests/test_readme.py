"""What the README says is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def blocks(root: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_two_commands_stand_in_the_readme(root: Path) -> None:
    assert blocks(root, "sh")[0].split("\n")[:2] == ["make detect", "make test"]


@pytest.mark.skipif(not (BIN.parent / ".ready-dev").exists(), reason="needs the environment that `make test` makes")
def test_make_detect_writes_the_actions_of_the_example(root: Path, tmp_path: Path) -> None:
    """In the environment of the tests: making one anew is what CI has just done."""
    out = tmp_path / "actions.json"
    done = run(f"make detect VENV={shlex.quote(str(BIN.parent))} OUT={shlex.quote(str(out))}", root)

    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    assert document["videos"][0]["frame_count"] == 675
    assert document["model"]["trained"]
    assert "true actions found" in done.stderr


def test_the_commands_of_the_readme_run(root: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(root / "docs")
    commands = [line for block in blocks(root, "sh")[1:] for line in block.splitlines()]

    assert len(commands) >= 5
    for command in commands:
        done = run(command, tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if "precision-0.80" in command:  # too few truths would keep nothing
            assert "no action found" not in done.stdout + done.stderr
    assert json.loads((tmp_path / "actions.json").read_text())["videos"][0]["path"] == "docs/example/example.mp4"
    assert list(json.loads((tmp_path / "results.json").read_text())["results"]) == ["example"]


def test_the_python_of_the_readme_runs(root: Path, tmp_path: Path) -> None:
    (program,) = blocks(root, "python")
    (tmp_path / "docs").symlink_to(root / "docs")
    (tmp_path / "program.py").write_text(program)

    done = run("python -W error program.py", tmp_path)

    assert done.returncode == 0, done.stderr
    assert "675 0 StageSeconds(" in done.stdout


def test_files_named_in_the_readme_exist(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)

    assert links
    assert [link for link in links if not (root / link).exists()] == []
