"""What official tools count, and what real files hold: 0/0, Ambiguous, composed letters, ends outside of videos."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tallformer_infer import cli
from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation import (
    Evaluation,
    Predictions,
    ProtocolName,
    Truth,
    evaluate,
    protocol_named,
    read_class_scores,
    read_predictions,
    read_truth,
    require_common_videos,
)
from tallformer_infer.structures import Action

CAFE, BUERO = "Café", "Büro"


def decomposed(text: str) -> str:
    changed = unicodedata.normalize("NFD", text)
    assert changed != text
    return changed


def annotation(start_s: float, end_s: float, label: str, **more: float) -> dict[str, Any]:
    return {"segment": [start_s, end_s], "label": label, **more}


def database(annotations: list[Any], *, name: str = "v", **entry: Any) -> dict[str, Any]:
    return {"database": {name: {"subset": "validation", "annotations": annotations, **entry}}}


def results(rows: list[Any], *, name: str = "v") -> dict[str, Any]:
    return {"results": {name: rows}}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


def score(folder: Path, truth: object, predictions: object, protocol_name: ProtocolName = "activitynet") -> Evaluation:
    protocol = protocol_named(protocol_name)
    read = read_truth(write(folder / "truth.json", truth), subset=None, defaults=protocol.subsets)
    return evaluate(read_predictions(write(folder / "predictions.json", predictions)), read, protocol)


@pytest.mark.parametrize(
    ("protocol", "average"),
    [("activitynet", 11 / 12), ("hacs", 11 / 12), ("thumos14", 11 / 12), ("reference-voc", 1 / 12)],
)
def test_two_segments_without_length_match_as_in_the_activitynet_toolkit(
    tmp_path: Path, protocol: ProtocolName, average: float
) -> None:
    """The steps of the toolkit's `segment_iou` and matching, run on these: right, right, wrong, right; AP 0.916667.

    By the VOC-style metric only the last is right: a third of the recall, at a precision of a quarter.
    """
    truth = database([annotation(5, 5, "a"), annotation(8, 8, "a"), annotation(10, 20, "a")])
    found = [
        annotation(5, 5, "a", score=0.9),
        annotation(7, 7, "a", score=0.85),
        annotation(6, 6, "a", score=0.8),
        annotation(10, 20, "a", score=0.7),
    ]

    evaluation = score(tmp_path, truth, results(found), protocol)

    assert evaluation.average == pytest.approx(average)
    assert evaluation.notes == ("truth segments of zero length: 2; no prediction longer than zero can match them",)


def test_truth_as_prediction_is_perfect_by_the_toolkit(tmp_path: Path) -> None:
    rows = [annotation(5, 5, "a"), annotation(0, 3, "a"), annotation(4, 4, "b")]

    evaluation = score(tmp_path, database(rows), results([{**row, "score": 1.0} for row in rows]))

    assert evaluation.mean_average_precision == (1.0,) * 10


def test_ambiguous_in_json_is_no_class(tmp_path: Path) -> None:
    truth = database([annotation(10, 20, "Ambiguous"), annotation(30, 40, "a"), annotation(50, 60, "b")])
    found = results([annotation(30, 40, "a", score=0.5), annotation(50, 60, "b", score=0.5)])

    evaluation = score(tmp_path, truth, found, "thumos14")

    assert [each.label for each in evaluation.classes] == ["a", "b"]
    assert evaluation.average == 1.0
    assert evaluation.notes == ("truth segments marked Ambiguous, which is not a class: 1; excluded",)


def test_names_and_labels_match_whether_composed_or_not(tmp_path: Path) -> None:
    rows = [annotation(1, 2, BUERO), annotation(5, 6, decomposed(BUERO))]
    found = [annotation(1, 2, decomposed(BUERO), score=0.9), annotation(5, 6, BUERO, score=0.8)]

    for name, other in ((CAFE, decomposed(CAFE)), (decomposed(CAFE), CAFE)):
        evaluation = score(tmp_path, database(rows, name=name), results(found, name=other))

        assert (evaluation.average, len(evaluation.classes)) == (1.0, 1)
        assert evaluation.videos.scored == (CAFE,)


def test_truth_and_predictions_made_in_memory_match_whether_composed_or_not() -> None:
    truth = Truth.of({decomposed(CAFE): [(1, 2, BUERO)]})
    found = Predictions.of({CAFE: [Action(start_s=1, end_s=2, label=decomposed(BUERO), score=0.5)]})

    assert evaluate(found, truth, protocol_named("thumos14")).average == 1.0


def test_class_scores_of_a_decomposed_name_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "scores.json", {"class": ["a"], "results": {decomposed(CAFE): [0.5]}})

    assert read_class_scores(path).of(CAFE) == {"a": 0.5}
    assert read_class_scores(path).of(decomposed(CAFE)) == {"a": 0.5}


def test_one_video_in_both_spellings_is_refused(tmp_path: Path) -> None:
    entry = {"annotations": [annotation(1, 2, "a")]}
    path = write(tmp_path / "truth.json", {"database": {CAFE: entry, decomposed(CAFE): entry}})

    with pytest.raises(AnnotationError, match=f"has the video {CAFE} twice, with composed and with decomposed Unicode"):
        read_truth(path, subset=None, defaults=())


def test_actions_json_of_windows_has_names_without_folders(tmp_path: Path) -> None:
    video = {"path": r"C:\\Users\\me\\v.mp4", "actions": [annotation(1, 2, "a", score=0.5)]}

    evaluation = score(tmp_path, database([annotation(1, 2, "a")]), {"videos": [video]})

    assert evaluation.average == 1.0


def test_truth_outside_of_its_video_is_counted_in_one_line(tmp_path: Path) -> None:
    rows = [annotation(10, 14, "a"), annotation(30, 40, "a"), annotation(-1, 3, "a"), annotation(14, 15.9, "a")]

    evaluation = score(tmp_path, database(rows, duration=15), results([annotation(10, 14, "a", score=0.5)]))

    assert evaluation.truth_count == 4
    assert evaluation.notes == ("truth segments outside their video: 2 of 4; used unchanged",)


def test_files_without_a_common_video_are_refused_with_two_names_of_each(tmp_path: Path, capsys: Any) -> None:
    truth = {"database": {name: {"annotations": [annotation(1, 2, "a")]} for name in ("x", "y", "z")}}
    found = {"results": {name: [annotation(1, 2, "a", score=0.5)] for name in ("x.mp4", "y.mp4", "z.mp4")}}
    paths = [write(tmp_path / "predictions.json", found), write(tmp_path / "truth.json", truth)]

    assert cli.run(["eval", *map(str, paths)]) == 1

    said = capsys.readouterr().err
    assert "have no video in common: predictions are for x.mp4, y.mp4, ...; truth is for x, y, ..." in said
    assert len(said.splitlines()) == 1


def test_videos_of_another_subset_are_named_as_such(tmp_path: Path) -> None:
    truth = {
        "database": {
            name: {"subset": name, "annotations": [annotation(1, 2, "a")]} for name in ("validation", "training")
        }
    }

    read = read_truth(write(tmp_path / "truth.json", truth), subset="validation", defaults=())
    found = Predictions.of({"training": []})

    with pytest.raises(AnnotationError, match="1 are in another subset, see --subset"):
        require_common_videos(found, read)
