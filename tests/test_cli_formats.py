"""`detect --format` and `convert` from the command line to the files they write."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tallformer_infer import cli
from tallformer_infer.commands.convert import convert
from tallformer_infer.evaluation import Predictions, evaluate, protocol_named, read_truth
from tallformer_infer.installing import install_command
from tallformer_infer.labels.formats import FORMATS, READABLE, WRITABLE, read_labels
from tallformer_infer.media.opening import probe
from tallformer_infer.structures import Action
from tests.small_bundle import FOUND, write_bundle
from tests.videos import noise_pictures, write_video

EXPECTED = sorted((round(start / 15, 3), round(end / 15, 3), label) for (start, end), _, label in FOUND)
"""What the small bundle finds in a video of one window."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_bundle(tmp_path_factory.mktemp("bundle") / "small"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, noise_pictures(40, height_px=48, width_px=64), fps=2)
    return tmp_path


@pytest.fixture
def detect(bundle):
    def run(*arguments):
        return cli.run(["detect", *map(str, arguments), "--model", bundle, "--device", "cpu", "--threads", "1"])

    return run


def rows(found):
    return sorted((round(each.start_s, 3), round(each.end_s, 3), each.label) for each in found.segments)


def test_help_names_every_format_that_is_read_and_written():
    read, _, written = " ".join((convert.__doc__ or "").split()).partition("Writes ")

    assert set(READABLE) <= set(re.findall(r"\w+", read))
    assert set(WRITABLE) <= set(re.findall(r"[\w-]+", written))
    assert set(WRITABLE) | set(READABLE) == set(FORMATS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "a.srt", "--from", "doc", "-o", "x"], "--from': 'doc' is not one of json, csv, tsv"),
        (["convert", "a.srt", "--to", "json", "-o", "x"], "--to': 'json' is not one of truth, activitynet, csv"),
        (["detect", "a.mp4", "--format", "truth", "-o", "x"], "'truth' is not one of json, html, activitynet, csv"),
        (["archive", "export", ".", "-f", "html", "-o", "x"], "'html' is not one of parquet, csv, jsonl, json"),
    ],
)
def test_format_that_there_is_not_is_refused_with_those_there_are(folder, capsys, arguments, message):
    assert cli.run(arguments) == 2

    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["a.srt", "a.vtt", "a.csv", "a.tsv", "a.jsonl", "a.eaf", "a.boris"])
def test_ending_of_the_file_says_the_format(name, folder, detect):
    assert detect("a.mp4", "--out", name) == 0

    (found,) = read_labels(folder / name)
    assert rows(found) == EXPECTED
    assert {round(each.score, 5) for each in found.segments} == {score for _, score, _ in FOUND}


@pytest.mark.parametrize("form", ["labelstudio", "via"])
def test_format_is_what_was_asked_for(form, folder, detect):
    assert detect("a.mp4", "--out", "x.json", "--format", form) == 0

    assert rows(read_labels(folder / "x.json", form=form)[0]) == EXPECTED


def test_format_of_one_video_per_file_fills_a_folder(folder, detect):
    (folder / "out").mkdir()

    assert detect("a.mp4", "b.mp4", "--out", "out", "-f", "eaf") == 0

    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.eaf", "b.eaf"]
    assert read_labels(folder / "out" / "b.eaf")[0].name == "b.mp4"


def test_several_videos_in_a_format_of_one_need_a_folder_before_any_work(folder, detect, capsys):
    assert detect("a.mp4", "b.mp4", "--out", "x.srt") == 1

    shown = capsys.readouterr().err
    assert "x.srt: srt holds one video per file, and there are 2; name a folder\n" in shown
    assert "model small" not in shown


def test_two_videos_of_one_name_are_refused_before_any_work(folder, detect, capsys):
    (folder / "out").mkdir()

    assert detect("a.mp4", "x/a.mov", "--out", "out", "-f", "srt") == 1

    assert "a.mp4 and x/a.mov: both would be out/a.srt" in capsys.readouterr().err


def test_missing_library_is_named_before_any_work(folder, detect, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentimelineio", None)

    assert detect("a.mp4", "--out", "a.otio") == 1

    shown = capsys.readouterr().err
    assert "the format otio needs the extra 'editing'" in shown
    assert install_command("editing") in shown
    assert "model small" not in shown


def test_what_the_run_reads_is_not_replaced(folder, detect, capsys):
    assert detect("a.mp4", "--out", "a.mp4", "-f", "srt") == 1

    assert "a.mp4: is what this run reads" in capsys.readouterr().err


def test_corrected_labels_become_truth_that_scores_what_was_not_changed_as_right(folder, detect, capsys):
    assert detect("a.mp4", "--out", "a.eaf") == 0
    corrected = (folder / "a.eaf").read_text().replace("<ANNOTATION_VALUE>jump<", "<ANNOTATION_VALUE>wave<")
    (folder / "a.eaf").write_text(corrected)

    assert cli.run(["convert", "a.eaf", "--out", "truth.json", "--subset", "validation"]) == 0

    truth = read_truth(folder / "truth.json", subset="validation", defaults=())
    actions = [Action(start_s=start, end_s=end, label=label, score=0.5) for start, end, label in EXPECTED]
    score = evaluate(Predictions.of({"a": actions}), truth, protocol_named("thumos14"))
    assert truth.videos == ("a",)
    assert 0 < score.average < 1
    assert "truth has no scores: they are dropped" in capsys.readouterr().err


def test_many_files_become_one_truth(folder):
    for name, label in (("a", "jump"), ("b", "sit")):
        (folder / f"{name}.srt").write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{label}\n")

    assert cli.run(["convert", "a.srt", "b.srt", "--out", "truth.json"]) == 0

    assert [(each.name, rows(each)) for each in read_labels(folder / "truth.json")] == [
        ("a", [(1, 2, "jump")]),
        ("b", [(1, 2, "sit")]),
    ]


def test_truth_comes_back_from_truth_with_every_name_length_and_subset(folder):
    database = {"v_1.2 x": {"duration": 9.5, "subset": "testing", "annotations": []}, "../b": {"annotations": []}}
    (folder / "t.json").write_text(json.dumps({"database": database}))

    assert cli.run(["convert", "t.json", "--out", "u.json"]) == 0

    assert json.loads((folder / "u.json").read_text())["database"] == database


def test_files_in_a_folder_never_leave_it(folder):
    (folder / "t.json").write_text(json.dumps({"database": {"../../b": {"annotations": []}, "c": {"annotations": []}}}))
    (folder / "out").mkdir()

    assert cli.run(["convert", "t.json", "--to", "srt", "--out", "out"]) == 0

    assert sorted(path.name for path in (folder / "out").iterdir()) == ["b.srt", "c.srt"]


def test_video_is_named_where_labels_do_not_name_it(folder):
    (folder / "labels.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\njump\n")

    assert cli.run(["convert", "labels.srt", "--video", "a.mp4", "--out", "labels.eaf"]) == 0

    assert 'RELATIVE_MEDIA_URL="a.mp4"' in (folder / "labels.eaf").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.srt", "-o", "x.json", "--fps", "0"], 2, "--fps 0.0: expected frames per second, such as 29.97"),
        (["a.srt", "b.srt", "-o", "x.json", "--video", "a.mp4"], 2, "--video names one video, and there are 2"),
        (["a.srt", "-o", "a.srt"], 1, "a.srt: is what this run reads"),
        (["a.srt", "a.csv", "-o", "x.json"], 1, "a.csv: has the video a, as a.srt has; keep one of them"),
        (["a.srt", "b.srt", "-o", "x.eaf"], 1, "eaf holds one video per file, and there are 2"),
        (["a.srt", "-o", "missing/x.json"], 1, "there is no folder missing; make it first"),
        (
            ["a.srt", "-o", "x.json", "--to", "labelstudio"],
            1,
            "Label Studio counts frames, and the frame rate is unknown",
        ),
        (["none.srt", "-o", "x.json"], 1, "none.srt: no such file or directory"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_a_line(folder, capsys, arguments, code, message):
    for name in ("a.srt", "b.srt"):
        (folder / name).write_text("1\n00:00:01,000 --> 00:00:02,000\njump\n")
    (folder / "a.csv").write_text("start_s,end_s,label\n1,2,jump\n")

    assert cli.run(["convert", *arguments]) == code

    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "x.json").exists()


def test_convert_creates_the_folder_of_a_format_that_holds_one_video(folder, detect):
    assert detect("a.mp4", "b.mp4", "--out", "actions.json") == 0

    assert cli.run(["convert", "actions.json", "--to", "eaf", "--out", "new/labels"]) == 0

    assert sorted(path.name for path in (folder / "new" / "labels").iterdir()) == ["a.eaf", "b.eaf"]


def test_convert_refuses_an_ending_of_no_format(folder, detect, capsys):
    assert detect("a.mp4", "--out", "actions.json") == 0
    capsys.readouterr()

    assert cli.run(["convert", "actions.json", "--out", "x.xyz"]) == 2

    assert "--out x.xyz: unknown ending .xyz" in capsys.readouterr().err


def test_label_refuses_stdout_as_its_folder(folder, capsys):
    assert cli.run(["label", "a.mp4", "--out", "-"]) == 2

    assert "label writes a folder; `tallformer detect --out -` writes to stdout" in capsys.readouterr().err


FROM_ZERO = ("srt", "vtt", "eaf", "labelstudio", "via", "boris", "ffmetadata")
"""Formats whose times count from the first frame, as players do."""


@pytest.fixture(params=[600.0, 95442.2], ids=["600s", "before the wrap"])
def late(request, tmp_path, monkeypatch):
    """A transport stream whose time does not begin at 0; 2^33 ticks of 1/90000 s are 95443.7 s."""
    monkeypatch.chdir(tmp_path)
    pictures = noise_pictures(40, height_px=48, width_px=64)
    return write_video(tmp_path / "late.ts", pictures, fps=2, start_s=request.param)


@pytest.mark.parametrize("form", FROM_ZERO)
def test_labels_of_a_video_that_begins_late_count_from_its_first_frame(form, late, detect):
    path = late.parent / f"labels{FORMATS[form].suffix}"
    start_s = probe(late).start_s
    assert abs(start_s) > 1

    assert detect(late.name, "--format", form, "--out", path) == 0

    (found,) = read_labels(path)
    assert rows(found) == EXPECTED


@pytest.mark.parametrize("form", FROM_ZERO)
def test_convert_puts_labels_back_on_the_time_line_of_a_video_that_begins_late(form, late, detect):
    start_s = probe(late).start_s
    assert detect(late.name, "--out", "actions.json") == 0
    assert cli.run(["convert", "actions.json", "--to", form, "--fps", "2", "--out", f"late{FORMATS[form].suffix}"]) == 0

    assert cli.run(["convert", f"late{FORMATS[form].suffix}", "--out", "late.jsonl"]) == 0
    assert cli.run(["convert", "late.jsonl", "--to", "srt", "--out", "again.srt"]) == 0

    (found,) = read_labels(late.parent / "late.jsonl")
    expected = [(start_s + start, start_s + end, label) for start, end, label in EXPECTED]
    assert [each[2] for each in rows(found)] == [each[2] for each in expected]
    for one, other in zip(rows(found), expected, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=2e-3)
    (again,) = read_labels(late.parent / "again.srt")
    for one, other in zip(rows(again), EXPECTED, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=2e-3)


def test_labels_whose_video_is_elsewhere_count_as_they_do(late, detect):
    assert detect(late.name, "--out", "late.srt") == 0
    late.rename(late.parent / "moved.ts")

    assert cli.run(["convert", "late.srt", "--out", "late.csv"]) == 0
    assert cli.run(["convert", "late.srt", "--video", "moved.ts", "--out", "moved.csv"]) == 0

    assert rows(read_labels(late.parent / "late.csv")[0]) == EXPECTED
    start_s = probe(late.parent / "moved.ts").start_s
    for one, other in zip(rows(read_labels(late.parent / "moved.csv")[0]), EXPECTED, strict=True):
        assert one[0] == pytest.approx(start_s + other[0], abs=2e-3)
