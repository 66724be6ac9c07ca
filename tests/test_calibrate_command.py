"""`tallformer calibrate`: from labelled videos to a bundle with operating points."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tallformer_infer import __version__, cli
from tallformer_infer.bundle import load_bundle
from tests.labelled_set import write_labelled_set
from tests.small_bundle import CLASSES, write_bundle


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Truth of the labelled set; its videos lie beside it."""
    return write_labelled_set(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def found(labelled, tmp_path_factory):
    """All that the small bundle finds there, with its own scores."""
    folder = tmp_path_factory.mktemp("found")
    bundle = write_bundle(folder / "small")
    videos = [str(path) for path in sorted((labelled.parent / "videos").rglob("*.mp4"))]
    options = ["--model", str(bundle), "--device", "cpu", "--threads", "1", "--quiet"]
    for dialect in ("tallformer", "activitynet"):
        assert cli.run(["detect", *videos, "-o", str(folder / f"{dialect}.json"), "--dialect", dialect, *options]) == 0
    return folder


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "small")


@pytest.fixture
def calibrate(bundle, labelled):
    """Run `tallformer calibrate` on the bundle and the truth; give the exit code."""

    def run(*arguments, truth=labelled):
        return cli.run(["calibrate", str(bundle), str(truth), *map(str, arguments)])

    return run


def cuts(path):
    """Threshold of each class at each point."""
    classes = load_bundle(path).calibration.classes
    return {label: {name: cut.threshold for name, cut in found.cuts.items()} for label, found in classes.items()}


EXPECTED = {
    "wave": {"max-f1": pytest.approx(0.45), "precision-0.90": pytest.approx(0.45)},
    "jump": {"max-f1": pytest.approx(0.2), "precision-0.90": None},
    "sit, then stand": {"max-f1": pytest.approx(0.65), "precision-0.90": pytest.approx(0.65)},
}
"""See `labelled_set`."""


def test_videos_and_truth_give_points_in_the_bundle(calibrate, bundle, labelled, capsys):
    assert calibrate("--videos", labelled.parent / "videos", "--device", "cpu", "--threads", 1) == 0

    assert cuts(bundle) == EXPECTED
    calibration = load_bundle(bundle).calibration
    assert calibration.default == "max-f1"
    assert calibration.made_from == {
        "videos": 12,
        "truths": 24,
        "subset": "validation",
        "truth": "truth.json",
        "tallformer": __version__,
    }
    shown = capsys.readouterr()
    assert "with 24 truths in 12 videos, right from tIoU 0.5 on" in shown.out
    assert re.search(r"max-f1 \(default\) +62\.5 +62\.5", shown.out)
    assert re.search(r"precision-0\.90 +100\.0 +50\.0", shown.out)
    assert "precision-0.90 keeps nothing of: jump (no score is precise enough)" in shown.out
    assert "1 of 3 classes have fewer than 10 truths, and use what was found over all classes: sit, then stand (0)" in (
        shown.out
    )
    assert "wrote the operating points to" in shown.err


@pytest.mark.parametrize("dialect", ["tallformer", "activitynet"])
def test_predictions_give_the_same_as_the_videos(dialect, calibrate, bundle, found):
    assert calibrate("--predictions", found / f"{dialect}.json") == 0

    assert cuts(bundle) == EXPECTED


def test_predictions_of_anyone_are_read_without_a_model_hash(calibrate, bundle, found, tmp_path):
    results = json.loads((found / "activitynet.json").read_text())["results"]
    (tmp_path / "results.json").write_text(json.dumps({"results": results}))

    assert calibrate("--predictions", tmp_path / "results.json") == 0

    assert cuts(bundle) == EXPECTED


def test_calibrated_scores_say_which_share_is_right(calibrate, bundle, found, capsys):
    assert calibrate("--predictions", found / "tallformer.json") == 0

    classes = load_bundle(bundle).calibration.classes
    # Three of twelve are right; so few let the curve lean towards that of all classes.
    assert classes["jump"].curve.share_right(0.4) == pytest.approx(0.25, abs=0.1)
    assert classes["wave"].curve.share_right(0.9) > 0.9
    before, after = re.search(r"by ([\d.]+) % before, ([\d.]+) % after", capsys.readouterr().out).groups()
    assert float(after) < float(before)


def test_out_names_a_new_bundle_and_the_old_one_stays(calibrate, bundle, found, tmp_path):
    before = load_bundle(bundle).sha256

    assert calibrate("--predictions", found / "tallformer.json", "--out", tmp_path / "new.zip") == 0

    assert cuts(tmp_path / "new.zip") == EXPECTED
    assert load_bundle(bundle).sha256 == before


def test_precisions_tiou_and_default_are_chosen(calibrate, bundle, found):
    options = ["--precision", 0.2, "--precision", 0.95, "--tiou", 0.9, "--default", "precision-0.95"]

    assert calibrate("--predictions", found / "tallformer.json", *options) == 0

    calibration = load_bundle(bundle).calibration
    assert list(calibration.points) == ["max-f1", "precision-0.20", "precision-0.95"]
    assert (calibration.default, calibration.tiou_threshold) == ("precision-0.95", 0.9)
    assert cuts(bundle)["jump"]["precision-0.20"] == pytest.approx(0.2)


def test_json_holds_every_number(calibrate, bundle, found, capsys):
    assert calibrate("--predictions", found / "tallformer.json", "--json", "--quiet") == 0

    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert shown.err == ""
    assert document["bundle_sha256"] == load_bundle(bundle).sha256
    assert document["calibration"] == json.loads((bundle / "bundle.json").read_text())["calibration"]
    assert document["calibration"]["classes"]["jump"]["cuts"]["max-f1"]["precision"] == 0.25
    assert document["videos"]["used"] == [f"{number:02d}" for number in range(12)]
    assert document["enough_truths"] == 10
    assert 0 < document["calibration_error"]["after"] < document["calibration_error"]["before"] < 1


def test_per_class_shows_every_class_and_point(calibrate, found, capsys):
    assert calibrate("--predictions", found / "tallformer.json", "--per-class") == 0

    shown = capsys.readouterr().out
    assert re.search(r"jump +12 +0\.\d{3} +25\.0 +25\.0", shown)
    assert re.search(r"jump +12 +- +- +0\.0", shown)
    assert re.search(r"sit, then stand \(pooled\) +0", shown)


def test_info_shows_the_points_and_models_those_of_each_model(calibrate, bundle, found, capsys):
    assert cli.run(["info", str(bundle)]) == 0
    assert "`tallformer calibrate` creates them" in " ".join(capsys.readouterr().out.split())
    assert calibrate("--predictions", found / "tallformer.json") == 0
    capsys.readouterr()

    assert cli.run(["info", str(bundle)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "max-f1, precision-0.90, all, none (default: max-f1)" in shown
    assert (
        "max-f1: precision 62.5 %, recall 62.5 % on 24 actions in 12 videos of truth.json (validation), cross-validated"
        in shown
    )
    assert "keeps nothing of jump" in shown
    assert cli.run(["info", str(bundle), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["calibration"]["classes"]) == list(CLASSES)
    assert cli.run(["models"]) == 0
    assert "operating points" in capsys.readouterr().out


def test_videos_can_be_left_out(calibrate, bundle, labelled, tmp_path):
    some = shutil.copytree(labelled.parent / "videos", tmp_path / "some")
    for name in ("v_04.mp4", "v_05.mp4"):
        (some / name).unlink()
    (tmp_path / "bad.txt").write_text("04\n05\n")

    assert calibrate("--videos", some, "--leave-out", tmp_path / "bad.txt", "--threads", 1) == 0

    assert load_bundle(bundle).calibration.made_from["videos"] == 10


def test_a_video_that_cannot_be_read_is_left_out_and_said(calibrate, bundle, labelled, tmp_path, capsys):
    some = shutil.copytree(labelled.parent / "videos", tmp_path / "some")
    (some / "v_07.mp4").write_text("no video")

    assert calibrate("--videos", some, "--threads", 1) == 1

    assert load_bundle(bundle).calibration.made_from["videos"] == 11
    shown = capsys.readouterr()
    assert re.search(r"error: .*v_07\.mp4: ", shown.err)
    assert "videos not used, left out: 07" in shown.out


def test_json_logs_tell_of_every_video(calibrate, labelled, capsys):
    assert calibrate("--videos", labelled.parent / "videos", "--threads", 1, "--json-logs") == 0

    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events.count("video_done") == 12
    assert events[-1] == "written"


def refused(capsys, code, expected):
    """The run ended with one line, and nothing else was printed."""
    shown = capsys.readouterr()
    assert code == 1
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert re.search(expected, line), line


class TestRefusals:
    def test_videos_that_are_missing(self, calibrate, labelled, tmp_path, capsys):
        some = shutil.copytree(labelled.parent / "videos", tmp_path / "some")
        (some / "v_04.mp4").unlink()

        refused(capsys, calibrate("--videos", some), r"some: lacks 1 of the 12 videos of .*truth\.json: 04; add them")

    def test_two_files_of_one_video(self, calibrate, labelled, tmp_path, capsys):
        some = shutil.copytree(labelled.parent / "videos", tmp_path / "some")
        shutil.copy(some / "v_04.mp4", some / "v_04.mkv")

        refused(capsys, calibrate("--videos", some), r"v_04\.mkv and .*v_04\.mp4: both are the video 04")

    def test_a_folder_that_is_missing(self, calibrate, capsys):
        refused(capsys, calibrate("--videos", "nowhere"), "nowhere: no such folder; expected the folder of the videos")

    def test_predictions_of_another_model(self, bundle, labelled, found, tmp_path, capsys):
        other = write_bundle(tmp_path / "other", trained=False)
        code = cli.run(
            ["calibrate", str(other), str(labelled), "--predictions", str(found / "tallformer.json"), "--quiet"]
        )

        refused(capsys, code, r"tallformer\.json: was made with another model than .*other")

    def test_predictions_with_calibrated_scores(self, calibrate, bundle, labelled, found, tmp_path, capsys):
        assert calibrate("--predictions", found / "tallformer.json") == 0
        video, out = str(labelled.parent / "videos" / "v_04.mp4"), tmp_path / "cut.json"
        assert cli.run(["detect", video, "-m", str(bundle), "-o", str(out), "--threads", "1"]) == 0
        capsys.readouterr()

        refused(capsys, calibrate("--predictions", out), "was made at operating point max-f1; detect again with")

    def test_predictions_of_some_classes(self, calibrate, bundle, labelled, tmp_path, capsys):
        video, out = str(labelled.parent / "videos" / "v_04.mp4"), tmp_path / "some.json"
        options = ["-m", str(bundle), "-o", str(out), "--threads", "1", "--classes", "wave", "--quiet"]
        assert cli.run(["detect", video, *options]) == 0

        refused(capsys, calibrate("--predictions", out), "was made with --classes; detect again without")

    def test_truth_without_a_segment(self, calibrate, found, tmp_path, capsys):
        (tmp_path / "empty.json").write_text(json.dumps({"database": {"04": {"annotations": []}}}))

        code = calibrate("--predictions", found / "tallformer.json", truth=tmp_path / "empty.json")
        refused(capsys, code, r"empty\.json: no annotated segment in subset None")

    def test_a_model_of_the_package_without_out(self, labelled, found, capsys):
        code = cli.run(["calibrate", "demo", str(labelled), "--predictions", str(found / "tallformer.json")])

        refused(capsys, code, "demo: is installed with tallformer and cannot be changed; use --out NEW_BUNDLE")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "give --videos DIR to detect in, or --predictions FILE; one of them"),
            (["--videos", "x", "--predictions", "y"], "one of them"),
            (["--videos", "x", "--tiou", "0"], "--tiou 0.0: expected an overlap above 0"),
            (["--videos", "x", "--precision", "90"], "--precision=90.0 must be in (0, 1]"),
            (
                ["--videos", "x", "--default", "best"],
                "--default best: expected one of max-f1, precision-0.90, all, none",
            ),
        ],
    )
    def test_options_are_usage(self, calibrate, options, message, capsys):
        assert calibrate(*options) == 2

        assert message in capsys.readouterr().err


def test_filtered_predictions_are_noted(calibrate, bundle, labelled, tmp_path, capsys):
    videos = [str(path) for path in sorted((labelled.parent / "videos").rglob("*.mp4"))]
    out = tmp_path / "some.json"
    options = ["-m", str(bundle), "-o", str(out), "--threads", "1", "--threshold", "0.3", "--quiet"]
    assert cli.run(["detect", *videos, *options]) == 0

    assert calibrate("--predictions", out) == 0

    assert "note: the predictions were made with --threshold: what it left out is not known" in capsys.readouterr().out
