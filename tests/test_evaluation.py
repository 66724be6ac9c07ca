"""What an evaluation says: properties, the rules of the protocols, and operating points."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation import Evaluation, Predictions, ProtocolName, Truth, evaluate, protocol_named
from tallformer_infer.structures import Action

Rows = list[tuple[float, float, str, float]]
Segments = list[tuple[float, float, str]]


def predictions_of(rows: dict[str, Rows]) -> Predictions:
    return Predictions.of(
        {
            video: [Action(start_s=start, end_s=end, label=label, score=score) for start, end, label, score in found]
            for video, found in rows.items()
        }
    )


def score(
    rows: dict[str, Rows],
    segments: dict[str, Segments],
    protocol: ProtocolName = "thumos14",
    *,
    score_threshold: float | None = None,
) -> Evaluation:
    return evaluate(predictions_of(rows), Truth.of(segments), protocol_named(protocol), score_threshold=score_threshold)


segments = st.tuples(st.integers(0, 12), st.integers(1, 8)).map(lambda pair: (float(pair[0]), float(sum(pair))))
random_truth = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.tuples(segments, st.sampled_from("xyz")).map(lambda pair: (*pair[0], pair[1])), max_size=6),
    min_size=1,
).filter(lambda truth: any(truth.values()))
random_rows = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.lists(st.tuples(segments, st.sampled_from("xyz")).map(lambda pair: (*pair[0], pair[1])), max_size=12),
)


def with_distinct_scores(found: dict[str, Segments]) -> dict[str, Rows]:
    """Scores from 1 downwards, none twice, and not in the order of the rows."""
    count = sum(len(rows) for rows in found.values())
    places = iter(np.random.default_rng(count).permutation(count).tolist())
    return {
        video: [(start, end, label, 1 - next(places) / (count + 1)) for start, end, label in rows]
        for video, rows in found.items()
    }


PROTOCOLS: list[ProtocolName] = ["thumos14", "activitynet", "hacs", "reference-voc"]


class TestProperties:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @settings(max_examples=50, deadline=None)
    @given(truth=random_truth)
    def test_the_truth_itself_scores_one(self, protocol: ProtocolName, truth: dict[str, Segments]) -> None:
        evaluation = score(with_distinct_scores(truth), truth, protocol)

        assert evaluation.average == pytest.approx(1, abs=1e-12)
        assert evaluation.errors.missed == 0

    @settings(max_examples=100, deadline=None)
    @given(truth=random_truth, found=random_rows, label=st.sampled_from("xyz"))
    def test_a_false_positive_of_the_lowest_score_changes_nothing(
        self, truth: dict[str, Segments], found: dict[str, Segments], label: str
    ) -> None:
        rows = with_distinct_scores(found)
        before = score(rows, truth)

        video = next(video for video, segments in truth.items() if segments)
        after = score({**rows, video: [*rows.get(video, []), (500.0, 501.0, label, 0.0)]}, truth)

        assert after.mean_average_precision == before.mean_average_precision

    @settings(max_examples=100, deadline=None)
    @given(truth=random_truth, found=random_rows)
    def test_a_false_positive_of_the_highest_score_never_helps(
        self, truth: dict[str, Segments], found: dict[str, Segments]
    ) -> None:
        rows = with_distinct_scores(found)
        video, label = next((video, segments[0][2]) for video, segments in truth.items() if segments)

        after = score({**rows, video: [*rows.get(video, []), (500.0, 501.0, label, 2.0)]}, truth)

        assert after.average <= score(rows, truth).average + 1e-12

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @settings(max_examples=50, deadline=None)
    @given(truth=random_truth, found=random_rows)
    def test_without_ties_the_order_of_predictions_does_not_matter(
        self, protocol: ProtocolName, truth: dict[str, Segments], found: dict[str, Segments]
    ) -> None:
        rows = with_distinct_scores(found)
        turned = {video: rows[video][::-1] for video in reversed(rows)}

        assert score(turned, truth, protocol).average == pytest.approx(score(rows, truth, protocol).average, abs=1e-12)

    @settings(max_examples=50, deadline=None)
    @given(truth=random_truth, found=random_rows, factor=st.sampled_from([0.125, 2.0, 1024.0]))
    def test_the_unit_of_time_does_not_matter(
        self, truth: dict[str, Segments], found: dict[str, Segments], factor: float
    ) -> None:
        rows = with_distinct_scores(found)
        scaled_rows = {v: [(s * factor, e * factor, *rest) for s, e, *rest in r] for v, r in rows.items()}
        scaled_truth = {v: [(s * factor, e * factor, label) for s, e, label in r] for v, r in truth.items()}

        assert score(scaled_rows, scaled_truth).average == score(rows, truth).average  # type: ignore[arg-type]

    @settings(max_examples=50, deadline=None)
    @given(truth=random_truth, found=random_rows)
    def test_a_higher_threshold_never_finds_more(self, truth: dict[str, Segments], found: dict[str, Segments]) -> None:
        evaluation = score(with_distinct_scores(found), truth, score_threshold=0.0)

        assert evaluation.operating_point is not None
        recall = evaluation.operating_point.recall
        assert list(recall) == sorted(recall, reverse=True)


class TestRules:
    def test_mean_is_over_classes_and_then_over_thresholds(self) -> None:
        truth: dict[str, Segments] = {"v": [(0, 10, "a"), (20, 30, "b")]}

        evaluation = score({"v": [(0, 10, "a", 0.9), (20, 26.5, "b", 0.8)]}, truth)

        # b overlaps by 0.65: right at 0.3 to 0.6, wrong at 0.7.
        assert evaluation.mean_average_precision == (1.0, 1.0, 1.0, 1.0, 0.5)
        assert evaluation.average == pytest.approx(0.9)

    def test_no_predictions_score_zero(self) -> None:
        evaluation = score({}, {"v": [(0, 1, "a")]})

        assert evaluation.average == 0
        assert evaluation.videos.without_prediction == ("v",)
        assert evaluation.errors.missed == 1

    def test_a_class_that_is_only_predicted_is_dropped_and_reported(self) -> None:
        evaluation = score({"v": [(0, 1, "a", 0.5), (0, 1, "b", 0.9), (4, 5, "b", 0.8)]}, {"v": [(0, 1, "a")]})

        assert [found.label for found in evaluation.classes] == ["a"]
        assert evaluation.unknown_labels == {"b": 2}
        assert evaluation.average == 1

    @pytest.mark.parametrize(("protocol", "average"), [("thumos14", 1.0), ("reference-voc", 0.5)])
    def test_videos_with_nothing_annotated_count_only_in_the_voc_metric(
        self, protocol: ProtocolName, average: float
    ) -> None:
        rows: dict[str, Rows] = {"full": [(0, 1, "a", 0.5)], "empty": [(0, 1, "a", 0.9)]}

        evaluation = score(rows, {"full": [(0, 1, "a")], "empty": []}, protocol)

        assert evaluation.average == average
        skipped = evaluation.videos.skipped["no annotated segment"]
        assert skipped == (("empty",) if protocol == "thumos14" else ())

    def test_predictions_on_unknown_videos_are_skipped(self) -> None:
        evaluation = score({"v": [(0, 1, "a", 0.5)], "w": [(0, 1, "a", 0.9)]}, {"v": [(0, 1, "a")]})

        assert evaluation.average == 1
        assert evaluation.videos.skipped["no truth"] == ("w",)

    @pytest.mark.parametrize(("predicted", "known"), [("v_x", "x"), ("x", "v_x"), ("x", "x")])
    def test_videos_match_with_and_without_their_prefix(self, predicted: str, known: str) -> None:
        evaluation = score({predicted: [(0, 1, "a", 0.5)]}, {known: [(0, 1, "a")]})

        assert evaluation.average == 1
        assert evaluation.videos.scored == (known,)

    def test_one_video_under_two_names_is_refused(self) -> None:
        with pytest.raises(AnnotationError, match="v_x and x are both the video x of truth; keep one"):
            score({"v_x": [], "x": []}, {"x": [(0, 1, "a")]})

    def test_both_names_are_two_videos_where_the_truth_has_both(self) -> None:
        truth: dict[str, Segments] = {"x": [(0, 1, "a")], "v_x": [(5, 6, "a")]}

        assert score({"v_x": [(5, 6, "a", 0.5)], "x": [(0, 1, "a", 0.4)]}, truth).average == 1

    def test_voc_metric_breaks_ties_by_the_order_of_the_truth(self) -> None:
        truth: dict[str, Segments] = {"one": [(0, 1, "a")], "two": [(0, 1, "a")]}
        rows: dict[str, Rows] = {"two": [(5, 6, "a", 0.5)], "one": [(0, 1, "a", 0.5)]}

        assert score(rows, truth, "reference-voc").average == pytest.approx(0.5)  # `one` first: right, wrong
        assert score(dict(reversed(rows.items())), truth, "reference-voc").average == pytest.approx(0.5)

    @pytest.mark.parametrize(("protocol", "found"), [("thumos14", 0.0), ("reference-voc", 1.0)])
    def test_voc_metric_rounds_overlaps_to_float32(self, protocol: ProtocolName, found: float) -> None:
        # 4.1 - 0.1 is below 4 in float64 and 4 in float32: an overlap of 0.4 or just less.
        evaluation = score({"v": [(0.1, 4.1, "a", 0.9)]}, {"v": [(0, 10, "a")]}, protocol)

        assert evaluation.mean_average_precision[1] == found

    def test_activitynet_thresholds_are_the_official_ones(self) -> None:
        assert protocol_named("activitynet").tiou_thresholds == tuple(np.linspace(0.5, 0.95, 10).tolist())

    def test_a_threshold_outside_its_range_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"thresholds in \(0, 1\]"):
            dataclasses.replace(protocol_named("hacs"), tiou_thresholds=(0.0,))

    def test_truth_without_segments_is_refused(self) -> None:
        with pytest.raises(AnnotationError, match="no annotated segment is left to score against"):
            score({}, {"v": []})

    def test_leaving_videos_out_takes_their_classes_too(self) -> None:
        truth = Truth.of({"v": [(0, 1, "a"), (2, 3, "b")], "v_w": [(0, 1, "c"), (4, 5, "b")]})

        left = truth.without(["w", "elsewhere"])

        assert (left.videos, left.labels, left.class_indices.tolist()) == (("v",), ("a", "b"), [0, 1])
        assert left.left_out_videos == {"v_w"}
        assert left.notes == ("videos to leave out that are not in the subset: 1 of 2",)
        report = evaluate(predictions_of({"w": []}), left, protocol_named("thumos14")).videos
        assert (report.skipped["left out"], report.skipped["no truth"]) == (("v_w",), ())


class TestOperatingPoint:
    def test_precision_and_recall_of_the_kept(self) -> None:
        truth: dict[str, Segments] = {"v": [(0, 10, "a"), (20, 30, "a"), (40, 50, "b")]}
        rows: dict[str, Rows] = {"v": [(0, 10, "a", 0.9), (70, 80, "a", 0.8), (20, 30, "a", 0.3), (40, 50, "b", 0.5)]}

        evaluation = score(rows, truth, score_threshold=0.5)

        point = evaluation.operating_point
        assert point is not None
        assert (point.kept, point.precision[0], point.recall[0]) == (3, 2 / 3, 2 / 3)
        of_a = evaluation.classes[0].operating_point
        assert of_a is not None
        assert (of_a.kept, of_a.precision[0], of_a.recall[0]) == (2, 0.5, 0.5)

    def test_precision_of_nothing_does_not_exist(self) -> None:
        point = score({"v": [(0, 1, "a", 0.5)]}, {"v": [(0, 1, "a")]}, score_threshold=0.6).operating_point

        assert point is not None
        assert set(point.precision) == {None}
        assert set(point.recall) == {0.0}


def test_curves_belong_to_the_thresholds() -> None:
    evaluation = score({"v": [(0, 6.5, "a", 0.9)]}, {"v": [(0, 10, "a")]})

    assert [len(found.recall) for found in evaluation.curves] == [1, 1, 1, 1, 0]
    assert math.isclose(evaluation.curves[0].average_precision, evaluation.classes[0].average_precision[0])
