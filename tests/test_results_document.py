"""The two forms in which results are written."""

from __future__ import annotations

import copy
import dataclasses
import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.errors import OutputError
from tallformer_infer.labels.activitynet import activitynet_document, video_ids
from tallformer_infer.results import Failure, Selection, actions_document, load_schema
from tests.result_samples import PROVENANCE, action, result, untrained


def validate(document):
    """Check a document, as read back from JSON, against the shipped schema."""
    jsonschema.Draft202012Validator(load_schema()).validate(json.loads(json.dumps(document, allow_nan=False)))


def objects(schema):
    """Every part of a schema that describes an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(load_schema())


def test_schema_describes_every_key():
    parts = list(objects(load_schema()))

    assert len(parts) >= 7
    for part in parts:
        assert part["additionalProperties"] is False
        assert all(value.get("description") for value in part["properties"].values())


def test_document_of_one_video_fits_the_schema():
    validate(actions_document([result(actions=(action(1, 2),))]))


def test_document_with_everything_fits_the_schema():
    selection = Selection(threshold=0.25, top_k=7, classes=("wave", "jump"), operating_point="max-f1")
    results = [result("a.mp4", (action(1, 2),)), result("-", video_sha256=None, decode_errors=3)]

    document = actions_document(results, selection=selection, failures=[Failure("b.mp4", "b.mp4: no such video")])

    validate(document)
    assert document["settings"] == {
        "windows": "shared",
        "window_s": None,
        "class_scores": None,
        "rates": None,
        "threshold": 0.25,
        "top_k": 7,
        "classes": ["wave", "jump"],
        "operating_point": "max-f1",
    }
    assert document["failures"] == [{"path": "b.mp4", "error": "b.mp4: no such video"}]
    assert [video["path"] for video in document["videos"]] == ["a.mp4", "-"]


def test_document_says_how_it_came_about():
    document = actions_document([result()])

    assert document["schema_version"] == "1.5"
    assert document["tool"] == {"name": "tallformer", "version": "0.1.0"}
    assert document["model"] == {"name": "sample", "trained": True}
    assert document["bundle_sha256"] == "ab" * 32
    keys = ("recipe", "runtime", "device", "precision")
    assert [document[key] for key in keys] == ["tiny", "onnxruntime 1.22.0", "cpu", "fp32"]


def test_video_carries_its_facts_and_timings():
    (video,) = actions_document([result(decode_errors=2)])["videos"]

    assert {key: value for key, value in video.items() if key not in {"actions", "timings_s"}} == {
        "path": "a.mp4",
        "sha256": "cd" * 32,
        "duration_s": 10.0,
        "header_duration_s": 10.0,
        "start_s": 0.0,
        "sample_fps": 15.0,
        "source_fps": 30.0,
        "frame_count": 150,
        "width_px": 320,
        "height_px": 240,
        "rotation_deg": 0,
        "stream": 0,
        "streams": 1,
        "codec": "h264",
        "decode_errors": 2,
        "notes": [],
    }
    assert video["timings_s"] == {"decode": 0.5, "encode": 1.5, "localize": 0.25, "suppress": 0.125, "total": 2.0}


def test_what_the_file_does_not_tell_is_null():
    told = result()
    silent = dataclasses.replace(told, video=dataclasses.replace(told.video, duration_s=None, source_fps=None))

    document = actions_document([silent])

    validate(document)
    (video,) = document["videos"]
    assert (video["header_duration_s"], video["source_fps"]) == (None, None)


def test_actions_are_sorted_by_start():
    (video,) = actions_document([result(actions=(action(5, 6), action(1, 2)))])["videos"]

    assert [found["segment"] for found in video["actions"]] == [[1, 2], [5, 6]]


@given(st.floats(0, 1e5), st.floats(0, 1e4), st.floats(0, 1))
def test_rounding_moves_times_and_scores_by_less_than_a_millionth(start_s, length_s, score):
    written = action(start_s, start_s + length_s, score=score)

    (video,) = actions_document([result(actions=(written,))])["videos"]

    (found,) = video["actions"]
    assert found["segment"] == pytest.approx([written.start_s, written.end_s], abs=1e-6, rel=0)
    assert found["score"] == pytest.approx(score, abs=1e-6, rel=0)


def test_untrained_model_is_said_in_one_sentence():
    document = actions_document([result(provenance=untrained())])

    validate(document)
    assert document["model"]["notice"] == "The weights of this model are random: its actions mean nothing."
    assert activitynet_document([result(provenance=untrained())])["external_data"]["model"] == document["model"]


@pytest.mark.parametrize("trained", [True, False])
def test_schema_wants_the_notice_if_and_only_if_untrained(trained):
    document = actions_document([result(provenance=untrained() if not trained else PROVENANCE)])
    broken = copy.deepcopy(document)
    if trained:
        broken["model"]["notice"] = "x"
    else:
        del broken["model"]["notice"]

    with pytest.raises(jsonschema.ValidationError):
        validate(broken)


@pytest.mark.parametrize("key", ["videos", "failures", "model", "settings", "bundle_sha256"])
def test_schema_refuses_a_document_without(key):
    document = actions_document([result()])
    del document[key]

    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_schema_refuses_a_score_above_one():
    with pytest.raises(jsonschema.ValidationError):
        validate(actions_document([result(actions=(action(0, 1, score=1.5),))]))


def test_no_results_are_refused():
    with pytest.raises(ValueError, match="expected one or more results"):
        actions_document([])


def test_results_of_two_models_are_refused():
    other = dataclasses.replace(PROVENANCE, model_name="other")

    with pytest.raises(ValueError, match="of one model"):
        actions_document([result(), result("b.mp4", provenance=other)])


def test_activitynet_form_has_the_three_keys_that_evaluators_read():
    document = activitynet_document([result("some/clip.final.mp4", (action(1, 2), action(3, 4, "jump", 0.9)))])

    assert set(document) == {"version", "results", "external_data"}
    assert document["results"] == {
        "clip.final": [
            {"segment": [3, 4], "label": "jump", "score": 0.9},
            {"segment": [1, 2], "label": "wave", "score": 0.5},
        ]
    }


def test_activitynet_form_keeps_provenance_and_videos_without_actions():
    document = activitynet_document([result("a.mp4")], failures=[Failure("b.mp4", "b.mp4: no such video")])

    assert document["results"] == {"a": []}
    extra = document["external_data"]
    assert extra["bundle_sha256"] == "ab" * 32
    assert extra["videos"]["a"]["path"] == "a.mp4"
    assert extra["failures"] == [{"path": "b.mp4", "error": "b.mp4: no such video"}]


def test_activitynet_form_refuses_two_videos_of_one_name_and_names_both():
    with pytest.raises(OutputError, match=r"x/a\.mp4 and y/a\.mkv: both would be 'a'"):
        activitynet_document([result("x/a.mp4"), result("y/a.mkv")])


def test_video_ids_are_file_names_without_folder_and_ending():
    assert video_ids(["x/a.mp4", "b", "http://host/c.webm"]) == ["a", "b", "c"]
