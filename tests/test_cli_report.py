"""`report` and `detect --format html` from the command line to the page."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime

import pytest

from tallformer_infer import cli
from tallformer_infer.installing import install_command
from tests.pages import Elements
from tests.small_bundle import FOUND, write_bundle
from tests.videos import noise_pictures, write_video

ACTIONS = [
    {"segment": [1.0, 3.0], "label": "wave", "score": 0.9},
    {"segment": [5.0, 6.0], "label": "jump", "score": 0.4},
]
TRUTH = {"database": {"a": {"annotations": [{"segment": [1.2, 3.0], "label": "wave"}]}}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    return tmp_path


@pytest.fixture
def actions(folder):
    """Write what `detect` writes, as far as it matters here."""

    def write(*names, path="actions.json", **changes):
        videos = [
            {"path": name, "duration_s": 9.0, "start_s": 0.5, "sample_fps": 15, "source_fps": 30, "actions": ACTIONS}
            for name in names
        ]
        document = {"tool": {"name": "tallformer"}, "model": {"name": "m", "trained": True}, "videos": videos}
        (folder / path).write_text(json.dumps({**document, "failures": [], **changes}))

    return write


def data(path):
    return json.loads(Elements(path.read_bytes()).scripts["data"])


def refused(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_page_has_the_actions_and_finds_the_video_from_where_it_lies(folder, actions):
    (folder / "pages").mkdir()
    actions("a.mp4")

    assert cli.run(["report", "actions.json", "--out", "pages/x.html"]) == 0

    (video,) = data(folder / "pages" / "x.html")["videos"]
    assert (video["name"], video["source"], video["start_s"], video["end_s"]) == ("a.mp4", "../a.mp4", 0.5, 9.5)
    assert [row[:2] for row in video["actions"]] == [[1.0, 3.0], [5.0, 6.0]]
    assert video["truth"] is None


def test_page_is_named_after_its_source_when_not_told(folder, actions):
    actions("a.mp4")

    assert cli.run(["report", "actions.json"]) == 0

    assert (folder / "actions.html").exists()


def test_video_is_looked_for_beside_its_actions(folder, actions, monkeypatch):
    (folder / "elsewhere").mkdir()
    actions("a.mp4")
    monkeypatch.chdir(folder / "elsewhere")

    assert cli.run(["report", "../actions.json", "--out", "x.html"]) == 0

    assert data(folder / "elsewhere" / "x.html")["videos"][0]["source"] == "../a.mp4"


def test_odd_file_names_become_relative_addresses(folder, actions):
    name = "c:d %?#é.mp4"
    (folder / name).write_bytes(b"x")
    actions(name)

    assert cli.run(["report", "actions.json"]) == 0

    assert data(folder / "actions.html")["videos"][0]["source"] == "c%3Ad%20%25%3F%23%C3%A9.mp4"


def test_truth_is_paired_with_what_was_found(folder, actions):
    actions("a.mp4")

    assert cli.run(["report", "actions.json", "a.mp4", "--truth", "truth.json"]) == 0

    (video,) = data(folder / "actions.html")["videos"]
    assert [row[:2] for row in video["truth"]] == [[1.2, 3.0]]
    assert [row[4:] for row in video["actions"]] == [[0, 0.9], [-1, 0.0]]


def test_embedded_video_is_in_the_page(folder, actions):
    actions("a.mp4")

    assert cli.run(["report", "actions.json", "--embed"]) == 0

    assert Elements((folder / "actions.html").read_bytes()).scripts["video-0"] == "YS5tcDQ="


def test_videos_that_are_named_are_those_of_the_page(folder, actions):
    actions("a.mp4", "x/b.mp4")

    assert cli.run(["report", "actions.json", "b.mp4"]) == 0

    (video,) = data(folder / "actions.html")["videos"]
    assert (video["name"], video["source"]) == ("x/b.mp4", "b.mp4")


def test_only_video_may_have_another_name_now(folder, actions):
    actions("before.mp4")

    assert cli.run(["report", "actions.json", "b.mp4"]) == 0

    assert data(folder / "actions.html")["videos"][0]["source"] == "b.mp4"


def test_labels_of_other_tools_make_a_page(folder):
    (folder / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\njump\n")

    assert cli.run(["report", "a.srt", "a.mp4"]) == 0

    assert data(folder / "a.html")["videos"][0]["actions"] == [[1.0, 2.0, 0, None, -1, 0.0]]


def test_untrained_model_is_told_on_the_page(folder, actions):
    actions("a.mp4", model={"name": "m", "trained": False, "notice": "random <weights>"})

    assert cli.run(["report", "actions.json"]) == 0

    assert "random &lt;weights&gt;" in (folder / "actions.html").read_text()


def test_missing_video_and_missing_truth_are_warned_about(folder, actions, capsys):
    actions("gone.mp4")

    assert cli.run(["report", "actions.json", "--truth", "truth.json"]) == 0

    shown = refused(capsys)
    assert "gone.mp4: there is no such file; the page lets people choose it" in shown
    assert "truth.json does not have the video gone.mp4" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.json"], 1, "none.json: no such file or directory"),
        (["actions.json", "c.mp4"], 2, "c.mp4: is not in actions.json, which has a.mp4, b.mp4"),
        (["actions.json", "-o", "actions.json"], 1, "actions.json: is what this run reads"),
        (["actions.json", "-o", "missing/x.html"], 1, "there is no folder missing"),
        ([".", "a.mp4"], 2, "is a folder; VIDEO, --truth and --embed are for a file of actions"),
        (["empty"], 1, "empty: has no actions.json"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(folder, actions, capsys, arguments, code, message):
    (folder / "empty").mkdir()
    actions("a.mp4", "b.mp4")

    assert cli.run(["report", *arguments]) == code

    assert message in refused(capsys)


def test_missing_extra_is_named_before_anything_is_read(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)

    assert cli.run(["report", "none.json"]) == 1

    assert install_command("report") in refused(capsys)


def test_folder_becomes_an_index_of_every_file_in_it_and_below(folder, actions, capsys):
    (folder / "below").mkdir()
    actions("a.mp4", path="one.json")
    actions("b.mp4", path="below/two.json", failures=[{"path": "c.mp4", "error": "no video in it"}])
    (folder / "one.html").write_text("a page")
    (folder / "other.json").write_text("{}")
    (folder / "broken.json").write_text("{")

    assert cli.run(["report", "."]) == 0

    found = data(folder / "index.html")
    assert [(row[0], row[1], row[2], row[5]) for row in found["rows"]] == [
        ("b.mp4", "done", 9.0, None),
        ("c.mp4", "failed", None, None),
        ("broken.json", "unreadable", None, None),
        ("a.mp4", "done", 9.0, "one.html#0"),
    ]
    assert found["rows"][0][3] == [[found["labels"].index("wave"), 1, 2.0], [found["labels"].index("jump"), 1, 1.0]]
    assert "wrote an index of 4 videos, 2 of them failed, to index.html" in refused(capsys)


@pytest.fixture(scope="module")
def detect(tmp_path_factory):
    bundle = str(write_bundle(tmp_path_factory.mktemp("bundle") / "small", trained=False))

    def run(*arguments):
        return cli.run(["detect", *arguments, "--model", bundle, "--device", "cpu", "--threads", "1"])

    return run


def test_detect_writes_the_page_with_truth_and_failures(folder, detect):
    write_video(folder / "a.mp4", noise_pictures(40, height_px=48, width_px=64), fps=2)

    assert detect("a.mp4", "b.mp4", "--out", "x.html", "--truth", "truth.json") == 1

    (video,) = data(folder / "x.html")["videos"]
    assert video["source"] == "a.mp4"
    assert len(video["actions"]) == len(FOUND)
    assert len(video["truth"]) == 1
    page = (folder / "x.html").read_text()
    assert "The weights of this model are random" in page
    assert "<b>b.mp4</b>: b.mp4: " in page
    assert "<dt>model</dt><dd>small</dd>" in page


def test_report_shows_the_run_that_the_document_describes(folder, detect):
    write_video(folder / "a.mp4", noise_pictures(40, height_px=48, width_px=64), fps=2)
    assert detect("a.mp4", "gone.mp4", "--out", "x.json", "--threshold", "0.3") == 1
    os.utime(folder / "x.json", (1_700_000_000, 1_700_000_000))
    document = json.loads((folder / "x.json").read_text())
    document["videos"][0] |= {"stream": 1, "streams": 2}
    (folder / "y.json").write_text(json.dumps(document))
    os.utime(folder / "y.json", (1_700_000_000, 1_700_000_000))

    assert cli.run(["report", "y.json", "--out", "y.html"]) == 0

    page = (folder / "y.html").read_text()
    when = datetime.fromtimestamp(1_700_000_000).astimezone().strftime("%Y-%m-%d %H:%M")
    for name, value in (("model", "small"), ("threshold", "0.3"), ("date", when)):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert "<b>gone.mp4</b>: gone.mp4: no such video" in page
    (video,) = data(folder / "y.html")["videos"]
    assert (video["stream"], video["streams"]) == (1, 2)
