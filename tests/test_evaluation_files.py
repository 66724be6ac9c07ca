"""Reading truth and predictions, and what is said about wrong files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation import Truth, read_predictions, read_truth
from tallformer_infer.labels.files import SHOWN
from tallformer_infer.labels.truth import fold_subset

THUMOS = ("testing", "validation")
NAN = float("nan")


def write(folder: Path, value: object, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def database(annotations: Any, *, subset: str | None = None) -> dict[str, Any]:
    entry = {"duration": 60.0, "annotations": annotations}
    return {"database": {"v1": entry if subset is None else {**entry, "subset": subset}}}


def truth_of(folder: Path, value: object, subset: str | None = None) -> Truth:
    return read_truth(write(folder, value), subset=subset, defaults=THUMOS)


def rows_of(truth: Truth) -> list[tuple[str, float, float, str]]:
    return [
        (truth.videos[video], *segment, truth.labels[label])
        for video, segment, label in zip(
            truth.video_indices.tolist(), truth.segments_s.tolist(), truth.class_indices.tolist(), strict=True
        )
    ]


GOOD = [{"segment": [1.0, 2.5], "label": "Run"}]


class TestTruth:
    def test_activitynet_form(self, tmp_path: Path) -> None:
        truth = truth_of(tmp_path, {"version": "1.3", "taxonomy": [], **database(GOOD, subset="validation")})

        assert rows_of(truth) == [("v1", 1.0, 2.5, "Run")]
        assert truth.subset == "validation"

    def test_times_may_be_strings(self, tmp_path: Path) -> None:
        truth = truth_of(tmp_path, database([{"segment": ["1.0", "2.5"], "label": "Run"}]))

        assert rows_of(truth) == [("v1", 1.0, 2.5, "Run")]

    def test_times_may_be_written_in_ways_numpy_does_not_read(self, tmp_path: Path) -> None:
        truth = truth_of(tmp_path, database([{"segment": ["1_0", "2e1 "], "label": "Run"}]))

        assert rows_of(truth) == [("v1", 10.0, 20.0, "Run")]

    def test_a_file_without_subsets_is_taken_whole(self, tmp_path: Path) -> None:
        assert truth_of(tmp_path, database(GOOD)).subset is None

    @pytest.mark.parametrize("asked", ["validation", "Validation", "val", " VAL "])
    def test_subsets_are_folded(self, tmp_path: Path, asked: str) -> None:
        assert truth_of(tmp_path, database(GOOD, subset="Validation"), asked).subset == "validation"

    def test_other_subsets_are_not_scored_and_not_checked(self, tmp_path: Path) -> None:
        value = database(GOOD, subset="test")
        value["database"]["v2"] = {"subset": "training", "annotations": [{"segment": [3, 2], "label": "Run"}]}

        truth = truth_of(tmp_path, value)

        assert truth.videos == ("v1",)
        assert truth.other_subset_videos == {"v2"}

    def test_of_several_subsets_the_first_default_is_taken(self, tmp_path: Path) -> None:
        value = {
            "database": {name: {"subset": name, "annotations": GOOD} for name in ["training", "validation", "extra"]}
        }

        assert truth_of(tmp_path, value).subset == "validation"

    def test_a_missing_subset_is_refused_with_those_there_are(self, tmp_path: Path) -> None:
        value = {"database": {name: {"subset": name, "annotations": GOOD} for name in ["training", "extra"]}}

        with pytest.raises(AnnotationError, match=r"no subset testing or validation, but training \(1 video\), extra"):
            truth_of(tmp_path, value)
        with pytest.raises(AnnotationError, match=r"no subset val; it has training \(1 video\), extra"):
            truth_of(tmp_path, value, "val")
        with pytest.raises(AnnotationError, match="has no subsets; remove --subset val"):
            truth_of(tmp_path, database(GOOD), "val")

    def test_a_segment_without_length_is_kept_and_noted(self, tmp_path: Path) -> None:
        truth = truth_of(tmp_path, database([*GOOD, {"segment": [3, 3], "label": "Run"}]))

        assert len(rows_of(truth)) == 2
        assert truth.notes == ("truth segments of zero length: 1; no prediction longer than zero can match them",)

    @pytest.mark.parametrize(
        ("annotations", "message"),
        [
            (
                [{"segment": [9.5, 2], "label": "Run"}],
                r"v1.annotations\[0\].segment: ends at 2 s, before it starts at 9.5",
            ),
            ([*GOOD, {"segment": [NAN, 2], "label": "Run"}], r"annotations\[1\].segment: expected .*, got \[NaN, 2\]"),
            ([{"segment": [1, float("inf")], "label": "Run"}], r"expected .*, got \[1, Infinity\]"),
            ([{"segment": [1], "label": "Run"}], r"segment: expected \[start, end\] in seconds, got \[1\]"),
            ([{"segment": [1, 2, 3], "label": "Run"}], r"got \[1, 2, 3\]"),
            ([{"segment": [1, "soon"], "label": "Run"}], r'got \[1, "soon"\]'),
            ([{"segment": {"start": 1}, "label": "Run"}], r'got {"start": 1}'),
            ([{"label": "Run"}], r'annotations\[0\]: has no "segment"'),
            ([{"segment": [1, 2]}], r'annotations\[0\]: has no "label"'),
            ([{"segment": [1, 2], "label": 7}], r"annotations\[0\].label: expected the name of a class, got 7"),
            ([{"segment": [1, 2], "label": ""}], "expected the name of a class"),
            (["Run"], r'expected an object with "segment" and "label", got "Run"'),
            ({}, "annotations: expected a list of segments, got {}"),
            (None, "annotations: expected a list of segments, got null"),
            ([], "no annotated segment"),
        ],
    )
    def test_wrong_segments_are_named(self, tmp_path: Path, annotations: object, message: str) -> None:
        with pytest.raises(AnnotationError, match=message) as caught:
            truth_of(tmp_path, database(annotations))

        assert str(caught.value).startswith(str(tmp_path / "file.json"))
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("{", "not JSON: .*line 1 column 2"),
            ("", "not JSON"),
            ("[1]", r"expected a JSON object, got \[1\]"),
            ('{"database": {"v1": 1, "v1": 2}}', 'key "v1" appears twice'),
            ({"database": []}, r"database: expected an object with a key per video, got \[\]"),
            ({"database": {}}, "database: expected an object with a key per video"),
            ({"database": {"v1": []}}, r'database.v1: expected an object with "annotations", got \[\]'),
            ({"database": {"v1": {"subset": 1}}}, "database.v1.subset: expected a name, got 1"),
            ({"database": {"v1": {"subset": "val"}, "v2": {}}}, 'database.v2: has no "subset"'),
            ({"results": {}}, "has predictions, not ground truth; expected annotations"),
            ({"taxonomy": []}, 'has no "database"'),
            ({"database": {"v1": {}}}, "annotations: expected a list of segments, got nothing"),
        ],
    )
    def test_wrong_files_are_named(self, tmp_path: Path, value: object, message: str) -> None:
        with pytest.raises(AnnotationError, match=message):
            truth_of(tmp_path, value)

    def test_deep_nesting_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match="not JSON: nested too deeply"):
            truth_of(tmp_path, "[" * 200_000)

    @pytest.mark.parametrize("content", [b"\x00\x00\x00\x20ftypisom", b"\xff\xfe\x00"])
    def test_what_is_no_text_is_said_in_plain_words(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "video.mp4").write_bytes(content)

        with pytest.raises(AnnotationError, match=r"video\.mp4: not JSON: not a text file$"):
            read_truth(tmp_path / "video.mp4", subset=None, defaults=THUMOS)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match=r"nowhere\.json: no such file or directory"):
            read_truth(tmp_path / "nowhere.json", subset=None, defaults=THUMOS)

    def test_all_problems_are_told_at_once_up_to_a_limit(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError) as caught:
            truth_of(tmp_path, database([{"segment": [2, 1], "label": "Run"}] * (SHOWN + 5)))

        lines = str(caught.value).splitlines()
        assert len(lines) == SHOWN + 1
        assert f"annotations[{SHOWN - 1}].segment" in lines[-2]
        assert lines[-1].endswith("and 5 more problems")


class TestThumosFolder:
    def write_class(self, folder: Path, name: str, text: str) -> None:
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")

    def test_one_file_per_class_and_ambiguous_is_none(self, tmp_path: Path) -> None:
        self.write_class(tmp_path, "Diving_test", "video_test_1   1.5  3.0\n\nvideo_test_2 4 5\n")
        self.write_class(tmp_path, "CliffDiving_test", "video_test_1  1.5 3.0\n")
        self.write_class(tmp_path, "Ambiguous_test", "video_test_3 0 1\n")
        self.write_class(tmp_path, "Diving_val", "video_validation_1 0 1\n")
        self.write_class(tmp_path, "detclasslist", "7 BaseballPitch\n")

        truth = read_truth(tmp_path, subset=None, defaults=THUMOS)

        assert rows_of(truth) == [
            ("video_test_1", 1.5, 3.0, "CliffDiving"),
            ("video_test_1", 1.5, 3.0, "Diving"),
            ("video_test_2", 4.0, 5.0, "Diving"),
        ]
        assert truth.subset == "testing"
        assert truth.other_subset_videos == {"video_validation_1"}

    def test_the_other_subset_on_request(self, tmp_path: Path) -> None:
        self.write_class(tmp_path, "Diving_test", "video_test_1 1 3\n")
        self.write_class(tmp_path, "Diving_val", "video_validation_1 0 1\n")

        assert read_truth(tmp_path, subset="val", defaults=THUMOS).videos == ("video_validation_1",)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("video_test_1 5 3", "Diving_test.txt:2: ends at 3 s, before it starts at 5 s"),
            ("video_test_1 5", "Diving_test.txt:2: expected `video start end` in seconds, got"),
            ("video_test_1 5 six", "Diving_test.txt:2: expected"),
            ("video_test_1 nan 6", "Diving_test.txt:2: expected"),
            ("video_test_1 5 6 7", "Diving_test.txt:2: expected"),
        ],
    )
    def test_wrong_lines_are_named(self, tmp_path: Path, line: str, message: str) -> None:
        self.write_class(tmp_path, "Diving_test", f"video_test_1 1 2\n{line}\n")

        with pytest.raises(AnnotationError, match=message) as caught:
            read_truth(tmp_path, subset=None, defaults=THUMOS)

        assert len(str(caught.value).splitlines()) == 1

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match=r"has no files like Diving_test\.txt"):
            read_truth(tmp_path, subset=None, defaults=THUMOS)


class TestPredictions:
    def test_results_form_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        rows = [{"label": "b", "score": 0.5, "segment": [0, 1]}, {"label": "a", "score": "0.75", "segment": ["2", 3]}]

        predictions = read_predictions(write(tmp_path, {"results": {"w": [], "v": rows}, "external_data": {}}))

        assert (predictions.videos, predictions.labels) == (("w", "v"), ("b", "a"))
        assert predictions.video_indices.tolist() == [1, 1]
        assert predictions.scores.tolist() == [0.5, 0.75]
        assert predictions.segments_s.tolist() == [[0, 1], [2, 3]]

    def test_our_own_form_goes_by_file_names(self, tmp_path: Path) -> None:
        action = {"segment": [0.5, 1.5], "label": "a", "score": 0.25}
        value = {"videos": [{"path": "some/where/v_abc.test.mp4", "actions": [action]}], "failures": []}

        predictions = read_predictions(write(tmp_path, value))

        assert (predictions.videos, predictions.labels, predictions.notes) == (("v_abc.test",), ("a",), ())
        assert predictions.segments_s.tolist() == [[0.5, 1.5]]

    def test_it_says_what_the_run_said_of_itself(self, tmp_path: Path) -> None:
        value = {
            "model": {"name": "demo", "trained": False},
            "videos": [],
            "failures": [{"path": "bad.mp4", "error": "…"}],
        }

        first, second = read_predictions(write(tmp_path, value)).notes

        assert "untrained model demo" in first
        assert second == "videos that could not be read when the predictions were made: bad.mp4"

    def test_no_predictions_at_all_are_a_file_too(self, tmp_path: Path) -> None:
        assert len(read_predictions(write(tmp_path, {"results": {}}))) == 0

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"results": []}, r"results: expected an object with a key per video, got \[\]"),
            ({"results": {"v": {}}}, "results.v: expected a list, got {}"),
            ({"results": {"v": [{"segment": [0, 1], "label": "a"}]}}, r'results.v\[0\]: has no "score"'),
            (
                {"results": {"u": [], "v": [{"segment": [0, 1], "label": "a", "score": NAN}]}},
                r"results.v\[0\].score: expected a number, got nan",
            ),
            (
                {"results": {"v": [{"segment": [0, 1], "label": "a", "score": "high"}]}},
                r'results.v\[0\].score: expected a number, got "high"',
            ),
            (
                {"results": {"v": [{"segment": [3, 1], "label": "a", "score": 1}]}},
                r"results.v\[0\].segment: ends at 1 s, before it starts at 3 s",
            ),
            ({"videos": [{"actions": []}]}, r'videos\[0\]: expected an object with "path" and "actions"'),
            ({"videos": [{"path": "a.mp4"}]}, r"videos\[0\].actions: expected a list, got nothing"),
            (
                {"videos": [{"path": f"{folder}/a.mp4", "actions": []} for folder in "xy"]},
                r"videos\[1\].path: y/a.mp4 and x/a.mp4 are both the video a",
            ),
            ({"database": {}}, "has ground truth, not predictions"),
            ({"detections": {}}, 'has neither "videos"'),
        ],
    )
    def test_wrong_files_are_named(self, tmp_path: Path, value: object, message: str) -> None:
        with pytest.raises(AnnotationError, match=message):
            read_predictions(write(tmp_path, value))


def test_subset_names_that_nobody_knows_stay() -> None:
    assert fold_subset(" Held-Out ") == "held-out"
