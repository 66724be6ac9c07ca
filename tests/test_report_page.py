"""Pages as files: of one piece, the same bytes every time, and nothing in them that was not put there as text."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import sys

import pytest

from tallformer_infer.errors import ExtraError
from tallformer_infer.report import IndexRow, PageAction, PageTruth, PageVideo, render_index, render_page
from tests.label_samples import ODD_LABELS
from tests.pages import Elements

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--"
VIDEO = PageVideo(
    name=MARKUP,
    source="a.mp4",
    actions=(PageAction(start_s=1.0, end_s=2.0, label=MARKUP, score=0.5),),
    truth=(PageTruth(start_s=1.0, end_s=2.0, label=MARKUP),),
    end_s=10.0,
)


def test_what_comes_from_outside_makes_no_element():
    plain = dataclasses.replace(VIDEO, name="a", actions=(), truth=None)

    odd = Elements(render_page([VIDEO], title=MARKUP, notes=[MARKUP], maker=MARKUP))

    assert odd.found == Elements(render_page([plain], title="a", notes=["b"])).found
    assert json.loads(odd.scripts["data"])["labels"] == [MARKUP]


def test_index_makes_no_element_of_what_comes_from_outside():
    row = IndexRow(name=MARKUP, status=MARKUP, counts={MARKUP: 1}, error=MARKUP, page=MARKUP)

    odd = Elements(render_index([row], title=MARKUP, maker=MARKUP))

    assert odd.found == Elements(render_index([], title="a")).found
    assert json.loads(odd.scripts["data"])["rows"][0][0] == MARKUP


def test_page_names_no_address_of_its_own():
    page = Elements(render_page([VIDEO], title="a"))

    assert page.links == []


def test_every_odd_label_comes_through():
    actions = tuple(PageAction(start_s=0, end_s=1, label=label) for label in ODD_LABELS)

    page = Elements(render_page([dataclasses.replace(VIDEO, actions=actions, truth=None)], title="\ud83d"))

    data = json.loads(page.scripts["data"])
    assert sorted(data["labels"]) == sorted(ODD_LABELS)
    assert [data["labels"][row[2]] for row in data["videos"][0]["actions"]] == list(ODD_LABELS)


def test_library_and_video_are_in_the_page():
    page = Elements(render_page([dataclasses.replace(VIDEO, content=b"\x00frames")], title="a"))

    assert base64.b64decode(page.scripts["video-0"]) == b"\x00frames"
    assert "plotly.js" in gzip.decompress(base64.b64decode(page.scripts["plotly"])).decode()[:200]


def test_videos_in_the_page_are_numbered_without_gaps():
    videos = [dataclasses.replace(VIDEO, content=content) for content in (None, b"b", None, b"d")]

    page = Elements(render_page(videos, title="a"))

    assert [video["embedded"] for video in json.loads(page.scripts["data"])["videos"]] == [None, 0, None, 1]
    assert base64.b64decode(page.scripts["video-1"]) == b"d"


def test_same_actions_give_the_same_bytes_and_few_of_them():
    page = render_page([VIDEO], title="a")

    assert page == render_page([VIDEO], title="a")
    assert len(page) < 2_500_000


def test_time_line_reaches_as_far_as_the_last_action():
    short = dataclasses.replace(VIDEO, end_s=None, start_s=0.5)

    (video,) = json.loads(Elements(render_page([short], title="a")).scripts["data"])["videos"]

    assert (video["start_s"], video["end_s"]) == (0.5, 2.0)


def test_page_without_a_video_is_refused():
    with pytest.raises(ValueError, match="expected at least one video"):
        render_page([], title="a")


@pytest.mark.parametrize("module", ["jinja2", "plotly.offline"])
def test_missing_library_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ExtraError, match=r"a page needs the extra 'report' .*: .*pip install .*\[report\]'"):
        render_index([], title="a")
