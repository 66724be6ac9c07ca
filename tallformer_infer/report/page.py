"""Single-file pages that need no network: videos with their actions on a timeline, and an index of many videos.

External text is only inserted as data: in the markup through Jinja's escaping, in the script through one JSON block, in
the document through `textContent`. A content security policy allows the page to run only its own two scripts, and to
load only the video.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tallformer_infer.errors import ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.labels import bare_name_of


@dataclass(frozen=True, kw_only=True)
class PageAction:
    """An action on a page."""

    start_s: float
    """Start on the file's own timeline, in seconds, which browsers' players also use."""
    end_s: float
    """End (exclusive), in seconds."""
    label: str
    """Name of the action."""
    score: float | None = None
    """Confidence in [0, 1]; None if there is none."""
    truth: int | None = None
    """Index into the video's `truth` of the matching segment; None if there is none."""
    tiou: float = 0.0
    """Overlap with that row, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class PageTruth:
    """An annotated segment."""

    start_s: float
    """Start, in seconds."""
    end_s: float
    """End (exclusive), in seconds."""
    label: str
    """Name of the action."""


@dataclass(frozen=True, kw_only=True)
class PageVideo:
    """A video on a page."""

    name: str
    """Display name."""
    source: str
    """URL for the player; relative ones are relative to the page."""
    actions: tuple[PageAction, ...]
    """Actions, sorted by time."""
    truth: tuple[PageTruth, ...] | None = None
    """Annotated segments; None if the video has no annotations."""
    start_s: float = 0.0
    """Time of the first frame, in seconds."""
    end_s: float | None = None
    """End time, in seconds; None if unknown."""
    stream: int = 0
    """Index of the analysed video stream, from 0."""
    streams: int = 1
    """Number of video streams in the file."""
    truth_name: str | None = None
    """Its name in truth files; None: `name` without folder and suffix."""
    fps: float | None = None
    """Frames per second of the file, the step for moving borders; None if unknown."""
    content: bytes | None = None
    """Content of the file, to be embedded in the page; None links the file."""


def page_data(videos: Sequence[PageVideo], *, classes: Sequence[str] = (), review: str | None = None) -> dict[str, Any]:
    """Data for the page's script: rows of numbers, with labels by index; labels of actions come first."""
    labels: dict[str, int] = {}
    found = sorted({item.label for video in videos for item in _items(video)})
    for label in found:
        labels[label] = len(labels)
    embedded = iter(range(len(videos)))
    return {
        "labels": [*found, *(label for label in classes if label not in labels)],
        "key": result_key(videos),
        "review": review,
        "videos": [
            {
                "name": video.name,
                "id": video.truth_name or bare_name_of(video.name),
                "source": video.source,
                "embedded": None if video.content is None else next(embedded),
                "start_s": video.start_s,
                "end_s": _end_s(video),
                "duration_s": None if video.end_s is None else _rounded(video.end_s),
                "fps": None if video.fps is None else _rounded(video.fps),
                "stream": video.stream,
                "streams": video.streams,
                "actions": [_row(action, labels) for action in video.actions],
                "truth": None
                if video.truth is None
                else [[_rounded(known.start_s), _rounded(known.end_s), labels[known.label]] for known in video.truth],
            }
            for video in videos
        ],
    }


def result_key(videos: Sequence[PageVideo]) -> str:
    """Hash of the result, under which its review is stored."""
    content = [
        (video.name, [(action.start_s, action.end_s, action.label, action.score) for action in video.actions])
        for video in videos
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _items(video: PageVideo) -> list[PageAction | PageTruth]:
    return [*video.actions, *(video.truth or ())]


def _row(action: PageAction, labels: dict[str, int]) -> list[Any]:
    return [
        _rounded(action.start_s),
        _rounded(action.end_s),
        labels[action.label],
        None if action.score is None else _rounded(action.score),
        -1 if action.truth is None else action.truth,
        round(action.tiou, 3),
    ]


def _end_s(video: PageVideo) -> float:
    ends_s = [item.end_s for item in _items(video)]
    return _rounded(max([video.start_s + 1.0 if video.end_s is None else video.end_s, *ends_s]))


def _rounded(value: float) -> float:
    return round(float(value), 6) + 0.0


_SCRIPTS = ("state.js", "player.js", "review.js", "keep.js", "chart.js", "borders.js", "keys.js", "page.js")


def render_page(
    videos: Sequence[PageVideo],
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    failures: Sequence[tuple[str, str]] = (),
    maker: str = "tallformer",
    classes: Sequence[str] = (),
    review: str | None = None,
) -> bytes:
    """Render the page of one or more videos.

    Args:
        videos: Videos, in the order of the menu; the first is shown initially.
        title: Heading.
        facts: Names and values for the header: model, threshold, date.
        notes: Warnings at the top of the page, one sentence each.
        failures: Path and error of failed videos.
        maker: Program that created the page.
        classes: Names offered for corrections, in addition to those on the page.
        review: URL, relative to the page, that stores the review; None stores it in the browser.

    Raises:
        ExtraError: A library that the page needs is not installed.
        ValueError: There are no videos.
    """
    if not videos:
        raise ValueError("expected at least one video")
    from jinja2 import Environment  # noqa: PLC0415 (an extra)
    from markupsafe import Markup  # noqa: PLC0415 (an extra)

    script = _page_script()
    template = Environment(autoescape=True).from_string(asset("page.html.j2"))
    page = template.render(
        title=title,
        facts=facts,
        notes=notes,
        failures=failures,
        maker=maker,
        videos=videos,
        data=page_data(videos, classes=classes, review=review),
        embedded=[base64.b64encode(video.content).decode() for video in videos if video.content is not None],
        plotly=_packed_plotly(),
        policy=page_policy(asks_server=review is not None),
        style=Markup(asset("page.css")),
        script=Markup(script),
    )
    return page.encode("utf-8", "backslashreplace")


def require_report() -> None:
    """Check that the libraries for pages are installed, before a long run.

    Raises:
        ExtraError: A library is missing; the message gives the install command.
    """
    try:
        import jinja2  # noqa: F401, PLC0415
        import plotly.offline  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise ExtraError(
            f"a page needs the extra 'report' ({error.name} is not installed): {install_command('report')}"
        ) from error


def asset(name: str) -> str:
    """A text file that is part of the page."""
    return importlib.resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def page_policy(*, asks_server: bool = False) -> str:
    """The content security policy of the pages of `render_page`."""
    return content_policy([_page_script(), plotly_source()], asks_server=asks_server)


def content_policy(scripts: Sequence[str], *, asks_server: bool = False) -> str:
    """Content security policy: these scripts, inline styles, images, the video, optionally requests to the server."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "media-src 'self' blob: data: file: http: https:; form-action 'none'; base-uri 'none'"
        + ("; connect-src 'self'" if asks_server else "")
    )


@cache
def _page_script() -> str:
    return "\n".join(map(asset, _SCRIPTS))


@cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(plotly_source().encode(), 9, mtime=0)).decode()


@cache
def plotly_source() -> str:
    """The charting library as one script, from its Python package."""
    require_report()
    from plotly.offline import get_plotlyjs  # noqa: PLC0415 (an extra)

    return str(get_plotlyjs())


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One video of an index."""

    name: str
    """Path or address of the video."""
    status: str
    """`done`, `failed`, `short`, `damaged`, or another state."""
    duration_s: float | None = None
    """Duration in seconds; None if unknown."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of actions by label."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Total duration of the actions by label, in seconds."""
    error: str = ""
    """Reason for a failure, in one line."""
    note: str = ""
    """What is missing from the video, in one line."""
    page: str | None = None
    """URL of its page, relative to the index; None if there is none."""


def render_index(rows: Iterable[IndexRow], *, title: str, maker: str = "tallformer") -> bytes:
    """Render the index of many videos.

    Args:
        rows: One row per video, in display order.
        title: Heading.
        maker: Program that created the page.

    Raises:
        ExtraError: A library that the page needs is not installed.
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
    """Data for the page's script: rows of values, with labels by index."""
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
