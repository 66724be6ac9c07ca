"""Operating points in `detect`: which actions are kept, with which scores, and what is written down."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tallformer_infer import cli
from tallformer_infer.bundle import load_bundle
from tallformer_infer.bundle.writing import write_calibration
from tallformer_infer.commands.eval import app as eval_app
from tallformer_infer.config import NAMED_CLASSES, Cut, ScoreCurve
from tallformer_infer.errors import ConfigError
from tallformer_infer.pipeline import Detector, choose_point
from tallformer_infer.pipeline.choices import at_point
from tallformer_infer.results import load_schema
from tests.calibration_samples import calibration
from tests.result_samples import action
from tests.small_bundle import CLASSES, write_bundle
from tests.videos import noise_pictures, write_video

THRESHOLDS = {"wave": 0.5, "jump": 0.3, "sit, then stand": 0.3}
"""Of the scores 0.9, 0.4 and 0.2 that the small bundle gives, the first two pass."""


def halved(score):
    """The curve of the samples."""
    return pytest.approx(score / (1 + score), abs=1e-5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load_bundle(write_bundle(tmp_path_factory.mktemp("plain") / "small"))


@pytest.fixture(scope="module")
def bundle(plain, tmp_path_factory):
    return write_calibration(plain, calibration(THRESHOLDS), out=tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 20 s, shorter than a window."""
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "a.mp4", noise_pictures(40, height_px=48, width_px=64), fps=2)


@pytest.fixture
def detect(bundle, video, tmp_path):
    """Run `tallformer detect` with the calibrated bundle; give the settings and actions it wrote."""

    def run(*arguments):
        out = tmp_path / "x.json"
        options = ["--model", str(bundle.path), "--device", "cpu", "--threads", "1", "-o", str(out)]
        assert cli.run(["detect", str(video), *map(str, arguments), *options]) == 0
        document = json.loads(out.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(load_schema()).validate(document)
        found = {row["label"]: row["score"] for row in document["videos"][0]["actions"]}
        return document["settings"]["operating_point"], found

    return run


def test_a_calibrated_model_keeps_what_its_default_point_keeps(detect):
    assert detect() == ("max-f1", {"wave": halved(0.9), "jump": halved(0.4)})


def test_a_point_is_asked_for_by_name(detect):
    assert detect("--operating-point", "precision-0.90") == ("precision-0.90", {})


def test_all_gives_every_action_with_calibrated_scores(detect):
    scores = {"wave": halved(0.9), "jump": halved(0.4), "sit, then stand": halved(0.2)}

    assert detect("--operating-point", "all") == ("all", scores)


def test_none_gives_what_a_model_without_points_gives(detect):
    name, found = detect("--operating-point", "none")

    assert name is None
    assert found == pytest.approx({"wave": 0.9, "jump": 0.4, "sit, then stand": 0.2}, abs=1e-5)


def test_a_threshold_takes_the_place_of_the_default_points_and_is_of_calibrated_scores(detect):
    # Calibrated 0.9, 0.4, 0.2 are 0.474, 0.286, 0.167.
    assert detect("--threshold", 0.1)[0] == "all"
    assert set(detect("--threshold", 0.1)[1]) == {"wave", "jump", "sit, then stand"}
    assert set(detect("--threshold", 0.3)[1]) == {"wave"}


def test_a_threshold_beside_a_named_point_is_applied_to_what_it_keeps(detect):
    assert set(detect("--threshold", 0.1, "--operating-point", "max-f1")[1]) == {"wave", "jump"}
    assert set(detect("--threshold", 0.3, "--operating-point", "max-f1")[1]) == {"wave"}
    assert set(detect("--threshold", 0.3, "--operating-point", "none")[1]) == {"wave", "jump"}


def test_other_filters_come_after_the_point(detect):
    assert set(detect("--top-k", 1)[1]) == {"wave"}
    assert set(detect("--classes", "jump")[1]) == {"jump"}
    assert set(detect("--classes", "sit, then stand")[1]) == set()


def test_who_names_classes_gets_the_point_for_that_where_a_model_has_it(bundle):
    points = bundle.calibration
    named = dataclasses.replace(
        points,
        points={"max-f1": points.points["max-f1"], NAMED_CLASSES: points.points["max-f1"]},
        classes={
            label: dataclasses.replace(
                found,
                cuts={"max-f1": found.cuts["max-f1"], NAMED_CLASSES: Cut(threshold=0.1, precision=0.5, recall=1.0)},
            )
            for label, found in points.classes.items()
        },
    )
    model = dataclasses.replace(bundle, description=dataclasses.replace(bundle.description, calibration=named))

    assert choose_point(model, None) == "max-f1"
    assert choose_point(model, None, classes=["wave"]) == NAMED_CLASSES
    assert choose_point(model, "max-f1", classes=["wave"]) == "max-f1"
    assert choose_point(model, None, classes=["wave"], threshold=0.3) == "all"
    assert choose_point(bundle, None, classes=["wave"]) == "max-f1"


@pytest.mark.parametrize(("name", "expected"), [("none", None), ("all", "all"), ("precision-0.90", "precision-0.90")])
def test_whoever_calibrates_decides_the_default(name, expected, plain, video, tmp_path):
    bundle = write_calibration(plain, calibration(THRESHOLDS, default=name), out=tmp_path / "b")

    assert choose_point(bundle, None) == expected
    assert choose_point(bundle, None, threshold=0.5) == (None if name == "none" else "all")


def test_a_model_without_points_is_used_as_ever(plain):
    assert choose_point(plain, None) is None
    assert choose_point(plain, None, threshold=0.5) is None
    assert choose_point(plain, "none") is None
    with pytest.raises(ConfigError, match="operating point 'all': the model small has none; `tallformer calibrate`"):
        choose_point(plain, "all")


def test_an_unknown_point_is_usage_and_lists_those_there_are(bundle, capsys):
    assert cli.run(["detect", "-", "--model", str(bundle.path), "--operating-point", "max-f2"]) == 2

    shown = capsys.readouterr().err
    assert "operating point 'max-f2': no such point; did you mean 'max-f1'? " in shown
    assert "the model small has max-f1, precision-0.90, all, none" in shown
    assert "missing.mp4" not in shown


def test_the_point_is_said_with_what_to_expect_of_it(detect, capsys):
    detect("--operating-point", "precision-0.90")

    shown = capsys.readouterr().err
    assert (
        "operating point precision-0.90: precision 62.5 %, recall 37.5 % on 36 actions in 3 videos, cross-validated"
        in shown
    )
    assert "it keeps nothing of: wave, jump, sit, then stand" in shown


def test_from_python_it_is_the_same(bundle, video):
    detector = Detector.load(bundle, device="cpu", threads=1)

    kept = detector.detect(video).actions
    assert [(found.label, found.score) for found in kept] == [("wave", halved(0.9)), ("jump", halved(0.4))]
    assert tuple(detector.stream(video)) == kept
    assert len(detector.detect(video, operating_point="none").actions) == 3
    assert len(tuple(detector.stream(video, operating_point="all"))) == 3
    with pytest.raises(ConfigError, match="no such point"):
        detector.detect(video, operating_point="best")
    with pytest.raises(ConfigError, match="no such point"):
        next(detector.stream(video, operating_point="best"))


def test_eval_says_that_a_point_left_actions_out(detect, tmp_path):
    (tmp_path / "truth.json").write_text(
        json.dumps({"database": {"a": {"annotations": [{"label": "wave", "segment": [1, 3]}]}}})
    )
    for point, is_said in (("max-f1", True), ("all", False), ("none", False)):
        detect("--operating-point", point)
        shown = CliRunner().invoke(eval_app, [str(tmp_path / "x.json"), str(tmp_path / "truth.json")])
        assert shown.exit_code == 0, shown.output
        assert ("filtered by operating point max-f1" in shown.output) is is_said


@given(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.floats(0, 1)), max_size=20),
    st.floats(0.01, 5),
    st.floats(0, 5),
    st.floats(-5, 5),
)
def test_within_a_class_the_order_of_scores_stays_and_the_cut_is_that_of_the_model_score(plain, rows, low, high, shift):
    curve = ScoreCurve(low=low, high=high, shift=shift)
    points = calibration(THRESHOLDS)
    points = dataclasses.replace(
        points,
        classes={label: dataclasses.replace(found, curve=curve) for label, found in points.classes.items()},
    )
    bundle = dataclasses.replace(plain, description=dataclasses.replace(plain.description, calibration=points))
    actions = [action(0, 1, label, score) for label, score in rows]

    kept = at_point(actions, bundle, "max-f1")
    everything = at_point(actions, bundle, "all")

    passing = [found for found in actions if found.score >= THRESHOLDS[found.label]]
    assert [found.label for found in kept] == [found.label for found in passing]
    for label in CLASSES:
        pairs = [(a.score, b.score) for a, b in zip(actions, everything, strict=True) if a.label == label]
        assert [score for _, score in sorted(pairs)] == sorted(score for _, score in pairs)
    assert at_point(actions, bundle, None) == tuple(actions)
