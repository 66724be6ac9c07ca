"""Operating points: what they keep, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tallformer_infer.errors import AnnotationError, ConfigError
from tallformer_infer.evaluation import CalibrationReport, Predictions, Truth, calibrate
from tallformer_infer.evaluation.calibration import points_for
from tallformer_infer.evaluation.scoring import choose_threshold
from tallformer_infer.structures import Action
from tests.calibration_samples import columns, labelled


def calibrated(found: dict[str, list[tuple[float, bool]]], **options: object) -> CalibrationReport:
    missed = options.pop("missed", 0)
    predictions, truth = labelled(found, missed=missed)  # type: ignore[arg-type]
    return calibrate(predictions, truth, classes=("run", "jump"), **options)  # type: ignore[arg-type]


GOOD = [(0.9 - number / 100, True) for number in range(12)] + [(0.2, False)] * 6
FEEBLE = [(0.4, False)] + [(0.35 - number / 100, number % 2 == 0) for number in range(24)]


class TestCalibrate:
    def test_each_class_has_its_own_threshold(self) -> None:
        classes = calibrated({"run": GOOD, "jump": FEEBLE}).calibration.classes

        assert classes["run"].cuts["max-f1"].threshold == pytest.approx((0.79 + 0.2) / 2)
        assert classes["run"].cuts["max-f1"].precision == 1
        assert classes["run"].cuts["max-f1"].recall == 1
        assert classes["jump"].cuts["max-f1"].threshold < 0.2
        assert not classes["run"].pooled
        assert not classes["jump"].pooled

    def test_a_class_that_cannot_reach_a_precision_keeps_nothing_there(self) -> None:
        calibration = calibrated({"run": GOOD, "jump": FEEBLE}).calibration

        assert calibration.classes["jump"].cuts["precision-0.90"].threshold is None
        assert calibration.classes["jump"].cuts["precision-0.90"].precision is None
        assert calibration.classes["jump"].cuts["precision-0.90"].recall == 0
        assert calibration.keeps_nothing_of("precision-0.90") == ("jump",)
        assert calibration.keeps_nothing_of("max-f1") == ()

    @pytest.mark.parametrize(("lucky", "keeps"), [(2, False), (3, True)])
    def test_fewer_than_three_right_ones_are_no_precision(self, lucky: int, keeps: bool) -> None:
        found = [(0.9, True)] * lucky + [(0.5, False), (0.4, True)] * 10

        cut = calibrated({"run": GOOD, "jump": found}).calibration.classes["jump"].cuts["precision-0.90"]

        assert (cut.threshold is not None) is keeps

    @pytest.mark.parametrize(("truths", "pooled"), [(9, True), (10, False)])
    def test_a_class_with_fewer_than_ten_truths_takes_what_all_classes_together_give(
        self, truths: int, pooled: bool
    ) -> None:
        found = {"run": GOOD + [(0.2, False)] * 60, "jump": [(0.15, True)] * truths}

        jump = calibrated(found).calibration.classes["jump"]

        assert jump.pooled is pooled
        everything = columns([row for rows_of_class in found.values() for row in rows_of_class])
        own = choose_threshold(*columns(found["jump"]), truth_count=truths)
        together = choose_threshold(*everything, truth_count=12 + truths)
        assert own != together
        assert jump.cuts["max-f1"].threshold == (together if pooled else own)

    def test_a_class_without_truths_takes_the_pooled_curve_and_threshold(self) -> None:
        report = calibrated({"run": GOOD, "jump": [(0.99, False)] * 3})

        run, jump = (report.calibration.classes[label] for label in ("run", "jump"))
        assert jump.pooled
        assert (jump.truths, jump.predictions) == (0, 0)
        assert jump.cuts["max-f1"].threshold == run.cuts["max-f1"].threshold
        assert jump.cuts["max-f1"].recall is None
        assert "predictions of classes without any truth were ignored: jump (3)" in report.notes

    def test_calibrated_scores_are_nearer_to_the_share_that_is_right(self) -> None:
        report = calibrated({"run": GOOD, "jump": FEEBLE})

        assert report.error_after < report.error_before

    def test_predictions_where_nothing_is_annotated_are_wrong(self) -> None:
        predictions, truth = labelled({"run": GOOD})
        empty = Truth.of({**{name: [] for name in ("empty",)}, **_segments(truth)})
        extra = Action(start_s=0, end_s=1, label="run", score=0.99)
        more = Predictions.of({**_actions(predictions), "empty": [extra]})

        assert calibrate(more, empty, classes=("run",)).calibration.points["max-f1"].precision == 12 / 13

    def test_the_order_of_the_videos_changes_no_threshold(self) -> None:
        predictions, truth = labelled({"run": GOOD, "jump": FEEBLE})
        turned_truth = Truth.of(dict(reversed(_segments(truth).items())))
        turned = Predictions.of(dict(reversed(_actions(predictions).items())))

        one = calibrate(predictions, truth, classes=("run", "jump")).calibration
        two = calibrate(turned, turned_truth, classes=("run", "jump")).calibration

        assert {label: found.cuts for label, found in one.classes.items()} == {
            label: found.cuts for label, found in two.classes.items()
        }

    def test_held_out_figures_are_of_thresholds_from_other_videos(self) -> None:
        # In each video the right ones lie above a wrong one; in the third, all lie lower than elsewhere.
        rows_of = {0: (0.9, 0.5), 1: (0.9, 0.5), 2: (0.4, 0.3)}
        found = [(rows_of[number % 3][0 if number < 30 else 1], number < 30) for number in range(60)]

        point = calibrated({"run": found}).calibration.points["max-f1"]

        # By hand: chosen on all, a threshold of 0.35 keeps 30 right and 20 wrong ones, F1 0.75; one of 0.7 keeps 20
        # right ones, F1 0.8. Chosen without video 3 it is 0.7 too; without video 1 or 2, 0.7 (F1 0.67) loses to 0.35
        # (20 right, 10 wrong, F1 0.8), which keeps the wrong ones of the video left out.
        assert (point.precision, point.recall) == (1, pytest.approx(20 / 30))
        assert point.held_out_precision == pytest.approx(20 / 40)
        assert point.held_out_recall == pytest.approx(20 / 30)

    def test_one_video_has_no_held_out_figures(self) -> None:
        predictions, truth = labelled({"run": GOOD}, videos=1)

        point = calibrate(predictions, truth, classes=("run",)).calibration.points["max-f1"]

        assert (point.precision, point.recall) == (1, 1)
        assert (point.held_out_precision, point.held_out_recall) == (None, None)

    def test_precisions_name_their_points(self) -> None:
        assert list(points_for((0.9, 0.5, 1.0, 0.125, 0.999))) == [
            "max-f1",
            "precision-0.90",
            "precision-0.50",
            "precision-1.00",
            "precision-0.125",
            "precision-0.999",
        ]

    def test_tiou_decides_what_is_right(self) -> None:
        predictions = Predictions.of({"v": [Action(start_s=0, end_s=6, label="run", score=0.5)]})
        truth = Truth.of({"v": [(0, 10, "run")]})

        strict = calibrate(predictions, truth, classes=("run",), tiou_threshold=0.6)
        assert strict.calibration.points["max-f1"].recall == 1
        with pytest.raises(AnnotationError, match=r"none of 1 predictions .* by tIoU 0\.61"):
            calibrate(predictions, truth, classes=("run",), tiou_threshold=0.61)


class TestRefusals:
    def test_predictions_of_other_classes(self) -> None:
        predictions, truth = labelled({"run": GOOD, "swim": [(0.5, False)]})

        with pytest.raises(AnnotationError, match="predicts classes that the model does not have: swim; use"):
            calibrate(predictions, truth, classes=("run", "jump"))

    def test_truth_of_other_classes_only(self) -> None:
        predictions, _ = labelled({"run": GOOD})

        with pytest.raises(
            AnnotationError, match=r"no segment of a class of the model; it has swim, the model has run"
        ):
            calibrate(predictions, Truth.of({"v0": [(0, 1, "swim")]}), classes=("run",))

    def test_truth_of_some_other_classes_is_passed_over_and_said(self) -> None:
        predictions, truth = labelled({"run": GOOD})
        more = Truth.of({name: [*rows_of, (9e6, 9e6 + 1, "swim")] for name, rows_of in _segments(truth).items()})

        report = calibrate(predictions, more, classes=("run",))

        assert report.notes == ("truths of classes that the model does not have were ignored: swim (3)",)
        assert report.calibration.points["max-f1"].recall == 1

    def test_truth_without_any_segment(self) -> None:
        predictions, _ = labelled({"run": GOOD})

        with pytest.raises(AnnotationError, match="truth: no annotated segment is left to calibrate with"):
            calibrate(predictions, Truth.of({"v0": []}), classes=("run",))

    def test_videos_that_were_not_predicted_on(self) -> None:
        predictions, truth = labelled({"run": GOOD})
        more = Truth.of({**_segments(truth), "lost": [(0, 1, "run")]})

        with pytest.raises(
            AnnotationError, match=r"predictions: lacks 1 of the 4 videos of truth: lost; run detect on them"
        ):
            calibrate(predictions, more, classes=("run",))

    def test_videos_without_a_truth_that_were_not_predicted_on(self) -> None:
        predictions, truth = labelled({"run": GOOD})
        more = Truth.of({**_segments(truth), "empty": []})

        with pytest.raises(AnnotationError, match=r"predictions: lacks 1 of the 4 videos of truth: empty; run detect"):
            calibrate(predictions, more, classes=("run",))

    def test_nothing_right(self) -> None:
        predictions, truth = labelled({"run": [(0.5, False)] * 4}, missed=3)

        with pytest.raises(
            AnnotationError, match="none of 4 predictions overlaps a truth of its class in truth by tIoU"
        ):
            calibrate(predictions, truth, classes=("run",))

    def test_scores_that_are_no_probabilities(self) -> None:
        predictions, truth = labelled({"run": GOOD})
        wrong = dataclasses.replace(predictions, scores=predictions.scores * 3)

        with pytest.raises(AnnotationError, match=r"has score 2\.7; expected scores in \[0, 1\]"):
            calibrate(wrong, truth, classes=("run",))

    @pytest.mark.parametrize("options", [{"tiou_threshold": 0}, {"tiou_threshold": 1.1}, {"precisions": (0.0,)}])
    def test_options_out_of_range(self, options: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match=r"must be in \(0, 1\]"):
            calibrated({"run": GOOD}, **options)

    def test_a_default_that_is_no_point(self) -> None:
        with pytest.raises(ConfigError, match="default='best': no such operating point; there are max-f1, precision-0"):
            calibrated({"run": GOOD}, default="best")


def _segments(truth: Truth) -> dict[str, list[tuple[float, float, str]]]:
    return {
        name: [
            (*truth.segments_s[number].tolist(), truth.labels[truth.class_indices[number]])
            for number in np.flatnonzero(truth.video_indices == row).tolist()
        ]
        for row, name in enumerate(truth.videos)
    }


def _actions(predictions: Predictions) -> dict[str, list[Action]]:
    return {
        name: [
            Action(
                start_s=predictions.segments_s[number, 0],
                end_s=predictions.segments_s[number, 1],
                label=predictions.labels[predictions.class_indices[number]],
                score=predictions.scores[number],
            )
            for number in np.flatnonzero(predictions.video_indices == row).tolist()
        ]
        for row, name in enumerate(predictions.videos)
    }
