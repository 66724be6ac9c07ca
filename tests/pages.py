"""What pages say: elements of a report page, and code on pages of the documentation, which is run."""

from __future__ import annotations

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


class Elements(html.parser.HTMLParser):
    """Elements of a page, with the text of scripts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts: dict[str, str] = {}
        self.links: list[str | None] = []
        self._script: str | None = None
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        attributes = dict(attrs)
        self.links += [value for name, value in attributes.items() if name in ("src", "href")]
        self._script = attributes.get("id", "") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._script = None


def blocks(root: Path, language: str, page: str = "README.md") -> list[str]:
    """Blocks of code in a language on a page of the documentation."""
    return re.findall(rf"^```{language}\n(.*?)^```", (root / page).read_text(encoding="utf-8"), re.DOTALL | re.M)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a page in a shell that finds our commands."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
