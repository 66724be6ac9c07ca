"""Nothing that a page shows in a table is anything but what was measured and committed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.tables import PAGES, TABLES, fill
from tests.conftest import ROOT

MARKER = "<!-- table: "


def pages() -> list[str]:
    """Every page that has a table of measurements."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(str(file.relative_to(ROOT)) for file in files if MARKER in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", pages())
def test_every_table_is_that_of_the_committed_measurements(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")

    assert text.count(MARKER) == len(re.findall(r"<!-- table: \w+ -->\n.*?<!-- end -->", text, re.DOTALL))
    assert fill(text) == text


def test_every_page_with_tables_is_written_by_the_command() -> None:
    assert set(pages()) == set(PAGES)


def test_every_table_stands_on_a_page(root: Path) -> None:
    shown = {name for page in PAGES for name in re.findall(r"<!-- table: (\w+) -->", (root / page).read_text("utf-8"))}

    assert shown == TABLES.keys()


def test_a_table_without_committed_lines_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)

    assert (
        fill("<!-- table: detect -->\nold\n<!-- end -->") == "<!-- table: detect -->\nNot measured yet.\n<!-- end -->"
    )


def test_a_changed_figure_is_noticed(root: Path) -> None:
    text = (root / "docs/speed.md").read_text(encoding="utf-8")

    changed = re.sub(r"(<!-- table: detect -->\n.*?\d)", r"\g<1>9", text, count=1, flags=re.DOTALL)

    assert changed != text
    assert fill(changed) == fill(text)
