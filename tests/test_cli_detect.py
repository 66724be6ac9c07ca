"""`tallformer detect` from the command line to the file it writes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from tallformer_infer import cli
from tallformer_infer.commands import progress
from tallformer_infer.commands.tables import actions_table
from tallformer_infer.pipeline import Progress
from tallformer_infer.results import Selection, load_schema
from tests.result_samples import action, result
from tests.small_bundle import CLASSES, FOUND, write_bundle
from tests.videos import noise_pictures, write_video

EXAMPLE = Path(__file__).parents[1] / "docs" / "example" / "example.mp4"
EXPECTED = sorted(
    ({"segment": [start / 15, end / 15], "label": label, "score": score} for (start, end), score, label in FOUND),
    key=lambda action: action["segment"],
)
"""What the small bundle finds in a video of one window."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_bundle(tmp_path_factory.mktemp("bundle") / "small"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return str(write_bundle(tmp_path_factory.mktemp("bundle") / "small", trained=False))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def video(folder):
    """A video of 20 s, shorter than a window."""
    return write_video(folder / "a.mp4", noise_pictures(40, height_px=48, width_px=64), fps=2)


@pytest.fixture
def detect(bundle):
    """Run `tallformer detect` with the small bundle on one thread; give the exit code."""

    def run(*arguments):
        return cli.run(["detect", *map(str, arguments), "--model", bundle, "--device", "cpu", "--threads", "1"])

    return run


def drawn(found):
    console = Console(file=io.StringIO(), width=200)
    console.print(actions_table(found, rows=20))
    return console.file.getvalue()


def read(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(load_schema()).validate(document)
    return document


def assert_actions(found, expected):
    assert [(one["label"], round(one["score"], 5)) for one in found] == [
        (one["label"], one["score"]) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one["segment"] == pytest.approx(other["segment"], abs=1e-5)


def test_actions_json_fits_the_schema_and_says_what_was_found(video, folder, detect):
    assert detect("a.mp4", "--out", "actions.json") == 0

    document = read(folder / "actions.json")
    assert document["model"] == {"name": "small", "trained": True}
    assert document["device"] == "cpu"
    assert document["failures"] == []
    (found,) = document["videos"]
    assert (found["path"], found["width_px"], found["height_px"]) == ("a.mp4", 64, 48)
    assert found["frame_count"] == 300
    assert found["duration_s"] == pytest.approx(20)
    assert_actions(found["actions"], EXPECTED)


def test_filters_decide_what_is_written_and_are_written_down(video, folder, detect):
    assert detect("a.mp4", "-o", "x.json", "--threshold", 0.3, "--top-k", 1, "--classes", "jump,wave") == 0

    document = read(folder / "x.json")
    assert document["settings"] == {
        "windows": "shared",
        "window_s": None,
        "class_scores": None,
        "rates": None,
        "threshold": 0.3,
        "top_k": 1,
        "classes": ["jump", "wave"],
        "operating_point": None,
    }
    assert [action["label"] for action in document["videos"][0]["actions"]] == ["wave"]


def test_class_with_a_comma_in_its_name_can_be_asked_for(video, folder, detect):
    assert detect("a.mp4", "-o", "x.json", "--classes", "sit, then stand", "--classes", "jump") == 0

    document = read(folder / "x.json")
    assert document["settings"]["classes"] == ["sit, then stand", "jump"]
    assert {action["label"] for action in document["videos"][0]["actions"]} == {"sit, then stand", "jump"}


def test_unknown_class_is_usage_before_anything_is_decoded(folder, detect, capsys):
    (folder / "empty.mp4").touch()

    assert detect("empty.mp4", "-o", "x.json", "--classes", "wawe") == 2

    shown = capsys.readouterr().err
    assert "tallformer: error: class 'wawe': no such class; did you mean 'wave'? `tallformer info " in shown
    assert f"lists all {len(CLASSES)}" in shown
    assert "empty.mp4" not in shown


def test_reference_windows_are_written_down(video, folder, detect):
    assert detect("a.mp4", "-o", "x.json", "--windows", "reference") == 0

    assert read(folder / "x.json")["settings"]["windows"] == "reference"


def test_dash_writes_json_alone_to_stdout(video, detect, capfdbinary):
    assert detect("a.mp4", "--out", "-") == 0

    document = json.loads(capfdbinary.readouterr().out)
    jsonschema.validate(document, load_schema())
    assert_actions(document["videos"][0]["actions"], EXPECTED)


def test_activitynet_format_is_what_evaluators_read(video, folder, detect):
    assert detect("a.mp4", "-o", "x.json", "--format", "activitynet") == 0

    document = json.loads((folder / "x.json").read_text(encoding="utf-8"))
    assert set(document) == {"version", "results", "external_data"}
    assert_actions(document["results"]["a"], sorted(EXPECTED, key=lambda action: -action["score"]))


def test_activitynet_format_refuses_two_videos_of_one_name_at_once(folder, detect, capsys):
    assert detect("x/a.mp4", "y/a.mkv", "-o", "x.json", "--format", "activitynet") == 1

    assert "x/a.mp4 and y/a.mkv: both would be 'a'" in capsys.readouterr().err


def test_without_out_the_table_is_on_stdout_and_remarks_are_not(video, detect, capsys):
    assert detect("a.mp4") == 0

    shown = capsys.readouterr()
    assert re.search(r"0:01\.00 +0:03\.00 +2\.00 s +wave +0\.900", shown.out)
    assert re.search(r"0:10\.00 +0:15\.00 +5\.00 s +jump +0\.400", shown.out)
    assert "model small on cpu" in shown.err
    assert "--out actions.json" in shown.err
    assert "wave" not in shown.err


def test_with_out_nothing_is_on_stdout_and_the_table_is_on_stderr(video, detect, capsys):
    assert detect("a.mp4", "-o", "x.json") == 0

    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"0:01\.00 +0:03\.00 +2\.00 s +wave", shown.err)
    assert "wrote 3 actions of 1 video to x.json" in shown.err


def test_rows_shows_the_best_in_the_order_of_the_video_and_counts_the_rest(video, detect, capsys):
    assert detect("a.mp4", "--rows", 2) == 0

    shown = capsys.readouterr().out
    assert shown.index("wave") < shown.index("jump")
    assert "stand" not in shown
    assert "the best 2 of 3 actions; --rows 3 shows all" in shown


def test_quiet_says_nothing_when_all_is_well(video, folder, detect, capsys):
    assert detect("a.mp4", "-o", "x.json", "--quiet") == 0

    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert len(read(folder / "x.json")["videos"]) == 1


def test_untrained_model_says_so_in_every_output(video, folder, untrained, capsys):
    assert cli.run(["detect", "a.mp4", "--model", untrained, "--quiet"]) == 0
    table = capsys.readouterr()
    assert cli.run(["detect", "a.mp4", "--model", untrained, "--out", "x.json", "--json-logs"]) == 0
    logs = capsys.readouterr().err

    assert "weights are random" in table.out
    assert "warning: untrained model" in table.err
    assert "weights are random" in logs
    assert "random" in read(folder / "x.json")["model"]["notice"]


def test_json_logs_are_one_object_per_line(video, detect, capsys):
    assert detect("a.mp4", "missing.mp4", "-o", "x.json", "--json-logs") == 1

    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all({"time", "event"} <= set(event) for event in events)
    names = [event["event"] for event in events if event["event"] != "progress"]
    assert names == [
        "video_failed",
        "loading",
        "loaded",
        "video_started",
        "video_done",
        "error",
        "written",
    ]
    progress = [event for event in events if event["event"] == "progress"]
    assert progress
    assert 0 < progress[0]["position_s"] <= 20
    assert progress[0]["duration_s"] == pytest.approx(20)
    assert progress[0]["speed"] > 0


def test_json_logs_tell_of_a_run_that_cannot_start(folder, detect, capsys):
    assert detect("a.mp4", "-o", "missing/x.json", "--json-logs") == 1

    (event,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert event["event"] == "error"
    assert "there is no folder missing" in event["message"]


def test_one_bad_video_of_many_fails_alone(video, folder, detect, capsys):
    (folder / "text.mp4").write_text("no video")

    assert detect("missing.mp4", "a.mp4", "text.mp4", "-o", "x.json", "-q") == 1

    document = read(folder / "x.json")
    assert [found["path"] for found in document["videos"]] == ["a.mp4"]
    assert [failure["path"] for failure in document["failures"]] == ["missing.mp4", "text.mp4"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("tallformer: error: missing.mp4: ")
    assert lines[1].startswith("tallformer: error: text.mp4: ")
    assert lines[2:] == ["tallformer: 2 of 3 videos failed"]


def test_when_every_video_fails_the_old_file_stays(folder, detect, capsys):
    (folder / "x.json").write_text("before")

    assert detect("missing.mp4", "-o", "x.json") == 1

    assert (folder / "x.json").read_text() == "before"
    assert "x.json was not written" in capsys.readouterr().err


def test_pattern_that_the_shell_left_alone_is_filled_in_by_name(video, folder, detect):
    write_video(folder / "b.mp4", noise_pictures(10, height_px=32, width_px=32), fps=5)
    (folder / "c.txt").write_text("no video")

    assert detect("*.mp4", "-o", "x.json") == 0

    assert [found["path"] for found in read(folder / "x.json")["videos"]] == ["a.mp4", "b.mp4"]


def test_file_whose_name_looks_like_a_pattern_is_that_file(video, folder, detect):
    video.rename(folder / "[red]?.mp4")

    assert detect("[red]?.mp4", "-o", "x.json") == 0

    assert read(folder / "x.json")["videos"][0]["path"] == "[red]?.mp4"


@pytest.mark.parametrize("out", [".", "missing/x.json", "a.mp4/x.json"])
def test_destination_that_cannot_work_is_one_line_before_the_model_is_loaded(video, out, capsys):
    assert cli.run(["detect", "a.mp4", "--out", out, "--model", "nowhere"]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tallformer: error: ")
    assert "nowhere" not in line


def test_a_video_is_not_replaced_by_its_actions(video, capsys):
    assert cli.run(["detect", "a.mp4", "--out", "a.mp4", "--format", "json", "--model", "nowhere"]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line == "tallformer: error: a.mp4: is what this run reads; name another file to write"


@pytest.mark.parametrize("out", ["x.xyz", "a.mp4", "actions.txt"])
def test_an_ending_of_no_format_is_usage(video, out, capsys):
    assert cli.run(["detect", "a.mp4", "--out", out, "--model", "nowhere"]) == 2

    first = capsys.readouterr().err.splitlines()[0]
    assert f"--out {out}: unknown ending {out[out.index('.') :]}; expected one of .json, .html, .csv" in first


def test_missing_files_are_reported_before_a_model_is_loaded(folder, capsys):
    assert cli.run(["detect", "gone.mp4", "too.mp4", "--out", "x.json", "--model", "nowhere"]) == 1

    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "tallformer: error: gone.mp4: no such video",
        "tallformer: error: too.mp4: no such video",
    ]
    assert "nowhere" not in "".join(lines)


def test_a_folder_stands_for_the_videos_in_it_and_below(video, folder, detect):
    (folder / "films" / "more").mkdir(parents=True)
    video.rename(folder / "films" / "more" / "b.MP4")
    (folder / "films" / "notes.txt").write_text("no video")
    (folder / "films" / ".hidden.mp4").write_text("no video")

    assert detect("films", "-o", "x.json") == 0

    assert [found["path"] for found in read(folder / "x.json")["videos"]] == ["films/more/b.MP4"]


def test_a_folder_without_videos_is_usage(folder, detect, capsys):
    (folder / "films").mkdir()

    assert detect("films") == 2

    assert "films: no video in this folder" in capsys.readouterr().err


def test_a_table_shows_what_stands_out_where_the_model_is_not_calibrated():
    """Of 670 actions of an uncalibrated model, those with a fifth of the best score, 0.6, or more."""
    weak = [action(index, index + 1, "wave", 0.013) for index in range(668)]
    strong = [action(700, 701, "wave", 0.6), action(710, 711, "jump", 0.12)]

    shown = drawn(result("a.mp4", (*weak, *strong)))

    assert "0.013" not in shown
    assert re.search(r"wave +0\.600", shown)
    assert re.search(r"jump +0\.120", shown)
    assert "2 of 670 actions, with scores from 0.12 on; the model is not calibrated: --threshold 0 shows all" in shown


def test_a_table_shows_nothing_where_no_score_is_worth_it():
    shown = drawn(result("a.mp4", tuple(action(index, index + 1, "wave", 0.013) for index in range(670))))

    assert "0.013" not in shown
    assert "670 actions, with scores from 0.05 on" not in shown
    assert "none of 670 actions has a score from 0.05 on" in shown


def test_a_threshold_or_an_operating_point_takes_the_place_of_the_display_threshold():
    weak = (action(0, 1, "wave", 0.013), action(2, 3, "wave", 0.9))

    for selection in (Selection(threshold=0.0), Selection(operating_point="all")):
        assert "0.013" in drawn(result("a.mp4", weak, selection=selection))


def test_a_sample_model_warns_once_on_other_footage(folder, capsys):
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, noise_pictures(20, height_px=64, width_px=64), fps=15)

    assert cli.run(["detect", "a.mp4", "b.mp4", "-o", "x.json", "--model", "demo", "--device", "cpu", "--quiet"]) == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tallformer: warning: demo is a sample model for generated videos and does not work on real")


def test_a_sample_model_does_not_warn_on_generated_videos(folder, capsys):
    arguments = ["detect", str(EXAMPLE), "-o", "x.json", "--model", "demo", "--device", "cpu"]
    assert cli.run([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().err == ""

    assert cli.run(arguments) == 0
    shown = capsys.readouterr().err
    assert "intended use: Sample model for trying the commands." in shown
    assert "precision 89.4 %, recall 81.7 % on 257 actions in 16 videos of annotations.json (validation)" in shown
    assert "does not work on real footage" in read(folder / "x.json")["model"]["intended_use"]


def test_a_format_of_one_video_per_file_creates_its_folder(video, folder, detect):
    write_video(folder / "b.mp4", noise_pictures(10, height_px=32, width_px=32), fps=5)

    assert detect("a.mp4", "b.mp4", "-o", "new/subtitles", "--format", "srt") == 0
    assert detect("a.mp4", "-o", "other", "--format", "srt") == 0

    assert sorted(path.name for path in (folder / "new" / "subtitles").iterdir()) == ["a.srt", "b.srt"]
    assert (folder / "other" / "a.srt").is_file()


def test_the_stream_that_was_analysed_is_in_the_document(video, folder, detect, capsys):
    assert detect("a.mp4", "-o", "x.json", "--stream", 0) == 0
    (found,) = read(folder / "x.json")["videos"]
    assert (found["stream"], found["streams"]) == (0, 1)

    assert detect("a.mp4", "-o", "x.json", "--stream", 1) == 1
    assert "a.mp4: no video stream 1; expected only 0" in capsys.readouterr().err


def test_a_log_without_a_terminal_gets_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = progress.TerminalReporter(quiet=False, show=None)

    reporter.started("a.mp4", 0, 1)
    for now[0] in (10.0, 61.0, 62.0, 130.0):
        reporter.progressed(Progress(position_s=2 * now[0], duration_s=600.0, speed=2.0))

    assert capsys.readouterr().err.splitlines() == [
        "tallformer: a.mp4: 2:02 of 10:00, 2× real time, 3:59 left",
        "tallformer: a.mp4: 4:20 of 10:00, 2× real time, 2:50 left",
    ]


def test_a_file_name_that_starts_with_a_dash_gets_a_hint(folder, detect, capsys):
    (folder / "-X1.mp4").touch()

    assert detect("-X1.mp4") == 2

    assert "if you mean the file -X1.mp4, write ./-X1.mp4 or put -- before it" in capsys.readouterr().err


def test_model_that_is_not_there_is_one_line(video, capsys):
    assert cli.run(["detect", "a.mp4", "--model", "nowhere"]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tallformer: error: nowhere: no such model")


def test_progress_is_not_drawn_where_there_is_no_terminal(video, detect, capsys):
    assert detect("a.mp4", "-o", "x.json") == 0

    assert "\x1b" not in capsys.readouterr().err
