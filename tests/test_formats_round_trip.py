"""What people get in their own tool's format comes back as it was, whatever the labels are called."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.formats import FORMATS, WRITABLE, encode_labels, read_labels
from tests.label_samples import ODD_LABELS, segment, video, videos

NOT_READ = ("labelstudio-config", "otio", "edl", "fcp7")
"""No labels, and editing programs' files, which hold whole frames."""
READ_BACK = tuple(form for form in WRITABLE if form not in NOT_READ)
WITHOUT_SCORES = ("truth", "ffmetadata")
FULL_NAMES = ("csv", "tsv", "jsonl", "labelstudio", "via", "boris")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


def there_and_back(found, form, folder):
    path = folder / f"clip{FORMATS[form].suffix}"
    path.write_bytes(encode_labels(found, form, folder=folder))
    return read_labels(path)


def rows(labelled, *, scored=True):
    """Start and end in whole milliseconds, label, and score in millionths."""
    return sorted(
        (
            round(each.start_s * 1000),
            round(each.end_s * 1000),
            each.label,
            round(each.score * 1e6) if scored and each.score is not None else -1,
        )
        for each in labelled.segments
    )


@pytest.mark.parametrize("form", READ_BACK)
@settings(max_examples=40)
@given(data=st.data())
def test_labels_times_and_scores_come_back_to_the_millisecond(form, folder, data):
    before = data.draw(videos(scored=form != "activitynet"))

    (after,) = there_and_back([before], form, folder)

    assert PurePath(after.name).stem == "clip"
    if form == "activitynet":  # which knows no segment without a score
        assert {each.score for each in after.segments} <= {1.0}
    scored = form not in (*WITHOUT_SCORES, "activitynet")
    assert rows(after, scored=scored) == rows(before, scored=scored)


@pytest.mark.parametrize("form", READ_BACK)
def test_every_odd_label_comes_back(form, folder):
    before = video(*(segment(place, place + 1.5, label) for place, label in enumerate(ODD_LABELS)))

    (after,) = there_and_back([before], form, folder)

    assert [each.label for each in sorted(after.segments, key=lambda each: each.start_s)] == list(ODD_LABELS)


@pytest.mark.parametrize("form", READ_BACK)
def test_actions_of_one_class_that_overlap_stay_apart(form, folder):
    before = video(segment(1, 5), segment(2, 4), segment(2, 4), segment(4, 9), segment(5, 6))

    (after,) = there_and_back([before], form, folder)

    assert rows(after, scored=False) == rows(before, scored=False)


@pytest.mark.parametrize("form", READ_BACK)
def test_video_without_actions_is_not_lost(form, folder):
    (after,) = there_and_back([video()], form, folder)

    assert after.segments == ()


@pytest.mark.parametrize("form", [form for form in READ_BACK if not FORMATS[form].holds_one_video])
def test_several_videos_keep_their_own_actions(form, folder):
    before = [video(segment(1, 2), name="x/a.mp4"), video(name="x/b.mp4"), video(segment(3, 4), name="x/c.mp4")]

    after = there_and_back(before, form, folder)

    expected = [each.name if form in FULL_NAMES else PurePath(each.name).stem for each in before]
    assert [each.name for each in after] == expected
    assert [rows(each, scored=False) for each in after] == [rows(each, scored=False) for each in before]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "labelstudio", "via", "boris"])
def test_odd_names_of_videos_come_back(form, folder):
    names = [f"{place}/{label}.mp4" for place, label in enumerate(ODD_LABELS)] + ["=cmd()|x.mp4", "-.mp4"]

    after = there_and_back([video(segment(1, 2), name=name) for name in names], form, folder)

    assert [each.name for each in after] == names


def test_name_of_the_video_comes_back_from_elan(folder):
    for name in ('a <b> "c" & é.mp4', "100%25.mp4", "what?#x.mp4", "caf\udce9.mp4", "=cmd().mp4", "a\\b.mp4"):
        (after,) = there_and_back([video(segment(1, 2), name=f"some/folder/{name}")], "eaf", folder)

        assert after.name == name


def test_all_videos_come_back_through_every_format_one_after_another(folder):
    """Each writes what the one before was read as: names, times and labels are the same in the end."""
    before = [
        video(segment(1.5, 2.25, "jump"), segment(2, 4, "sit"), name="a.mp4"),
        video(segment(1.5, 2.25, "jump"), name="b.mp4"),
    ]

    after = before
    for form in READ_BACK:
        if FORMATS[form].holds_one_video:
            after = [read for each in after for read in there_and_back([each], form, folder)]
            after = [
                dataclasses.replace(read, name=old.name, has_bare_name=False)
                for read, old in zip(after, before, strict=True)
            ]
        else:
            after = list(there_and_back(after, form, folder))
        after = [dataclasses.replace(each, fps=25.0) for each in after]
        assert [each.bare_name for each in after] == ["a", "b"], form

    assert [rows(each, scored=False) for each in after] == [rows(each, scored=False) for each in before]


@settings(max_examples=120)
@given(data=st.data())
@pytest.mark.parametrize("form", ["truth", "activitynet", "labelstudio", "via", "boris"])
def test_json_with_anything_in_the_place_of_anything_is_read_or_refused(form, folder, data):
    before = [video(segment(1, 2, score=0.5), segment(1.5, 3)), video(name="other.mp4")]
    document = json.loads(encode_labels(before, form))
    place = data.draw(st.sampled_from(list(places(document))))
    put(document, place, data.draw(st.sampled_from([None, 1, -3.5, "x", "", [], {}, [1], {"a": 1}, [None], True])))
    path = folder / "changed.json"
    path.write_text(json.dumps(document))

    with contextlib.suppress(AnnotationError):
        read_labels(path, form="json" if form in ("truth", "activitynet") else form)


def places(value, before=()):
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield (*before, key)
        yield from places(below, (*before, key))


def put(value, place, new):
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = new
