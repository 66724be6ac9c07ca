"""Pages in a real browser: what is shown, what a change of filter does, and that nothing else is loaded or run."""

from __future__ import annotations

import dataclasses
import time

import pytest

from tallformer_infer.labels.formats import read_labels
from tallformer_infer.report import IndexRow, PageAction, PageTruth, PageVideo, render_index, render_page
from tests.browser import MARK, wait_for
from tests.label_samples import ODD_LABELS

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Selenium, when its sockets are collected

ACTIONS = (
    PageAction(start_s=1.0, end_s=3.0, label="jump", score=0.9, truth=0, tiou=0.8),
    PageAction(start_s=10.0, end_s=12.5, label="sit", score=0.5),
    PageAction(start_s=11.0, end_s=13.0, label="sit", score=0.2),
    PageAction(start_s=20.0, end_s=30.0, label=MARK, score=0.7),
)
TRUTH = (PageTruth(start_s=1.1, end_s=3.0, label="jump"), PageTruth(start_s=40.0, end_s=41.0, label="sit"))


@pytest.fixture(scope="module")
def example(root):
    """A video that every Chromium plays."""
    return root / "docs" / "example" / "example.mp4"


@pytest.fixture(scope="module")
def page(tmp_path_factory, example):
    """Write a page of `ACTIONS`; changes replace fields of the video."""
    folder = tmp_path_factory.mktemp("pages")

    def write(*more, **changes):
        video = PageVideo(name=f"{MARK}.mp4", source=example.as_uri(), actions=ACTIONS, end_s=45.0)
        path = folder / "page.html"
        path.write_bytes(render_page([dataclasses.replace(video, **changes), *more], title=video.name))
        return path

    return write


def slide(browser, value):
    """Move the slider, as dragging it does."""
    browser.run(
        "const slider = document.getElementById('score'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}))",
        value,
    )


def bars(browser, trace=0):
    """Start of every bar on the timeline."""
    browser.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    return browser.run("return Array.from(document.getElementById('chart').data[arguments[0]].base)", trace)


def test_page_loads_its_video_and_nothing_else(browser, page, example):
    path = page()
    browser.open(path)
    browser.wait("return player.readyState > 0")

    asked = {address for address in browser.requests() if not address.startswith(("blob:", "data:"))}

    assert asked == {path.as_uri(), example.as_uri()}
    assert browser.complaints() == []


def test_names_and_labels_are_shown_as_text(browser, page):
    labels = [label for label in ODD_LABELS if "\ud83d" not in label]  # half of a pair, which the driver cannot tell us
    odd = tuple(PageAction(start_s=i, end_s=i + 1.0, label=label, score=0.5) for i, label in enumerate(labels))
    browser.open(page(actions=ACTIONS + odd))

    assert browser.text("h1") == f"{MARK}.mp4"
    assert browser.run("return document.title") == f"{MARK}.mp4"
    assert browser.run("return document.images.length") == 0
    shown = set(browser.texts("#rows .label"))
    assert MARK in shown
    assert set(labels) <= shown
    assert MARK in browser.texts("#classes .name")
    assert any(tick.startswith("<img src=x onerror=") for tick in browser.texts("#chart .ytick text"))


def test_script_that_is_not_of_the_page_does_not_run(browser, page):
    browser.open(page())

    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}));"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')"
    )
    time.sleep(0.2)

    assert browser.run("return window.hacked") is None
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_slider_updates_counts_list_and_timeline_at_once(browser, page):
    browser.open(page())
    assert browser.text("#counts") == "4 of 4 actions, 3 classes"

    slide(browser, 0.6)

    assert browser.text("#counts") == "2 of 4 actions, 2 classes"
    assert browser.text("#score-shown") == "0.60"
    assert browser.texts("#rows .label") == ["jump", MARK]
    assert browser.texts("#classes .number") == ["1", "1", "0"]
    assert bars(browser) == [1.0, 20.0]


def test_score_of_an_action_itself_keeps_it(browser, page):
    browser.open(page())

    slide(browser, 0.7)

    assert browser.texts("#rows .label") == ["jump", MARK]


def test_class_filter_updates_counts_list_and_timeline_at_once(browser, page):
    browser.open(page())

    browser.click("#classes li:nth-child(3) input")

    assert browser.text("#counts") == "2 of 4 actions, 2 classes"
    assert bars(browser) == [1.0, 20.0]
    browser.click("#no-classes")
    assert browser.text("#counts") == "0 of 4 actions, 0 classes"
    assert bars(browser) == []
    browser.click("#all-classes")
    assert len(bars(browser)) == 4


def test_click_on_the_timeline_plays_the_action_there_to_its_end(browser, page):
    browser.open(page())
    browser.wait("return player.readyState > 1")

    browser.click("#chart .bars .point:nth-child(4) path")

    browser.wait("return !player.paused")
    assert browser.run("return player.currentTime") == pytest.approx(20.0, abs=1.0)
    assert browser.text("#now") == f"0:20.00 – 0:30.00  {MARK}  0.700"
    browser.run("player.currentTime = 29.8")
    browser.wait("return player.paused")
    assert browser.run("return player.currentTime") == pytest.approx(30.0, abs=0.5)


@pytest.mark.parametrize("width_px", [1280, 390])
def test_playhead_stands_at_the_time_of_the_video(browser, page, width_px):
    browser.open(page(), width_px=width_px)
    every_s = browser.run("return document.getElementById('chart').layout.xaxis.tickvals[1]")
    browser.run("seek(2 * arguments[0])", every_s)
    browser.wait("return player.currentTime > 0")
    distance = (
        "const ticks = document.querySelectorAll('#chart .xtick text'), tick = ticks[2].getBoundingClientRect();"
        "const line = document.getElementById('playhead').getBoundingClientRect();"
        "return Math.abs(line.x + line.width / 2 - tick.x - tick.width / 2)"
    )

    browser.wait(f"return (() => {{ {distance} }})() < 2")

    browser.run("view(40, 45)")
    browser.wait("return document.getElementById('playhead').hidden")


def test_click_in_the_list_plays_the_action(browser, page):
    browser.open(page())
    browser.wait("return player.readyState > 1")

    browser.click("#rows tr:nth-child(2) button")

    browser.wait("return !player.paused")
    assert browser.run("return player.currentTime") == pytest.approx(10.0, abs=1.0)
    assert browser.run("return document.querySelector('tr[aria-current=true] .label').textContent") == "sit"


def test_the_whole_row_plays_and_space_pauses_after_a_click(browser, page):
    browser.open(page())
    browser.wait("return player.readyState > 1")

    browser.click("#rows tr:nth-child(2) td.label")
    browser.wait("return !player.paused")
    browser.press(" ")
    browser.wait("return player.paused")
    assert browser.run("return player.currentTime") == pytest.approx(10.0, abs=1.0)

    browser.click("#rows tr:nth-child(2) button")
    browser.wait("return !player.paused")
    browser.press(" ")
    browser.wait("return player.paused")


MANY = tuple(
    PageAction(start_s=number / 4, end_s=number / 4 + 0.2, label=f"class {number % 14:02}", score=0.5)
    for number in range(160)
)


@pytest.mark.parametrize(("width_px", "height_px"), [(1400, 900), (900, 800), (390, 844)])
def test_video_and_timeline_stay_in_sight_while_the_list_scrolls(browser, page, width_px, height_px):
    browser.open(page(actions=MANY), width_px=width_px, height_px=height_px)

    browser.click("#rows tr:nth-child(150) td.label")

    boxes = browser.run(
        "return ['#video', '#chart-box', '#rows tr[aria-current=true]'].map((place) => {"
        "const box = document.querySelector(place).getBoundingClientRect(); return [box.top, box.bottom]; })"
    )
    for top, bottom in boxes:
        assert 0 <= round(top) < round(bottom) <= height_px
    (_, video_end), (chart, chart_end), (row, _) = boxes
    assert video_end <= chart
    assert width_px > 720 or row >= chart_end  # beside it, or below it
    assert browser.run("return document.documentElement.scrollWidth") <= width_px


def test_actions_of_one_class_that_overlap_stand_in_rows_of_their_own(browser, page):
    spans = [(0, 10), (2, 5), (4, 8), (6, 9), (11, 12)]
    overlapping = tuple(PageAction(start_s=start, end_s=end, label="jump", score=0.5) for start, end in spans)
    browser.open(page(actions=(*overlapping, PageAction(start_s=0, end_s=1, label="sit", score=0.5))))
    bars(browser)

    found = browser.run("return Array.from(document.getElementById('chart').data[0].y)")

    assert found == [
        4.0,
        0.5,
        1.5,
        2.5,
        1.5,
        0.5,
    ]  # in order of time; the lane of "sit" begins half a row below the three of "jump"


def test_every_class_has_a_colour_of_its_own(browser, page):
    browser.open(page(actions=MANY))

    colours = browser.run(
        "return [...document.querySelectorAll('#classes .dot')].map((dot) => getComputedStyle(dot).backgroundColor)"
    )

    assert len(colours) == len(set(colours)) == 14


def test_a_list_without_rows_says_why(browser, page):
    browser.open(page(actions=()))
    assert browser.text("#empty-text") == "No action was found in this video."
    assert browser.run("return document.getElementById('show-all').hidden")

    browser.open(page())
    assert browser.run("return document.getElementById('empty').hidden")
    slide(browser, 1)
    assert browser.text("#empty-text") == "No action passes the filters: 4 actions hidden."
    browser.click("#show-all")
    assert browser.text("#counts") == "4 of 4 actions, 3 classes"


def test_the_page_says_which_stream_was_analysed_where_there_are_several(browser, page):
    browser.open(page())
    assert browser.run("return document.getElementById('stream').hidden")

    browser.open(page(stream=1, streams=2))

    assert not browser.run("return document.getElementById('stream').hidden")
    assert browser.text("#stream").startswith("Video stream 1 (of 0 to 1) was analysed; a browser shows stream 0")


def test_header_has_the_facts_and_the_videos_that_failed(browser, tmp_path):
    video = PageVideo(name="a.mp4", source="", actions=ACTIONS, end_s=45.0)
    path = tmp_path / "page.html"
    facts, failures = [("model", MARK), ("threshold", "0.5")], [("gone.mp4", "no such video"), ("b.mp4", MARK)]
    path.write_bytes(render_page([video], title="a", facts=facts, failures=failures))

    browser.open(path)

    assert browser.texts("#facts dd") == [MARK, "0.5"]
    assert browser.text("#failures summary") == "2 videos failed"
    assert browser.texts("#failures li") == ["gone.mp4: no such video", f"b.mp4: {MARK}"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_menus_can_be_read_in_light_and_in_dark(browser, page, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.open(page(PageVideo(name="b.mp4", source="", actions=())))

    for place in ("#video-choice", "#video-choice option", "#next"):
        ink, ground = browser.run(
            "const style = getComputedStyle(document.querySelector(arguments[0]));"
            "return [style.color, style.backgroundColor]",
            place,
        )
        assert contrast(ink, ground) >= 7, place
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(ink, ground):
    """Contrast of two colours such as `rgb(1, 2, 3)`, 1 to 21. Source: WCAG 2.2, relative luminance."""

    def luminance(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted([luminance(ink), luminance(ground)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_keys_play_seek_and_go_from_action_to_action(browser, page):
    browser.open(page())
    browser.wait("return player.readyState > 1")

    browser.press(" ")
    browser.wait("return !player.paused")
    browser.press(" ")
    browser.wait("return player.paused")
    browser.run("player.currentTime = 5")
    browser.press("\ue014", "\ue014", "\ue012")  # right, right, left
    assert browser.run("return player.currentTime") == pytest.approx(6.0, abs=0.2)
    starts = []
    for key in "jjkj":
        browser.press(key)
        starts.append(browser.run("return state.video.actions[state.current].start"))
    assert starts == [10.0, 11.0, 10.0, 11.0]


def test_keys_step_over_actions_that_are_filtered_out(browser, page):
    browser.open(page())
    slide(browser, 0.6)

    browser.press("j", "j", "j")

    assert browser.run("return state.video.actions[state.current].start") == 20.0


def test_slider_works_from_the_keyboard_and_its_arrows_do_not_move_the_video(browser, page):
    browser.open(page())

    browser.run("document.getElementById('score').focus()")
    browser.press("\ue014", "\ue014")

    assert browser.text("#score-shown") == "0.02"
    assert browser.run("return player.currentTime") == 0


def test_zoom_by_button_and_key_keeps_while_the_filter_changes(browser, page):
    browser.open(page())
    shown = "return document.getElementById('chart').layout.xaxis.range"
    assert browser.run(shown) == [0, 45]

    browser.press("+")
    browser.click("#zoom-in")
    slide(browser, 0.6)
    bars(browser)

    first, last = browser.run(shown)
    assert last - first == pytest.approx(45 / 4)
    browser.click("#later")
    assert browser.run(shown)[0] > first
    browser.press("0")
    assert browser.run(shown) == [0, 45]


def test_action_out_of_view_is_brought_into_view(browser, page):
    browser.open(page())
    browser.run("view(0, 5)")

    browser.click("#rows tr:nth-child(4) button")

    first, last = browser.run("return document.getElementById('chart').layout.xaxis.range")
    assert first <= 20
    assert last >= 30


def test_truth_is_shown_beside_what_was_found(browser, page):
    browser.open(page(truth=TRUTH))

    assert browser.text("#counts") == "4 of 4 actions, 3 classes · 1 right, 3 too many, 1 missed"
    assert bars(browser, 1) == [1.1, 40.0]
    assert browser.texts("#rows tr:first-child td")[-1] == "0:01.10 – 0:03.00 overlap 0.80"
    assert browser.texts("#rows .missed .label") == ["sit"]
    slide(browser, 0.95)
    assert browser.text("#counts") == "0 of 4 actions, 0 classes · 0 right, 0 too many, 2 missed"


def test_list_can_be_sorted(browser, page):
    browser.open(page())

    browser.click("th button[data-sort=score]")

    assert browser.texts("#rows tr td:nth-child(5)") == ["0.900", "0.700", "0.500", "0.200"]
    browser.click("th button[data-sort=score]")
    assert browser.texts("#rows tr td:nth-child(5)") == ["0.200", "0.500", "0.700", "0.900"]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_exported_list_is_what_is_shown_and_convert_reads_it(browser, page, downloads, kind):
    formula = PageAction(start_s=2.125, end_s=3.5, label='=cmd("x")\n', score=0.8)
    browser.open(page(name="some/=match.mp4", actions=(*ACTIONS, formula)))
    slide(browser, 0.6)

    browser.click(f"#export-{kind}")

    path = downloads / f"=match.actions.{kind}"
    written = wait_for(path)
    (found,) = read_labels(written)
    assert found.name == "some/=match.mp4"
    assert sorted((each.start_s, each.end_s, each.label, each.score) for each in found.segments) == sorted(
        (each.start_s, each.end_s, each.label, each.score) for each in (ACTIONS[0], ACTIONS[3], formula)
    )
    if kind == "csv":
        assert "\"'=cmd(" in written.read_text()


def test_page_with_its_video_in_it_needs_no_file(browser, page, example):
    browser.open(page(source="gone.mp4", content=example.read_bytes()))

    browser.wait("return player.readyState > 1")

    assert browser.run("return player.duration") == pytest.approx(45, abs=0.5)
    assert not [address for address in browser.requests() if "gone.mp4" in address]


def test_missing_video_is_told_and_another_file_can_be_chosen(browser, page, example):
    browser.open(page(source="gone.mp4"), width_px=390)
    browser.wait("return !document.getElementById('video-problem').hidden")

    assert browser.text("#video-problem").startswith(f"This browser cannot play {MARK}.mp4 from here. Choose the file")
    browser.driver.find_element("id", "video-file").send_keys(str(example))
    browser.wait("return player.readyState > 1")


def test_page_of_several_videos_lets_one_be_chosen(browser, page):
    other = PageVideo(name="b.mp4", source="", actions=(PageAction(start_s=1, end_s=2, label="sit"),), end_s=9.0)
    path = page(other)
    browser.open(path)
    assert browser.texts("#video-choice option") == [f"{MARK}.mp4", "b.mp4"]

    browser.run(
        "const choice = document.getElementById('video-choice'); choice.value = '1';"
        "choice.dispatchEvent(new Event('change'))"
    )

    assert browser.text("#counts") == "1 of 1 action, 1 class"
    assert bars(browser) == [1.0]
    assert browser.run("return document.getElementById('chart').layout.xaxis.range") == [0, 9]
    browser.open(path, fragment="#1")
    assert browser.text("#counts") == "1 of 1 action, 1 class"


def test_video_without_actions_has_a_page(browser, page):
    browser.open(page(actions=()))

    assert browser.text("#counts") == "0 of 0 actions, 0 classes"
    assert browser.complaints() == []


def test_timeline_follows_the_width_of_the_window(browser, page):
    browser.open(page())

    size = {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    browser.wait("return document.querySelector('#chart .main-svg').getBoundingClientRect().right <= 500")


@pytest.mark.parametrize("width_px", [320, 390])
def test_nothing_is_cut_off_at_the_width_of_a_phone(browser, page, width_px):
    browser.open(page(truth=TRUTH), width_px=width_px, height_px=700)

    assert browser.run("return document.documentElement.scrollWidth") <= width_px
    for place in ("video", "#score", "#chart", "#rows"):
        left, right = browser.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.left, box.right]",
            place,
        )
        assert 0 <= left < right <= width_px, place


def test_everything_can_be_reached_with_the_tabulator(browser, page):
    browser.open(page())

    reached = set()
    for _ in range(60):
        browser.press("\ue004")
        reached.add(browser.run("return document.activeElement.id || document.activeElement.title"))

    assert {"video", "previous", "next", "score", "export-csv", "zoom-in", "all-classes", "Play"} <= reached


# the index


ROWS = [
    IndexRow(
        name="a.mp4", status="done", duration_s=3600, counts={"jump": 3, MARK: 1}, seconds={"jump": 1800, MARK: 9}
    ),
    IndexRow(name="b.mp4", status="done", duration_s=7200, counts={"jump": 1}, seconds={"jump": 36}, page="b.html#0"),
    IndexRow(name=f"{MARK}.mp4", status="failed", error="no <video> in it"),
]


@pytest.fixture
def index(tmp_path):
    def write(rows):
        path = tmp_path / "index.html"
        path.write_bytes(render_index(rows, title=MARK))
        return path

    return write


def test_index_sums_up_and_loads_nothing(browser, index):
    path = index(ROWS)
    browser.open(path)

    assert browser.text("#totals") == "3 videos, 3.00 hours, 5 actions, 1 failed"
    assert browser.texts("#classes-rows tr:first-child td") == ["jump", "4", "2", "0.51"]
    assert browser.texts("#videos-rows td:first-child") == ["a.mp4", "b.mp4", f"{MARK}.mp4no <video> in it"]
    assert browser.run("return document.querySelector('#videos-rows a').getAttribute('href')") == "b.html#0"
    assert browser.run("return document.images.length") == 0
    assert browser.requests() == {path.as_uri()}
    assert browser.complaints() == []


def test_index_can_be_searched_and_filtered(browser, index):
    browser.open(index(ROWS))
    assert not browser.driver.find_element("id", "paging").is_displayed()
    fill = (
        "const it = document.querySelector(arguments[0]); it.value = arguments[1];"
        "it.dispatchEvent(new Event(arguments[2]))"
    )

    browser.run(fill, "#search", "NO <VIDEO", "input")
    assert browser.text("#found") == "1 of 3 videos"
    browser.run(fill, "#search", "", "input")
    browser.run(fill, "#status", "done", "change")
    assert browser.text("#found") == "2 of 3 videos"
    browser.click("#classes-rows tr:nth-child(2) button")

    assert browser.texts("#videos-rows td:first-child") == ["a.mp4"]
    assert browser.texts("#videos-rows td:last-child") == ["1"]


def test_index_of_many_videos_is_shown_in_pages(browser, index):
    browser.open(index(IndexRow(name=f"{row:05d}.mp4", status="done", duration_s=1.0) for row in range(10_000)))
    assert browser.text("#page-shown") == "1 to 200"

    browser.click("#page-after")
    browser.click("th button[data-sort=name]")
    browser.click("th button[data-sort=name]")

    assert browser.text("#page-shown") == "201 to 400"
    assert browser.text("#videos-rows td") == "09799.mp4"
