"""Pages of one file each, which need no network: videos with their actions on a timeline, and an index of many videos.

Everything on it that comes from outside is data: in the markup through Jinja's escaping, in the script through one
JSON block, in the document through `textContent`. A content security policy lets the page run its own two scripts and
nothing else, and lets it load nothing but the video.
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
    """Start on the file's own time line, in seconds, which is also what a browser's player counts in."""
    end_s: float
    """End (exclusive), in seconds."""
    label: str
    """Name of the action."""
    score: float | None = None
    """Confidence in [0, 1]; None where there is none."""
    truth: int | None = None
    """Row of the video's `truth` that it is; None where it is none."""
    tiou: float = 0.0
    """Overlap with that row, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class PageTruth:
    """A segment that is known to be there."""

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
    """As people know it."""
    source: str
    """URL for the player; relative ones are relative to the page."""
    actions: tuple[PageAction, ...]
    """In order of time."""
    truth: tuple[PageTruth, ...] | None = None
    """What is known to happen; None where nothing is known."""
    start_s: float = 0.0
    """Time of the first frame, in seconds."""
    end_s: float | None = None
    """Time of the end, in seconds; None where it is not known."""
    stream: int = 0
    """Which of the file's video streams was analysed, from 0."""
    streams: int = 1
    """Video streams of the file."""
    truth_name: str | None = None
    """Its name in files of truth; None: `name` without folder and ending."""
    fps: float | None = None
    """Frames per second of the file, which a border is moved by; None where it is not known."""
    content: bytes | None = None
    """The file itself, to be put into the page; None leaves it where it is."""


def page_data(videos: Sequence[PageVideo], *, classes: Sequence[str] = (), review: str | None = None) -> dict[str, Any]:
    """What the page's script reads: rows of numbers, labels by their number; those of the actions come first."""
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
    """A hash of the result, under which a review of it is kept."""
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
    """The page of one or more videos.

    Args:
        videos: In the order in which they can be chosen; the first is shown at first.
        title: Heading.
        facts: Name and value of what was done: model, threshold, date.
        notes: What a reader must know first, a sentence each.
        failures: Path and error of videos that gave no result.
        maker: What made it.
        classes: Names that are offered for corrections, beside those that are on the page.
        review: URL, relative to the page, that keeps the review; None keeps it in the browser.

    Raises:
        ExtraError: A library that is needed for it is not installed.
        ValueError: There is no video.
    """
    if not videos:
        raise ValueError("expected one video or more")
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
    """Refuse to make pages where the libraries for it are not installed, before hours are spent on their content.

    Raises:
        ExtraError: Says what to install.
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
    """What a page may do: run these scripts, style itself, load pictures and the video, and maybe ask its server."""
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
    """The charting library as one script, as its Python package has it."""
    require_report()
    from plotly.offline import get_plotlyjs  # noqa: PLC0415 (an extra)

    return str(get_plotlyjs())


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
