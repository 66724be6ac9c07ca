"""A page of one file: video, timeline, list, and no need of a network.

Everything on it that comes from outside is data: in the markup through Jinja's escaping, in the script through one
JSON block, in the document through `textContent`. A content security policy lets the page run its own two scripts and
nothing else, and lets it load nothing but the video.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
from collections.abc import Sequence
from functools import cache

from tallformer_infer.errors import ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.report.content import PageVideo, page_data

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
