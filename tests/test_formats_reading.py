"""Files as people and their tools leave them: read where they are clear, refused in one line per problem where not."""

from __future__ import annotations

import json

import pytest

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.formats import encode_labels, format_of, read_labels
from tests.label_samples import segment, spans, video

# subtitles


def test_srt_of_other_programs_is_read(file):
    text = "\ufeff1\n00:00:01,5 --> 00:00:02,25\njump\n\n\n7\n0:1:2.004 --> 0:1:3.000 X1:40\ntwo\nlines\n"

    (found,) = read_labels(file("match.srt", text.replace("\n", "\r\n")))

    assert found.name == "match"
    assert spans(found) == [(1.5, 2.25, "jump"), (62.004, 63.0, "two\nlines")]


def test_srt_without_numbers_or_empty_is_read(file):
    assert spans(read_labels(file("a.srt", "00:00:01,000 --> 00:00:02,000\njump"))[0]) == [(1, 2, "jump")]
    assert spans(read_labels(file("b.srt", ""))[0]) == []


def test_vtt_with_notes_styles_identifiers_and_tags_is_read(file):
    text = (
        "WEBVTT - corrected\nKind: captions\n\nNOTE by hand\n\nSTYLE\n::cue { color: red }\n\n"
        "intro\n00:01.000 --> 00:02.500 align:start\n<v Ann>jump &amp; <b>run</b>\n"
    )

    (found,) = read_labels(file("a.vtt", text.replace("Kind: captions\n", "")))

    assert spans(found) == [(1.0, 2.5, "jump & run")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.srt", "jump\n", r"a\.srt: line 1: expected a line such as 00:01:02,500 --> .*, got \"jump\""),
        ("a.srt", "1\n00:00:05,000 --> 00:00:02,000\nx\n", r"line 1: ends at 2 s, before it starts at 5 s"),
        ("a.srt", "\n\n1\n00:00:01,000 --> 00:00:02,000\n\n", r"line 3: has no text; expected the name of the action"),
        ("a.vtt", "00:01.000 --> 00:02.500\njump\n", r"expected WEBVTT on the first line, got '00:01.000"),
        ("a.srt", b"B\xfcro", r"not text in UTF-8 \(byte 1\); save it as UTF-8"),
        ("a.srt", b"\xff\xfe1\x00\x00", r"not text in UTF-16 \(byte 4\); save it as UTF-8"),
    ],
)
def test_subtitles_that_are_wrong_are_refused(file, name, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file(name, text))


# tables


def test_csv_needs_no_more_than_three_columns_in_any_order(file):
    (found,) = read_labels(file("match.csv", "label,end_s,start_s,remark\njump,2.5,1,good\n\nsit,4,3,\n"))

    assert found.name == "match"
    assert spans(found) == [(1, 2.5, "jump"), (3, 4, "sit")]


def test_csv_with_semicolons_and_commas_in_numbers_is_read(file):
    found = read_labels(file("a.csv", "\ufeffvideo;start_s;end_s;label;score\nx.mp4;1,5;2,25;jump, high;0,5\n"))

    assert found[0].segments == (segment(1.5, 2.25, "jump, high", 0.5),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column start_s, end_s, label; expected a header"),
        ("start_s,end_s\n1,2\n", "lacks the column label"),
        ("start_s,end_s,label\n1,2\n", "line 2: has 2 cells, expected 3 as in the header"),
        ("start_s,end_s,label\n1,x,jump\n", r'line 2: expected start and end in seconds, got \["1", "x"\]'),
        ("start_s,end_s,label\n1,nan,jump\n", r"line 2: expected start and end in seconds"),
        ("start_s,end_s,label\n3,2,jump\n", "line 2: ends at 2 s, before it starts at 3 s"),
        ("start_s,end_s,label\n1,2,\n", 'line 2: expected the name of an action, got ""'),
        ("start_s,end_s,label,score\n1,2,jump,7\n", r"line 2: expected a score in \[0, 1\], got 7"),
        ('start_s,end_s,label\n1,2,"jump\n', "not CSV"),
    ],
)
def test_csv_that_is_wrong_is_refused(file, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file("a.csv", text))


def test_every_wrong_line_is_named(file):
    with pytest.raises(AnnotationError) as caught:
        read_labels(file("a.csv", "start_s,end_s,label\n1,x,jump\n1,2,sit\n5,4,sit\n"))

    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["line 2", "line 4"]


def test_tsv_of_whisper_is_read(file):
    (found,) = read_labels(file("talk.tsv", "start\tend\ttext\n0\t1500\thello\n1500\t2001\tyou\n"))

    assert (found.name, spans(found)) == ("talk", [(0, 1.5, "hello"), (1.5, 2.001, "you")])


def test_json_lines_that_are_wrong_are_refused(file):
    with pytest.raises(AnnotationError, match=r"line 2: not JSON.*\n.*line 3: expected an object with"):
        read_labels(file("a.jsonl", '{"start_s": 1, "end_s": 2, "label": "x"}\n{"start_s": \n[1]\n'))


# ELAN


def elan(tiers, *, slots="", head="", origin=""):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds">'
        f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///x/y/match%20one.mp4" {origin}/></HEADER><TIME_ORDER>'
        f'<TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1250"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="3001"/>{slots}'
        f"</TIME_ORDER>{tiers}</ANNOTATION_DOCUMENT>"
    )


def tier(name, value, *, first="ts1", second="ts2", more=""):
    return (
        f'<TIER TIER_ID="{name}" {more}><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="{first}" '
        f'TIME_SLOT_REF2="{second}"><ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>'
    )


def test_elan_annotation_without_a_value_is_named_after_its_tier(file):
    (found,) = read_labels(file("a.eaf", elan(tier("jump", "") + tier("jump #2", "") + tier("x #2", ""))))

    assert found.name == "match one.mp4"
    assert spans(found) == [(1.25, 3.001, "jump"), (1.25, 3.001, "jump"), (1.25, 3.001, "x #2")]


def test_elan_document_whose_zero_is_elsewhere_in_the_video_is_shifted(file):
    (found,) = read_labels(file("a.eaf", elan(tier("jump", "jump"), origin='TIME_ORIGIN="500"')))

    assert spans(found) == [(1.75, 3.501, "jump")]


BOMB = (
    '<!DOCTYPE bomb [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (elan(tier("jump", "&c;"), head=BOMB), r"has a document type \(<!DOCTYPE>\)"),
        (elan("", head='<!DOCTYPE x SYSTEM "file:///etc/passwd">'), r"has a document type \(<!DOCTYPE>\)"),
        ("<ANNOTATION_DOCUMENT>", "not XML: no element found"),
        ("", "not XML: no element found"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "not XML"),
        (elan(tier("jump", "&unknown;")), "not XML: undefined entity"),
        ("<html/>", "expected <ANNOTATION_DOCUMENT> of ELAN, got <html>"),
        (elan("").replace("milliseconds", "frames"), "TIME_UNITS is frames, expected milliseconds"),
        (
            elan(tier("jump", "x", first="ts9")),
            r"annotation a1: expected start and end in seconds, got \[null, 3\.001\]",
        ),
        (elan(tier("jump", "x", first="ts2", second="ts1")), "annotation a1: ends at 1.25 s, before it starts"),
        (elan("", slots='<TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="x"/>'), "time slot ts3: expected milliseconds"),
    ],
)
def test_elan_document_that_is_wrong_or_a_trap_is_refused(file, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file("a.eaf", content))


# Label Studio


def exported(*results, **data):
    annotations = [{"result": found} for found in results]
    return json.dumps([{"id": 1, "data": {"video": "/data/upload/a.mp4", **data}, "annotations": annotations}])


def timeline(first, last, label="jump"):
    value = {"ranges": [{"start": first, "end": last}], "timelinelabels": [label]}
    return {"type": "timelinelabels", "value": value, "id": "x", "from_name": "tl", "to_name": "v", "origin": "manual"}


def test_label_studio_frames_become_seconds(file):
    other = {"type": "choices", "value": {"choices": ["good"]}}

    (found,) = read_labels(file("a.json", exported([timeline(26, 50), other], fps=25)))

    assert (found.name, spans(found)) == ("a.mp4", [(1.0, 2.0, "jump")])


def test_label_studio_range_that_was_not_moved_keeps_its_exact_time(file):
    task = json.loads(encode_labels([video(segment(1.001, 2.003), segment(3, 4))], "labelstudio"))[0]
    regions = task["predictions"][0]["result"]
    regions[1]["value"]["ranges"] = [{"start": 1, "end": 25}]
    task["annotations"] = [{"result": regions}]

    (found,) = read_labels(file("a.json", json.dumps([task])))

    assert spans(found) == [(1.001, 2.003, "jump"), (0.0, 1.0, "jump")]


def test_label_studio_tasks_that_nobody_labelled_are_left_out_where_others_were(file):
    tasks = json.loads(encode_labels([video(segment(1, 2), name="a.mp4"), video(name="b.mp4")], "labelstudio"))
    tasks[1]["annotations"] = [{"result": []}]

    found = read_labels(file("a.json", json.dumps(tasks)))

    assert [(each.name, each.segments) for each in found] == [("b.mp4", ())]


def test_label_studio_task_that_was_labelled_twice_needs_one_that_counts(file):
    twice = json.loads(exported([timeline(1, 25)], [timeline(26, 50)], fps=25))

    with pytest.raises(AnnotationError, match=r"a\.json: task 1: a\.mp4 was labelled 2 times"):
        read_labels(file("a.json", json.dumps(twice)))
    twice[0]["annotations"][1]["ground_truth"] = True
    assert spans(read_labels(file("a.json", json.dumps(twice)))[0]) == [(1.0, 2.0, "jump")]


def test_label_studio_annotation_that_was_skipped_does_not_count(file):
    skipped = json.loads(exported([timeline(1, 25)], [timeline(26, 50)], fps=25))
    skipped[0]["annotations"][0]["was_cancelled"] = True

    assert spans(read_labels(file("a.json", json.dumps(skipped)))[0]) == [(1.0, 2.0, "jump")]


def test_label_studio_frames_of_unknown_rate_need_one(file):
    path = file("a.json", exported([timeline(26, 50)]))

    with pytest.raises(AnnotationError, match="task 1: has no frame rate; set it with `tallformer convert --fps X`"):
        read_labels(path)
    assert spans(read_labels(path, fps=25)[0]) == [(1.0, 2.0, "jump")]


# VIA and BORIS


def via(attribute, value, **metadata):
    return json.dumps(
        {
            "project": {"vid_list": ["1"]},
            "attribute": {"1": {"aname": "TEMPORAL-SEGMENTS", "anchor_id": "FILE1_Z2_XY0", **attribute}},
            "file": {"1": {"fid": "1", "fname": "a.mp4", "type": 4, "loc": 1, "src": ""}},
            "view": {"1": {"fid_list": [1]}},
            "metadata": {"1_x": {"vid": "1", "flg": 0, "z": [1.5, 2.25], "xy": [], "av": {"1": value}, **metadata}},
        }
    )


@pytest.mark.parametrize(
    ("attribute", "value", "labels"),
    [
        ({"type": 4, "options": {"0": "jump", "1": "sit"}}, "1", ["sit"]),
        ({"type": 4, "options": {"default": "Default"}}, "jump", ["jump"]),
        ({"type": 1, "options": {}}, "free text, as typed", ["free text, as typed"]),
        ({"type": 2, "options": {"0": "jump", "1": "sit"}}, "0,1", ["jump", "sit"]),
    ],
)
def test_via_segments_of_every_kind_of_attribute_are_read(file, attribute, value, labels):
    (found,) = read_labels(file("a.json", via(attribute, value)))

    assert spans(found) == [(1.5, 2.25, label) for label in labels]


def test_via_regions_of_pictures_are_passed_over(file):
    (found,) = read_labels(file("a.json", via({"type": 1}, "jump", z=[1.5], xy=[2, 0, 0, 9, 9])))

    assert spans(found) == []


def test_via_project_in_which_the_label_is_not_clear_is_refused(file):
    project = json.loads(via({"type": 1}, "jump"))
    project["attribute"]["2"] = {"aname": "mood", "anchor_id": "FILE1_Z2_XY0", "type": 1}

    with pytest.raises(AnnotationError, match=r"temporal attributes are TEMPORAL-SEGMENTS, mood; expected one, or one"):
        read_labels(file("a.json", json.dumps(project)))


def test_boris_event_that_does_not_end_is_refused(file):
    project = json.loads(encode_labels([video(segment(1, 2), segment(5, 6))], "boris"))
    del project["observations"]["clip.mp4"]["events"][-1]

    with pytest.raises(AnnotationError, match=r"observations\.clip\.mp4: 'jump' starts at 5 s and does not end"):
        read_labels(file("a.boris", json.dumps(project)))


def test_boris_point_events_are_passed_over(file):
    project = json.loads(encode_labels([video(segment(1, 2))], "boris"))
    project["behaviors_conf"]["9"] = {"type": "Point event", "code": "click"}
    project["observations"]["clip.mp4"]["events"].append([3.0, "", "click", "", ""])

    assert spans(read_labels(file("a.boris", json.dumps(project)))[0]) == [(1, 2, "jump")]


# which format


@pytest.mark.parametrize(
    ("form", "expected"),
    [("truth", "json"), ("activitynet", "json"), ("labelstudio", "labelstudio"), ("via", "via"), ("boris", "boris")],
)
def test_json_is_told_apart_by_what_is_in_it(file, form, expected):
    assert format_of(file("a.json", encode_labels([video(segment(1, 2))], form))) == expected


def test_actions_json_is_read_with_its_full_paths(file):
    row = {"segment": [1, 2], "label": "jump", "score": 0.5}
    found = {
        "path": "x/a.mp4",
        "duration_s": 9.0,
        "start_s": 1.0,
        "source_fps": None,
        "sample_fps": 15,
        "actions": [row],
    }

    (read,) = read_labels(file("actions.json", json.dumps({"videos": [found]})))

    assert (read.name, read.duration_s, read.fps) == ("x/a.mp4", 10.0, 15)
    assert read.segments == (segment(1, 2, "jump", 0.5),)


def test_truth_of_all_subsets_keeps_them_and_the_lengths(file):
    rows = [{"segment": ["1.5", "2"], "label": "jump"}]  # THUMOS14 as JSON has strings
    database = {"a": {"duration": 9.5, "subset": "training", "annotations": rows}, "b": {"annotations": []}}

    found = read_labels(file("truth.json", json.dumps({"database": database})))

    assert [(each.name, each.duration_s, each.subset) for each in found] == [("a", 9.5, "training"), ("b", None, None)]
    assert spans(found[0]) == [(1.5, 2.0, "jump")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.doc", "x", r"a\.doc: unknown format; set it with `tallformer convert --from`: json, csv"),
        ("a.json", "{}", r'a\.json: has none of "database", "results" and "videos"'),
        ("a.json", '{"results": {"v": [{"segment": [1], "label": "x"}]}}', r"results\.v\[0\]: expected .segment."),
        ("a.json", '{"database": {"v": {"annotations": 3}}}', r"database\.v\.annotations: expected a list"),
        ("a.json", "{", "not JSON"),
    ],
)
def test_file_that_is_no_labels_is_refused(file, name, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file(name, content))


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match=r"a\.srt: no such file or directory"):
        read_labels(tmp_path / "a.srt")


def test_file_of_another_format_than_said_is_refused(file):
    with pytest.raises(AnnotationError, match='expected an object "metadata" in it; is it in another format'):
        read_labels(file("a.json", '{"database": {}}'), form="via")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.srt", "x" * 30_000),
        ("a.csv", f"video,start_s,end_s,label\n{'v' * 30_000},2,1,jump\n"),
        ("a.json", json.dumps({"database": {"v" * 30_000: {"annotations": [{"segment": [2, 1], "label": "jump"}]}}})),
    ],
    ids=["line", "name", "key"],
)
def test_message_about_a_long_line_or_name_is_shortened(file, name, text):
    path = file(name, text)

    with pytest.raises(AnnotationError) as caught:
        read_labels(path)

    assert len(str(caught.value)) < len(str(path)) + 600
