"""A page that lists many results: how much of what was found, what failed, and a search.

Whoever has results (a folder of files, a database) gives one `IndexRow` per video.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tallformer_infer.report.page import asset, content_policy, require_report


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One video of an index."""

    name: str
    """Path or address of the video."""
    status: str
    """`done`, `failed`, `short`, `damaged`, or another word for where it stands."""
    duration_s: float | None = None
    """Length in seconds; None where it is not known."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of actions by label."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Length of the actions by label, in seconds."""
    error: str = ""
    """Why it failed, in one line."""
    note: str = ""
    """What it lacks, in one line."""
    page: str | None = None
    """URL of its own page, relative to the index; None where there is none."""


def render_index(rows: Iterable[IndexRow], *, title: str, maker: str = "tallformer") -> bytes:
    """The page of many videos.

    Args:
        rows: One per video, in the order of the list.
        title: Heading.
        maker: What made it.

    Raises:
        ExtraError: A library that is needed for it is not installed.
    """
    require_report()
    from jinja2 import Environment  # noqa: PLC0415 (an extra)
    from markupsafe import Markup  # noqa: PLC0415 (an extra)

    script = asset("index.js")
    page = (
        Environment(autoescape=True)
        .from_string(asset("index.html.j2"))
        .render(
            title=title,
            maker=maker,
            data=index_data(rows),
            policy=content_policy([script]),
            style=Markup(asset("page.css") + asset("index.css")),
            script=Markup(script),
        )
    )
    return page.encode("utf-8", "backslashreplace")


def index_data(rows: Iterable[IndexRow]) -> dict[str, Any]:
    """What the page's script reads: rows of values, labels by their number."""
    labels: dict[str, int] = {}
    packed = [
        [
            row.name,
            row.status,
            row.duration_s,
            [
                [labels.setdefault(label, len(labels)), count, round(row.seconds.get(label, 0.0), 3)]
                for label, count in row.counts.items()
            ],
            row.error,
            row.page,
            row.note,
        ]
        for row in rows
    ]
    return {"labels": list(labels), "rows": packed}
