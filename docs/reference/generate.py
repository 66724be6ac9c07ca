"""Pages of the documentation that are made from the code: a MkDocs hook, and `python docs/reference/generate.py`.

The command reference is made while the site is built. `docs/architecture.md` is read on GitHub, too, so its diagram is
committed; running this file renews it, and `make docs` fails where it is out of date.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import grimp
from typer.cli import get_docs_for_click
from typer.main import get_command

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGES = ("tallformer_infer", "tallformer_training", "tallformer_export")
_FENCE = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site, and refuse a diagram that is out of date."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    if architecture(ARCHITECTURE.read_text(encoding="utf-8")) != ARCHITECTURE.read_text(encoding="utf-8"):
        raise PluginError("docs/architecture.md is out of date: python docs/reference/generate.py renews it")
    files.append(File.generated(config, "reference/commands.md", content=command_reference()))
    return files


def command_reference() -> str:
    """Every command with its help, arguments and options, in Markdown."""
    from tallformer_infer.cli import COMMANDS

    pages = ["# Commands\n"]
    for entry in COMMANDS:
        command = get_command(importlib.import_module(entry.module).app)
        name = f"tallformer {entry.name}"
        command.name = entry.name
        text = get_docs_for_click(obj=command, ctx=_context(command, name), name=name, call_prefix="", title=name)
        text = re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE)
        text = re.sub(r"\[bold\](.*?)\[/bold\]", r"**\1**", text)
        pages.append(re.sub(r"^  (?=tallformer )", "    ", text, flags=re.MULTILINE))  # examples are code
    return "\n".join(pages)


def _context(command: Any, name: str) -> Any:
    import click

    return click.Context(command, info_name=name)


def architecture(page: str) -> str:
    """The page with its diagram drawn anew: packages, and which imports which."""
    return _FENCE.sub(lambda _: f"```mermaid\n{diagram()}```", page, count=1)


def diagram() -> str:
    """A Mermaid flowchart of packages; an arrow points from the importer to the imported."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    edges: set[tuple[str, str]] = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (_room(module), _room(imported))
            if pair[0] != pair[1] and "" not in pair:
                edges.add(pair)
    kept = sorted(edge for edge in edges if not _goes_without(edge, edges))
    return "flowchart TD\n" + "".join(f"    {one} --> {other}\n" for one, other in kept)


def _room(module: str) -> str:
    """The part of the project a module belongs to: a package below `tallformer_infer`, or one of the other two.

    `tallformer_infer` itself holds the version and names that are imported late; it has no room.
    """
    root, _, rest = module.partition(".")
    return rest.partition(".")[0] if root == PACKAGES[0] else root.removeprefix("tallformer_")


def _goes_without(edge: tuple[str, str], edges: set[tuple[str, str]]) -> bool:
    """Whether a longer way shows the same: only arrows that say something new are drawn."""
    start, end = edge
    seen, todo = {start}, [other for one, other in edges if one == start and other != end]
    while todo:
        room = todo.pop()
        if room == end:
            return True
        if room not in seen:
            seen.add(room)
            todo += [other for one, other in edges if one == room]
    return False


if __name__ == "__main__":
    ARCHITECTURE.write_text(architecture(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
