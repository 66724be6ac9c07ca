"""What `--help` shows is what was written, in one form for all commands."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
import typer.main
import typer.rich_utils
from rich.text import Text

from tallformer_infer import cli


def commands():
    """Every command, by what the user types."""
    found = {}
    for command in cli.COMMANDS:
        loaded = typer.main.get_command(importlib.import_module(command.module).app)
        found[command.name] = loaded
        found |= {f"{command.name} {name}": sub for name, sub in getattr(loaded, "commands", {}).items()}
    return found


@pytest.mark.parametrize("name", commands())
def test_no_help_text_is_lost_to_markup(name):
    for parameter in commands()[name].params:
        text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(text).plain == text.replace("\\[", "[")


@pytest.mark.parametrize("name", commands())
def test_arguments_are_upper_case_and_in_no_brackets_of_their_own(name, capsys):
    cli.run([*name.split(), "--help"])

    usage = re.search(rf"Usage: tallformer {name} (.*)", capsys.readouterr().out)[1]
    assert usage == usage.upper()
    assert "[[" not in usage


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS])
def test_help_loads_nothing_heavy(name):
    code = (
        f"import sys\nfrom tallformer_infer import cli\nassert cli.run([{name!r}, '--help']) == 0\n"
        "assert not {'numpy', 'av', 'onnxruntime', 'torch'} & set(sys.modules), sys.modules.keys()\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def words(name, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", None)
    cli.run([*name.split(), "--help"])
    return set(re.sub("[╭╮╰╯─│]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("name", ["", *commands()])
def test_no_word_of_the_help_is_broken_in_a_narrow_terminal(name, monkeypatch, capsys):
    """60 columns, and more for options with long names: `--share-device/--no-share-device`, `--val-annotations`."""
    narrow = words(name, {"label": 80, "train": 64}.get(name, 60), monkeypatch, capsys)

    assert narrow - words(name, 300, monkeypatch, capsys) == set()
