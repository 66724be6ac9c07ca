"""What the README and the pages for users say is run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.pages import BIN, blocks, run

PAGES = ("README.md", "docs/detect.md", "docs/label.md", "docs/live.md", "docs/calibrate.md", "docs/report.md")


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


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_pages_run(root: Path, tmp_path: Path, page: str) -> None:
    (tmp_path / "docs").symlink_to(root / "docs")
    commands = [line for block in blocks(root, "sh", page)[page == "README.md" :] for line in block.splitlines()]

    assert commands
    for command in commands:
        done = run(command, tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if "precision-0.80" in command:  # too few truths would keep nothing
            assert "no action found" not in done.stdout + done.stderr
    if page == "README.md":
        assert json.loads((tmp_path / "actions.json").read_text())["videos"][0]["path"] == "docs/example/example.mp4"


def test_the_json_of_the_readme_is_what_was_found_in_real_film(root: Path) -> None:
    (text,) = blocks(root, "json")
    shown = json.loads(text)

    line = json.loads((root / "benchmarks/results/kinetics_timeline.jsonl").read_text(encoding="utf-8"))

    assert shown["model"]["name"] == line["model"] == "kinetics400"
    (video,) = shown["videos"]
    assert (video["duration_s"], video["frame_count"]) == (line["duration_s"], line["frame_count"])
    actions = [[*action["segment"], action["label"], action["score"]] for action in video["actions"]]
    assert actions == line["found"]["all"]


@pytest.mark.parametrize("page", ["README.md", "docs/detect.md"])
def test_the_python_of_the_pages_runs(root: Path, tmp_path: Path, page: str) -> None:
    (program,) = blocks(root, "python", page)
    (tmp_path / "docs").symlink_to(root / "docs")
    (tmp_path / "program.py").write_text(program)

    done = run("python -W error program.py", tmp_path)

    assert done.returncode == 0, done.stderr
    assert ("675 0 StageSeconds(" if page == "README.md" else "Result(video=") in done.stdout


@pytest.mark.parametrize("page", [*PAGES, "docs/train.md", "docs/import.md", "docs/limits.md", "docs/official.md"])
def test_files_named_in_the_pages_exist(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)[)#]", text)

    # the site makes docs/reference/commands.md
    assert [link for link in links if not (root / page).parent.joinpath(link).exists()] == []
