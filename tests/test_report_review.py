"""Review on the page in a real browser: accept, reject, correct, add, undo, keep, and export as truth."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tallformer_infer import cli
from tallformer_infer.labels import LabelledVideo, Problems, Segment, read_annotations, read_labels
from tallformer_infer.labels.activitynet import truth_document
from tallformer_infer.report import PageAction, PageVideo, render_page
from tests.browser import MARK, wait_for
from tests.pages import blocks, run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Selenium, when its sockets are collected

FPS = 25.0
ENTER, ESCAPE = "\ue007", "\ue00c"
ACTIONS = (
    PageAction(start_s=1.0, end_s=3.0, label="jump", score=0.9),
    PageAction(start_s=10.0, end_s=12.0, label="sit", score=0.5),
    PageAction(start_s=20.0, end_s=30.0, label="jump", score=0.2),
)


@pytest.fixture
def open_page(browser, tmp_path, root):
    """Write a page of videos, open it without anything kept from before, and wait for its video."""

    def write(*videos, width_px=1280, height_px=900):
        path = tmp_path / "page.html"
        path.write_bytes(render_page(videos, title=videos[0].name))
        browser.open(path, width_px=width_px, height_px=height_px)
        browser.run("localStorage.clear()")
        browser.open(path, width_px=width_px, height_px=height_px)
        browser.wait("return player.readyState > 1")
        return path

    return write


@pytest.fixture
def video(root):
    def make(*actions, **changes):
        source = (root / "docs" / "example" / "example.mp4").as_uri()
        fields = {"name": "match.mp4", "source": source, "end_s": 45.0, "fps": FPS, "actions": actions or ACTIONS}
        return PageVideo(**{**fields, **changes})

    return make


@pytest.fixture
def exported(browser, downloads):
    """Export the truth of a page and read it as `eval`, `calibrate` and `train` do."""

    def read(name="match", *, click=True):
        path = downloads / f"{name}.truth.json"
        path.unlink(missing_ok=True)
        if click:
            browser.click("#export-truth")
        problems = Problems(str(path))
        found = read_annotations(wait_for(path), subset=None, defaults=(), problems=problems, check_durations=True)
        problems.raise_if_any()
        return path, {video.name: segments_of(video) for video in found.videos}

    return read


def segments_of(video):
    return [(segment.start_s, segment.end_s, segment.label) for segment in video.segments]


def current(browser):
    return browser.run(
        "const { start, end, label, verdict } = current(); return [start, end, DATA.labels[label], verdict]"
    )


def test_a_hundred_actions_are_reviewed_by_keyboard_and_exported(browser, open_page, video, exported):
    labels = ("jump", "sit", "wave")
    found = [
        PageAction(start_s=number * 0.44, end_s=number * 0.44 + 0.4, label=labels[number % 3], score=0.5)
        for number in range(100)
    ]
    open_page(video(*found))
    expected = []

    for number, action in enumerate(found):
        start_s, end_s, label = action.start_s, action.end_s, action.label
        keys = "j" if number == 0 else ""
        match number % 5:
            case 0:
                keys += "a"
            case 1:
                keys += "x"
            case 2:  # two frames earlier, one back; the end three later
                keys += "qqweeerrrrrra"
                start_s, end_s = start_s - 1 / FPS, end_s + 3 / FPS
            case 3:
                keys += "l" + "handstand" + ENTER + "a"
                label = "handstand"
            case 4:  # rejected, taken back, and accepted after all
                keys += "xua"
        browser.press(*keys)
        if number % 5 != 1:
            expected.append((round(start_s, 6), round(end_s, 6), label))

    assert browser.text("#review-counts") == "80 accepted, 20 rejected, 0 to review"
    path, truth = exported()
    assert truth == {"match": sorted(expected)}
    assert json.loads(path.read_text())["database"]["match"]["duration"] == 45.0
    assert segments_of(read_labels(path)[0]) == sorted(expected)


def test_exported_truth_is_what_the_writer_of_labels_writes(browser, open_page, video, exported):
    actions = [
        PageAction(start_s=1 / 3, end_s=2.0, label=MARK, score=0.5),
        PageAction(start_s=1 / 3, end_s=1.0, label='=a "b"\n☃', score=0.1),
    ]
    open_page(video(*actions, name="some/__proto__.mp4"))

    browser.press("j", "a", "a")
    path, _ = exported("__proto__")

    segments = [Segment(start_s=each.start_s, end_s=each.end_s, label=each.label) for each in actions]
    same = LabelledVideo(name="some/__proto__.mp4", segments=tuple(segments), duration_s=45.0, fps=FPS)
    assert json.loads(path.read_text()) == truth_document([same])


def test_eval_gives_full_marks_to_what_was_accepted(browser, open_page, video, exported, tmp_path, capsys):
    open_page(video())
    browser.press("j", "a", "a", "a")
    path, _ = exported()
    found = {"match": [{"segment": [a.start_s, a.end_s], "label": a.label, "score": a.score} for a in ACTIONS]}
    (tmp_path / "results.json").write_text(json.dumps({"version": "x", "results": found, "external_data": {}}))

    assert cli.run(["eval", str(tmp_path / "results.json"), str(path), "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["average_mAP"] == 1.0


def test_the_documented_review_leads_from_detect_to_eval(browser, root, tmp_path, downloads):
    (tmp_path / "docs").symlink_to(root / "docs")
    detect, to_page = blocks(root, "sh", "docs/report.md")[0].splitlines()[:2]
    for command in (detect, to_page):
        assert run(command, tmp_path).returncode == 0

    browser.open(tmp_path / "review.html")
    browser.run("localStorage.clear()")
    browser.press("j", *"a" * browser.run("return state.video.actions.length"))
    browser.click("#export-truth")
    shutil.copy(wait_for(downloads / "example.truth.json"), tmp_path)

    for command in blocks(root, "bash", "docs/report.md")[0].splitlines():
        done = run(command, tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if command.startswith("tallformer eval"):
            assert re.search(r"mAP %( +100\.00){6}", done.stdout), done.stdout


def test_border_is_dragged_to_a_whole_frame_and_undo_takes_it_back(browser, open_page, video):
    open_page(video())
    browser.press("j", "j", "j", " ")
    browser.wait("return !document.getElementById('border-end').hidden")
    move = browser.run("return pixelOf(35.017) - pixelOf(30)")
    offset = browser.run(
        "const box = $('border-end').getBoundingClientRect();"
        "return pixelOf(30) - (box.x + box.width / 2 - chart.getBoundingClientRect().x)"
    )

    browser.drag("#border-end", round(move + offset))

    start_s, end_s, _, verdict = current(browser)
    assert (start_s, verdict) == (20.0, "accepted")
    assert end_s == pytest.approx(35.0, abs=0.1)
    assert end_s * FPS == pytest.approx(round(end_s * FPS), abs=1e-3)
    assert browser.run("return player.currentTime") == pytest.approx(end_s, abs=0.01)
    browser.press("u")
    assert current(browser) == [20.0, 30.0, "jump", ""]
    assert browser.run("return document.getElementById('undo').disabled")


def test_borders_stay_a_frame_apart_and_within_the_video(browser, open_page, video):
    open_page(video(PageAction(start_s=0.06, end_s=0.14, label="jump", score=0.5)))

    browser.press("j", "q", "q", "q")
    assert current(browser)[:2] == [0.0, 0.14]
    browser.press("e", "e", "e", "e", "e")
    assert current(browser)[:2] == [0.0, 0.04]
    browser.run("seek(45)")
    browser.press("o")
    assert current(browser)[:2] == [0.0, 45.0]
    browser.press("I")
    assert current(browser)[:2] == [44.96, 45.0]


def test_shift_moves_a_border_by_ten_frames(browser, open_page, video):
    open_page(video())

    browser.press("j", "W", "R")

    assert current(browser)[:2] == [1.4, 3.4]


def test_undo_goes_back_step_by_step_through_everything(browser, open_page, video):
    open_page(video())
    steps = []
    keys = [("a",), ("k", "x"), ("k", "w"), ("l", "wave", ENTER), ("n",), ("new", ENTER), ("i",), ("b",)]

    browser.press("j")
    for group in keys:
        steps.append(browser.run("return reviewDocument()"))
        if group == ("i",):
            browser.run("seek(current().start + 0.2)")
        browser.press(*group)

    assert browser.text("#review-counts") == "1 accepted, 1 rejected, 2 to review"
    for expected in reversed(steps):
        browser.press_with_control("z")
        assert browser.run("return reviewDocument()") == expected
    assert len(browser.run("return state.video.actions")) == 3


def test_back_to_what_was_found(browser, open_page, video):
    open_page(video())

    browser.press("j", "w", "l", "x", ENTER, "b")

    assert current(browser) == [1.0, 3.0, "jump", ""]


def test_added_action_begins_at_the_playhead_and_takes_the_typed_name(browser, open_page, video, exported):
    open_page(video())
    browser.run("seek(5)")

    browser.press("n", "new <b>move</b>", ENTER)
    browser.run("seek(7.2)")
    browser.press("o")

    assert browser.texts("#rows .label") == ["jump", "new <b>move</b>", "sit", "jump"]
    _, truth = exported()
    assert truth == {"match": [(5.0, 7.2, "new <b>move</b>")]}
    assert browser.text("#kept") == "1 action exported; 3 not reviewed are left out."


def test_typed_labels_stay_text_everywhere(browser, open_page, video):
    open_page(video())

    browser.press("j", "l", MARK, ENTER)

    assert MARK in browser.texts("#rows .label")
    assert MARK in browser.texts("#classes .name")
    assert MARK in browser.run("return [...document.querySelectorAll('#labels option')].map(({ value }) => value)")
    assert browser.run("return document.images.length") == 0
    assert browser.run("return document.title") == "match.mp4"


def test_escape_leaves_the_label_as_it_was(browser, open_page, video):
    open_page(video())

    browser.press("j", "l", "nonsense", ESCAPE, "j")

    assert browser.texts("#rows .label") == ["jump", "sit", "jump"]
    assert browser.run("return state.current") == 1


def test_review_is_there_again_after_a_reload_and_only_for_the_same_result(browser, open_page, video):
    path = open_page(video())
    browser.press("j", "x", "w", "a", "l", "wave", ENTER, "n", "new", ENTER)
    before = browser.run("return reviewDocument()")
    assert len(before["videos"][0]["actions"]) == 4

    browser.open(path)

    assert browser.run("return reviewDocument()") == before
    assert browser.text("#kept") == "Restored what this browser kept."
    assert browser.texts("#rows tr.rejected .label") == ["jump"]
    path.write_bytes(render_page([video(*ACTIONS[:2])], title="match.mp4"))
    browser.open(path)
    assert browser.text("#review-counts") == "0 accepted, 0 rejected, 2 to review"


def test_a_copy_of_a_server_s_page_is_kept_in_the_browser(browser, open_page, video):
    path = open_page(video())
    path.write_bytes(render_page([video()], title="a", review="review", classes=["handstand", "jump"]))
    browser.open(path)

    browser.press("j", "a")

    assert browser.text("#kept") == "Kept in this browser."
    offered = browser.run("return [...document.querySelectorAll('#labels option')].map(({ value }) => value)")
    assert offered == ["jump", "sit", "handstand"]
    assert browser.complaints() == []


def test_a_browser_that_keeps_nothing_says_so(browser, open_page, video, exported):
    open_page(video())
    browser.run("Storage.prototype.setItem = () => { throw new Error('full'); }")

    browser.press("j", "a")

    assert browser.text("#kept") == "This browser keeps nothing for this page: export before you close it."
    assert exported()[1] == {"match": [(1.0, 3.0, "jump")]}


def test_truth_of_several_videos_has_those_that_were_reviewed(browser, open_page, video, exported):
    open_page(video(), video(name="b.mp4"), video(name="v.2", truth_name="v.2"))

    browser.press("j", "x")
    browser.run("openNumber(2)")
    browser.press("j", "a")

    browser.run("openNumber(0)")
    assert exported()[1] == {"match": [], "v.2": [(1.0, 3.0, "jump")]}


def test_the_first_action_of_a_video_without_any(browser, open_page, video, exported):
    open_page(video(actions=()))
    browser.press("a", "x", "j", "q")  # nothing to decide about
    assert browser.complaints() == []

    browser.run("seek(3)")
    browser.press("n", "wave", ENTER)

    assert exported()[1] == {"match": [(3.0, 4.0, "wave")]}


def test_two_videos_of_one_name_are_not_mixed_up(browser, open_page, video):
    open_page(video(name="a/match.mp4"), video(name="b/match.mp4"))
    browser.press("j", "a")
    browser.run("openNumber(1)")
    browser.press("j", "a")

    browser.click("#export-truth")

    assert browser.text("#kept") == "Two videos would both be match: export them from pages of their own."


def test_length_is_asked_of_the_browser_where_the_result_does_not_say_it(browser, open_page, video, exported):
    open_page(video(end_s=None))
    browser.run("step(1); seek(44)")
    browser.press("o")  # beyond the last action that was found

    path, truth = exported()
    assert truth == {"match": [(1.0, 44.0, "jump")]}

    assert json.loads(path.read_text())["database"]["match"]["duration"] == pytest.approx(45, abs=0.1)


def test_search_and_verdict_filter_list_timeline_and_keys(browser, open_page, video):
    open_page(video())

    browser.press("/", "JU", ENTER, "j", "j")
    assert browser.texts("#rows .label") == ["jump", "jump"]
    assert browser.run("return state.current") == 2
    browser.press("/", "mpx", ENTER)
    assert browser.text("#empty-text") == "No action passes the filters: 3 actions hidden."
    browser.click("#show-all")
    browser.press("k", "k", "x")
    browser.run("$('only').value = ''; $('only').dispatchEvent(new Event('change'))")
    assert browser.texts("#rows .label") == ["sit", "jump"]
    browser.run("$('only').value = 'rejected'; $('only').dispatchEvent(new Event('change'))")
    assert browser.texts("#rows .label") == ["jump"]


def test_speed_by_key_and_menu(browser, open_page, video):
    open_page(video())

    browser.press(">", ">")
    assert browser.run("return [player.playbackRate, $('speed').value]") == [2, "2"]
    browser.press("<", "<", "<", "<", "<", "<", "<")
    assert browser.run("return player.playbackRate") == 0.25
    browser.run("$('speed').value = '4'; $('speed').dispatchEvent(new Event('change'))")
    assert browser.run("return player.playbackRate") == 4


def test_every_key_is_listed_and_every_listed_key_does_something(browser, open_page, video):
    open_page(video(), height_px=1000)

    listed = set("".join(browser.texts("#key-list kbd")).lower().replace("space", " "))

    assert browser.run("return $('keys').open")
    browser.press("?")
    assert not browser.run("return $('keys').open")
    keys = {key for group in browser.run("return KEYS.map(([, keys]) => keys)") for key in group}
    assert {key.replace("arrowleft", "←").replace("arrowright", "→") for key in keys} - {"="} == listed


def test_rejected_actions_are_not_in_the_list_that_is_saved(browser, open_page, video, downloads):
    open_page(video())
    browser.press("j", "x")

    browser.click("#export-csv")

    (found,) = read_labels(wait_for(downloads / "match.actions.csv"))
    assert segments_of(found) == [(10.0, 12.0, "sit"), (20.0, 30.0, "jump")]


def test_review_on_a_phone(browser, open_page, video, exported):
    open_page(video(), width_px=390, height_px=844)

    browser.click("#next")
    browser.click("#accept")
    browser.click("#edit button[data-border=start][data-frames='1']")
    browser.click("#reject")
    browser.click("#undo")

    assert browser.run("return document.documentElement.scrollWidth") <= 390
    assert browser.run("return getComputedStyle($('keys')).display") == "none"
    assert browser.text("#review-counts") == "2 accepted, 0 rejected, 1 to review"
    assert exported()[1] == {"match": [(1.0, 3.0, "jump"), (10.04, 12.0, "sit")]}
    for place in ("#accept", "#reject", "#next", "#previous"):
        box = browser.run(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.top, b.bottom]", place
        )
        assert 0 <= box[0] < box[1] <= 844
