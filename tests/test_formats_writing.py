"""Files that were written are read by the programs of others; where a format is a program's own, by its own parser."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import warnings
import xml.etree.ElementTree as ET

import av
import pytest

from tallformer_infer.archive.results import check_formats
from tallformer_infer.errors import OutputError
from tallformer_infer.labels.formats import FOR_RESULTS, FORMATS, WRITABLE, encode_labels, notes_on
from tallformer_infer.labels.segments import labelled_video
from tests.label_samples import ODD_LABELS, segment, video
from tests.result_samples import action, result

TWO = (segment(1.25, 3.5, "jump", 0.75), segment(3661.002, 3662, "sit <down> & rest", 0.5))
ODD = video(*(segment(2 * place, 2 * place + 1.5, label, 0.5) for place, label in enumerate(ODD_LABELS)))


def text_of(found, form, **options):
    return encode_labels([found], form, **options).decode()


@pytest.fixture
def written(tmp_path):
    """Write a file, and give its path."""

    def write(found, form):
        path = tmp_path / f"labels{FORMATS[form].suffix}"
        path.write_bytes(encode_labels([found], form, folder=tmp_path))
        return path

    return write


def subtitles_by_ffmpeg(path):
    with av.open(str(path)) as file:
        stream = file.streams.subtitles[0]
        return [
            (float(packet.pts * packet.time_base), float(packet.duration * packet.time_base), bytes(packet).decode())
            for packet in file.demux(stream)
            if packet.size
        ]


def test_formats_of_results_are_accepted_before_there_is_one():
    check_formats(FOR_RESULTS)  # Label Studio's too, whose frames need the rate of a video


def test_srt_is_what_people_expect():
    assert text_of(video(*TWO), "srt") == (
        "1\n00:00:01,250 --> 00:00:03,500\njump\nscore 0.75\n\n"
        "2\n01:01:01,002 --> 01:01:02,000\nsit <down> & rest\nscore 0.5\n\n"
    )


def test_vtt_has_references_for_what_would_be_a_tag():
    assert text_of(video(*TWO), "vtt") == (
        "WEBVTT\n\n00:00:01.250 --> 00:00:03.500\njump\nscore 0.75\n\n"
        "01:01:01.002 --> 01:01:02.000\nsit &lt;down&gt; &amp; rest\nscore 0.5\n\n"
    )


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_ffmpeg_finds_every_cue_at_its_time(written, form):
    cues = subtitles_by_ffmpeg(written(ODD, form))

    assert [(start, length) for start, length, _ in cues] == [
        (2.0 * place, pytest.approx(1.5)) for place in range(len(ODD_LABELS))
    ]
    assert all(len(text.strip().split("\n")) == 2 for _, _, text in cues)


def test_csv_as_python_reads_it_has_no_cell_that_a_spreadsheet_would_compute(written):
    with written(dataclasses.replace(ODD, name="=cmd()|x.mp4"), "csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == len(ODD_LABELS)
    for row in rows:
        assert not re.match(r"\s*[=+\-@]|[\t\r\n]", row["label"])
        assert row["video"] == "'=cmd()|x.mp4"


def test_tsv_begins_with_the_columns_of_whisper():
    assert text_of(video(*TWO), "tsv") == (
        "start\tend\ttext\tscore\tvideo\n1250\t3500\tjump\t0.75\tclip.mp4\n"
        "3661002\t3662000\tsit <down> & rest\t0.5\tclip.mp4\n"
    )


def test_json_lines_are_one_object_each():
    rows = [json.loads(line) for line in text_of(ODD, "jsonl").split("\n")[:-1]]

    assert [row["label"] for row in rows] == list(ODD_LABELS)


def test_chapters_are_those_that_ffmpeg_reads(written):
    path = written(ODD, "ffmetadata")

    with av.open(str(path), format="ffmetadata") as file:
        chapters = file.chapters()

    assert [chapter["start"] for chapter in chapters] == [2000 * place for place in range(len(ODD_LABELS))]
    titles = [chapter["metadata"]["title"] for chapter in chapters]
    plain = [label for label in ODD_LABELS if not re.search(r"[\x00\r\ud800-\udfff\\]", label)]
    assert [title for title in titles if title in plain] == plain


def test_elan_document_is_read_by_pympi(written):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pympi.Elan import Eaf  # noqa: PLC0415 (it warns when it is imported)

        document = Eaf(str(written(video(*TWO, segment(2, 4, "jump")), "eaf")))

    assert document.get_annotation_data_for_tier("jump") == [(1250, 3500, "jump")]
    assert document.get_annotation_data_for_tier("jump #2") == [(2000, 4000, "jump")]
    assert document.get_ref_annotation_data_for_tier("jump score") == [(1250, 3500, "0.750000", "jump")]
    assert document.get_annotation_data_for_tier("sit <down> & rest") == [(3661002, 3662000, "sit <down> & rest")]


def test_elan_tiers_and_annotations_have_names_of_their_own(written):
    overlapping = [segment(1, 5, label) for label in ("jump", "jump #2", "jump score") for _ in range(3)]

    root = ET.parse(written(video(*overlapping), "eaf")).getroot()

    for tag, attribute in (("TIER", "TIER_ID"), ("TIME_SLOT", "TIME_SLOT_ID")):
        names = [each.get(attribute) for each in root.iter(tag)]
        assert len(names) == len(set(names)) > 0
    last = root.find("HEADER/PROPERTY[@NAME='lastUsedAnnotationId']")
    assert last.text == str(len(overlapping))


def test_elan_document_keeps_the_rules_of_its_schema(written):
    """Those of EAF 3.0 that concern what is written: order, required attributes, identities and references."""
    required = {
        "ANNOTATION_DOCUMENT": {"DATE", "AUTHOR", "VERSION"},
        "MEDIA_DESCRIPTOR": {"MEDIA_URL", "MIME_TYPE"},
        "TIME_SLOT": {"TIME_SLOT_ID"},
        "TIER": {"TIER_ID", "LINGUISTIC_TYPE_REF"},
        "ALIGNABLE_ANNOTATION": {"ANNOTATION_ID", "TIME_SLOT_REF1", "TIME_SLOT_REF2"},
        "REF_ANNOTATION": {"ANNOTATION_ID", "ANNOTATION_REF"},
        "LINGUISTIC_TYPE": {"LINGUISTIC_TYPE_ID"},
        "CONSTRAINT": {"STEREOTYPE"},
    }
    root = ET.parse(written(ODD, "eaf")).getroot()
    elements = list(root.iter())

    assert all(required.get(each.tag, set()) <= set(each.attrib) for each in elements)
    order = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE", "CONSTRAINT"]
    assert [each.tag for each in root] == sorted((each.tag for each in root), key=order.index)
    identities = [each.get(name) for each in elements for name in ("TIME_SLOT_ID", "ANNOTATION_ID", "STEREOTYPE")]
    known = [identity for identity in identities if identity is not None]
    assert len(known) == len(set(known))
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", identity) for identity in known)
    references = ("TIME_SLOT_REF1", "TIME_SLOT_REF2", "ANNOTATION_REF", "CONSTRAINTS")
    assert {each.get(name) for each in elements for name in references} - {None} <= set(known)
    names = {each.get(name) for each in elements for name in ("TIER_ID", "LINGUISTIC_TYPE_ID")}
    assert {each.get(name) for each in elements for name in ("PARENT_REF", "LINGUISTIC_TYPE_REF")} <= names
    assert all(0 <= int(slot.get("TIME_VALUE")) < 2**32 for slot in root.iter("TIME_SLOT"))


def test_elan_finds_the_video_from_where_the_file_lies(tmp_path):
    found = video(*TWO, name=str(tmp_path / "videos" / 'a "b" <c>.mp4'))

    root = ET.fromstring(text_of(found, "eaf", folder=tmp_path / "labels"))

    media = next(root.iter("MEDIA_DESCRIPTOR"))
    assert media.get("RELATIVE_MEDIA_URL") == "../videos/a%20%22b%22%20%3Cc%3E.mp4"
    assert media.get("MEDIA_URL") == (tmp_path / "videos" / 'a "b" <c>.mp4').as_uri()
    assert media.get("MIME_TYPE") == "video/mp4"


def test_label_studio_task_has_frames_from_one_with_both_ends(written):
    (task,) = json.loads(
        written(video(segment(1, 2, "jump", 0.5), segment(0, 0.04), fps=25), "labelstudio").read_text()
    )

    regions = task["predictions"][0]["result"]
    assert [region["value"]["ranges"] for region in regions] == [[{"start": 1, "end": 1}], [{"start": 26, "end": 50}]]
    assert {region["type"] for region in regions} == {"timelinelabels"}
    assert task["data"]["fps"] == 25


def test_label_studio_needs_to_know_the_frame_rate():
    with pytest.raises(OutputError, match=r"clip\.mp4: Label Studio counts frames, .* --fps"):
        encode_labels([video(segment(1, 2), fps=None)], "labelstudio")


def test_label_studio_configuration_names_every_label_once(written):
    root = ET.parse(written(video(*TWO, *TWO), "labelstudio-config")).getroot()

    assert [label.get("value") for label in root.iter("Label")] == ["jump", "sit <down> & rest"]


def test_label_studios_own_sdk_accepts_tasks_and_configuration():
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="needs label-studio-sdk")
    known = [label for label in ODD_LABELS if label.isprintable() and label.strip() == label]
    found = video(*(segment(2 * place, 2 * place + 1.5, label, 0.5) for place, label in enumerate(known)))
    config = interface.LabelInterface(text_of(found, "labelstudio-config"))
    (task,) = json.loads(text_of(found, "labelstudio"))

    assert config.validate_prediction(task["predictions"][0], return_errors=True) == []
    assert config.validate_task({"data": task["data"]})  # with predictions its version 2.1 calls itself wrongly


def test_via_points_every_segment_to_a_view_a_file_and_an_option():
    project = json.loads(text_of(ODD, "via"))

    assert project["project"]["vid_list"] == list(project["view"]) == ["1"]
    for row in project["metadata"].values():
        assert project["file"][project["view"][row["vid"]]["fid_list"][0]]["fname"] == "clip.mp4"
        assert row["av"]["1"] in project["attribute"]["1"]["options"]
        assert row["xy"] == []


def test_boris_notes_every_code_an_even_number_of_times_and_never_twice_at_once():
    overlapping = [segment(1, 5), segment(1, 5), segment(5, 6), segment(2, 3, "sit")]

    project = json.loads(text_of(video(*overlapping), "boris"))

    events = project["observations"]["clip.mp4"]["events"]
    states = [(event[0], event[1], event[2]) for event in events]
    assert len(states) == len(set(states)) == 8
    subjects = {each["name"] for each in project["subjects_conf"].values()} | {""}
    assert {subject for _, subject, _ in states} == subjects


def test_boris_itself_opens_the_project_and_pairs_its_events(written, monkeypatch):
    monkeypatch.setattr("sys.argv", ["boris"])  # which it reads when it is imported
    functions = pytest.importorskip("boris.project_functions", reason="needs boris-behav-obs and what it needs")

    _, _, project, message = functions.open_project_json(str(written(video(*TWO, segment(2, 4)), "boris")))

    assert "error" not in project, project
    (identity,) = project["observations"]
    assert functions.check_state_events_obs(
        identity, project["behaviors_conf"], project["observations"][identity], "s"
    ) == (True, "No problem detected"), message


@pytest.fixture
def otio():
    return pytest.importorskip("opentimelineio", reason="needs the extra editing")


def test_timeline_has_every_action_at_its_place(otio):
    found = video(segment(1, 2), segment(1.52, 3, score=0.5), segment(4, 5), segment(0, 1, "sit"))

    timeline = otio.adapters.read_from_string(text_of(found, "otio"), "otio_json")

    places = {
        (clip.name, clip.range_in_parent().start_time.to_seconds(), clip.range_in_parent().duration.to_seconds())
        for clip in timeline.find_clips()
    }
    assert places == {("jump", 1, 1), ("jump", 1.52, 1.48), ("jump", 4, 1), ("sit", 0, 1)}
    assert [track.name for track in timeline.tracks] == ["sit", "jump", "jump"]


@pytest.mark.parametrize("fps", [24000 / 1001, 25, 30000 / 1001, 15, 12.5, 59.94, 119.88, 1000, None])
def test_edit_list_has_an_event_for_every_action(otio, fps):
    found = dataclasses.replace(ODD, fps=fps)

    timeline = otio.adapters.read_from_string(
        text_of(found, "edl"),
        "cmx_3600",
        rate=otio.opentime.RationalTime.nearest_smpte_timecode_rate(fps or 25),
        ignore_timecode_mismatch=True,
    )

    clips = list(timeline.find_clips())
    assert len(clips) == len(ODD_LABELS)
    for place, clip in enumerate(clips):
        assert clip.source_range.start_time.to_seconds() == pytest.approx(2 * place, abs=0.15)
        assert clip.source_range.duration.to_seconds() == pytest.approx(1.5, abs=0.1)


def test_final_cut_xml_has_a_clip_for_every_action(otio):
    content = text_of(ODD, "fcp7")

    clips = list(otio.adapters.read_from_string(content, "fcp_xml").find_clips())

    assert len(clips) == len(ODD_LABELS)
    assert ET.fromstring(content).tag == "xmeml"
    assert "<img src=x onerror=alert(1)>" in {clip.name for clip in clips}


@pytest.mark.parametrize("form", [form for form, facts in FORMATS.items() if facts.holds_one_video])
def test_format_of_one_video_refuses_two(form):
    with pytest.raises(OutputError, match=f"{form} holds one video per file, got 2"):
        encode_labels([video(), video()], form)


@pytest.mark.parametrize("form", ["truth", "activitynet"])
def test_two_videos_of_one_name_are_refused(form):
    with pytest.raises(OutputError, match=r"x/a\.mp4 and y/a\.mov: both would be 'a'"):
        encode_labels([video(name="x/a.mp4"), video(name="y/a.mov")], form)


def test_action_before_zero_is_told_where_a_format_cannot_hold_it():
    early = [video(segment(-0.5, 1), segment(2, 3))]

    assert notes_on(early, "srt") == ("srt has no negative times: 1 action starts at 0 instead",)
    assert notes_on(early, "csv") == ()
    assert notes_on([video(segment(0, 1))], "srt") == ()
    assert b"00:00:00,000 --> 00:00:01,000" in encode_labels(early, "srt")


@pytest.mark.parametrize("form", sorted(WRITABLE))
def test_same_actions_give_the_same_bytes_in_any_order(form):
    if form in ("otio", "edl", "fcp7"):
        pytest.importorskip("opentimelineio", reason="needs the extra editing")
    turned = dataclasses.replace(ODD, segments=ODD.segments[::-1])

    if form != "activitynet":  # which sorts by score, and these are all equal
        assert encode_labels([turned], form) == encode_labels([ODD], form)
    assert encode_labels([ODD], form) == encode_labels([ODD], form)


def test_result_becomes_labels_on_the_time_line_of_the_file():
    found = labelled_video(result("x/a.mp4", (action(1.0, 2.0, "wave", 0.5),)))

    assert (found.name, found.duration_s, found.fps) == ("x/a.mp4", 10.0, 30.0)
    assert found.segments == (segment(1.0, 2.0, "wave", 0.5),)


def test_number_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_labels([video(dataclasses.replace(segment(1, 2), end_s=math.inf))], "truth")
