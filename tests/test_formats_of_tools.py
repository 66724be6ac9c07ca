"""Files as other tools write them: by the tool's own library where there is one, else by its published form."""

from __future__ import annotations

import gzip
import json
import warnings

import pytest

from tallformer_infer import cli
from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.formats import encode_labels, read_label_file, read_labels
from tests.label_samples import segment, spans, video

JUMP = [(1.5, 2.5, "jump")]


def by_name(found):
    return {each.name: spans(each) for each in found}


# subtitles


def test_markup_of_subtitles_that_pysubs2_writes_is_no_part_of_the_label(tmp_path):
    pysubs2 = pytest.importorskip("pysubs2")
    subtitles = pysubs2.SSAFile()
    for start, text in enumerate([r"{\i1}jump{\i0}", r"{\b1}run{\b0} {\u1}fast{\u0}", "sit"]):
        subtitles.append(pysubs2.SSAEvent(start=1000 * start, end=1000 * start + 500, text=text))
    subtitles.save(str(tmp_path / "a.srt"))
    subtitles.save(str(tmp_path / "a.vtt"))

    assert "<i>jump</i>" in (tmp_path / "a.srt").read_text()
    for name in ("a.srt", "a.vtt"):
        (found,) = read_labels(tmp_path / name)
        assert spans(found) == [(0.0, 0.5, "jump"), (1.0, 1.5, "run fast"), (2.0, 2.5, "sit")]


def test_pysubs2_reads_the_times_and_labels_that_are_written(tmp_path):
    pysubs2 = pytest.importorskip("pysubs2")
    for form in ("srt", "vtt"):
        path = tmp_path / f"a.{form}"
        path.write_bytes(encode_labels([video(segment(1.25, 3.5, "jump"), segment(3661.002, 3662, "sit"))], form))

        events = pysubs2.load(str(path))
        assert [(each.start, each.end, each.plaintext) for each in events] == [
            (1250, 3500, "jump"),
            (3661002, 3662000, "sit"),
        ]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("{\\an8}<i>jump</i>", "jump"),
        ('<font color="#ff0000">run</font>', "run"),
        ("<FONT COLOR=red><B>run</B></FONT>", "run"),
        ("<v Ann>jump</v>", "jump"),
        ("{i}jump{/i}", "jump"),
        ("<img src=x>", "<img src=x>"),
        ("a < b > c {3}", "a < b > c {3}"),
        (r"\u003ci>jump\u003c/i>", "<i>jump</i>"),
    ],
)
def test_markup_of_subrip_is_taken_off_and_nothing_else(file, text, label):
    (found,) = read_labels(file("a.srt", f"1\n00:00:01,500 --> 00:00:02,500 X1:1 X2:2\n{text}\n"))

    assert spans(found) == [(1.5, 2.5, label)]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_label_that_looks_like_markup_comes_back(file, form):
    labels = ["<i>jump</i>", "</font>", "{\\an8}up", "{b}", "<v Ann>", "<c.red>x</c>", "a<b", "<b"]
    before = video(*(segment(place, place + 0.5, label) for place, label in enumerate(labels)))

    (found,) = read_labels(file(f"a.{form}", encode_labels([before], form)))

    assert [each.label for each in found.segments] == labels


def test_header_of_hls_cue_settings_and_voices_are_passed_over(file):
    text = (
        "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\nKind: captions\n\n"
        "NOTE\twith a tab\n\n00:01.500 --> 00:02.500 align:start position:10%\n<v.loud Ann><c.red>jump</c></v>\n"
    )

    read = read_label_file(file("hls.vtt", text))

    assert spans(read.videos[0]) == JUMP
    assert "X-TIMESTAMP-MAP is ignored" in read.notes[0]


def test_vtt_without_an_empty_line_after_its_header_is_read(file):
    (found,) = read_labels(file("a.vtt", "WEBVTT\n00:01.500 --> 00:02.500\njump\n"))

    assert spans(found) == JUMP


def test_subtitles_in_utf_16_and_without_fractions_are_read(file):
    text = "1\r\n00:00:01 --> 00:00:02\r\nBüro\r\n".encode("utf-16")

    assert spans(read_labels(file("a.srt", text))[0]) == [(1.0, 2.0, "Büro")]


@pytest.mark.parametrize(
    ("name", "expected", "bare"),
    [("a.srt", "a", "a"), ("a.b.srt", "a.b", "a.b"), ("a.mp4.srt", "a.mp4", "a"), ("a.srt.gz", "a", "a")],
)
def test_labels_that_name_no_video_are_about_that_of_the_name_of_their_file(file, name, expected, bare):
    text = b"1\n00:00:01,500 --> 00:00:02,500\njump\n"

    (found,) = read_labels(file(name, gzip.compress(text) if name.endswith(".gz") else text))

    assert (found.name, found.bare_name, spans(found)) == (expected, bare, JUMP)


# tables


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=;\r\nvideo;start_s;end_s;label\r\na.mp4;1,5;2,5;jump\r\n"),
        ("a.csv", '"sep=|"\nvideo|start_s|end_s|label\na.mp4|1.5|2.5|jump\n'),
        ("a.csv", "video\tstart_s\tend_s\tlabel\r\na.mp4\t1.5\t2.5\tjump\r\n".encode("utf-16")),
        ("a.txt", "video\tstart_s\tend_s\tlabel\r\na.mp4\t1,5\t2,5\tjump\r\n".encode("utf-16")),
        ("a.tsv", "video\tstart_s\tend_s\tlabel\na.mp4\t1.5\t2.5\tjump\n"),
        ("a.csv", "Video,Start_s,End_s,Label\na.mp4,1.5,2.5,jump\n"),
        ("a.csv", "VIDEO , Start (s), End (s), Label \na.mp4,1.5,2.5,jump\n"),
        ("a.csv", 'path,start_s,end_s,label\na.mp4,"1,5","2,5",jump\n'),
        ("a.csv", "video,start,end,label\na.mp4,00:00:01.500,0:00:02.5,jump\n"),
        ("a.csv", 'video,start_s,end_s,label\na.mp4,00:01.5,"00:00:02,500",jump\n'),
        ("a.csv", "video,start_s,end_s,label,,\na.mp4,1.5,2.5,jump,,\n,,,,,\n"),
        ("a.csv", "video,start_s,end_s,label,score\na.mp4,1.5,2.5,jump\n"),
        ("a.csv", "\r\nvideo,start_s,end_s,label\r\na.mp4,1.5,2.5,jump\r\n"),
        ("a.csv", "Media file name,Behavior,Start (s),Stop (s)\na.mp4,jump,1.5,2.5\n"),
        ("a.jsonl", '{"path": "a.mp4", "start_s": 1.5, "end_s": 2.5, "label": "jump"}\n'),
        ("a.jsonl", '{"Video": "a.mp4", "Start_s": "1.5", "End_s": "00:00:02.5", "Label": "jump", "score": null}\n'),
    ],
)
def test_tables_as_spreadsheet_programs_and_scripts_leave_them_are_read(file, name, content):
    assert by_name(read_labels(file(name, content))) == {"a.mp4": JUMP}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,start,end,label\na.mp4,1500,2500,jump\n", "start and end have no unit; rename them to start_s"),
        (
            'video,start_s,end_s,label\na.mp4,"1,500",3,jump\n',
            r'line 2: expected start and end in seconds, got \["1,500"',
        ),
        ("video,start_s,end_s,label\na.mp4,1,2,jump,more\n", "line 2: has 5 cells, expected 4 as in the header"),
        ("sep=;\nvideo;start_s;end_s;label\n;1;2;jump\n", "line 3: has an empty video column"),
    ],
)
def test_table_that_can_be_read_in_two_ways_is_refused(file, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file("a.csv", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("start\tend\ttext\n1.5\t2.5\tjump\n", r"line 2: expected start and end in whole milliseconds .*start_s"),
        ("start\tend\tlabel\n1\t2\tjump\n", "start and end have no unit; rename them to start_s"),
    ],
)
def test_tsv_that_is_not_whispers_does_not_count_milliseconds(file, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file("a.tsv", content))


# ELAN


def eaf(tmp_path, build):
    pympi = pytest.importorskip("pympi")
    document = pympi.Elan.Eaf()
    document.remove_tier("default")
    document.add_linked_file("file:///x/sound.wav", mimetype="audio/x-wav")
    document.add_linked_file("file:///x/a.mp4", mimetype="video/mp4")
    build(document)
    path = tmp_path / "a.eaf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document.to_file(str(path))
    return path


def nested(document):
    document.add_linguistic_type("included", constraints="Included_In", timealignable=True)
    document.add_linguistic_type("remark", constraints="Symbolic_Association", timealignable=False)
    document.add_tier("trial")
    document.add_tier("action", ling="included", parent="trial")
    document.add_tier("remarks", ling="remark", parent="action")
    document.add_annotation("trial", 0, 9000, "trial 1")
    document.add_annotation("action", 1500, 2500, "jump")
    document.add_ref_annotation("remarks", "action", 1600, "well done")


def test_elan_tier_that_is_included_in_another_is_read(tmp_path):
    read = read_label_file(eaf(tmp_path, nested))

    assert by_name(read.videos) == {"a.mp4": [(0.0, 9.0, "trial 1"), (1.5, 2.5, "jump")]}
    assert "tiers without times of their own were skipped: remarks" in read.notes[0]


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [(["action"], JUMP), (["remarks"], [(1.5, 2.5, "well done")]), (["trial"], [(0, 9, "trial 1")])],
)
def test_elan_tiers_that_are_asked_for_are_read_alone(tmp_path, tiers, expected):
    read = read_label_file(eaf(tmp_path, nested), tiers=tiers)

    assert (spans(read.videos[0]), read.notes) == (expected, ())


def test_elan_tier_that_there_is_not_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(AnnotationError, match=r"has no tier 'actions'; it has 'trial', 'action', 'remarks'"):
        read_labels(eaf(tmp_path, nested), tiers=["actions"])


def test_elan_annotations_that_divide_another_without_times_share_it_evenly(file):
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{number}"{value}/>'
        for number, value in enumerate([' TIME_VALUE="1000"', "", "", ' TIME_VALUE="4000"'], start=1)
    )
    rows = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="ts{n}" TIME_SLOT_REF2="ts{n + 1}">'
        f"<ANNOTATION_VALUE>step {n}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for n in (1, 2, 3)
    )
    text = (
        f'<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds"/><TIME_ORDER>{slots}</TIME_ORDER>'
        f'<TIER TIER_ID="steps" LINGUISTIC_TYPE_REF="t" PARENT_REF="p">{rows}</TIER></ANNOTATION_DOCUMENT>'
    )

    (found,) = read_labels(file("a.eaf", text))

    assert spans(found) == [(1.0, 2.0, "step 1"), (2.0, 3.0, "step 2"), (3.0, 4.0, "step 3")]


def test_tier_on_the_command_line(tmp_path, capsys):
    path = eaf(tmp_path, nested)

    assert cli.run(["convert", str(path), "--tier", "action", "--to", "jsonl", "--out", "-"]) == 0
    shown = capsys.readouterr().out
    assert [json.loads(line)["label"] for line in shown.splitlines()] == ["jump"]

    assert cli.run(["convert", str(path), "--to", "jsonl", "--out", "-"]) == 0
    assert "`tallformer convert --tier NAME` reads one" in capsys.readouterr().err
    (tmp_path / "a.srt").write_text("")
    assert cli.run(["convert", str(tmp_path / "a.srt"), "--tier", "x", "--out", "-"]) == 2
    assert "--tier is for ELAN documents" in " ".join(capsys.readouterr().err.split())


# Label Studio


def task(data, *results, **more):
    return {"id": 1, "data": data, "annotations": [{"id": 1, "result": list(results)}], **more}


IN_SECONDS = {  # as the template "Video timeline segmentation" gives them
    "original_length": 60.0,
    "value": {"start": 1.5, "end": 2.5, "channel": 0, "labels": ["jump"]},
    "id": "r",
    "from_name": "tricks",
    "to_name": "audio",
    "type": "labels",
    "origin": "manual",
}
IN_FRAMES = {
    "id": "r",
    "from_name": "t",
    "to_name": "v",
    "type": "timelinelabels",
    "value": {"ranges": [{"start": 16, "end": 25}], "timelinelabels": ["jump"]},
}


@pytest.mark.parametrize(
    "tasks",
    [
        [task({"video": "a.mp4"}, IN_SECONDS)],
        [task({"video_url": "a.mp4"}, IN_SECONDS)],
        [task({"clip": "a.mp4", "fps": 10}, IN_FRAMES)],
        [task({"clip": "a.mp4", "note": "see b", "frameRate": "10"}, IN_FRAMES)],
        [task({"video": "a.mp4", "audio": "a.wav"}, IN_SECONDS)],
        [task({"video_file": "a.mp4", "audio_file": "a.wav"}, IN_SECONDS)],
        [task({"file": 7}, IN_SECONDS, file_upload="0a1b2c3d-a.mp4")],
        [
            task(
                {"video": "<video src='a.mp4' width=100% muted /><img src onerror='x()'>", "videoSource": "a.mp4"},
                IN_SECONDS,
            )
        ],
        [{"id": 1, "data": {"video": "a.mp4"}, "completions": [{"result": [IN_SECONDS]}]}],
        [{"id": 3, "video_url": "a.mp4", "tricks": [IN_SECONDS["value"]], "annotator": 1, "annotation_id": 2}],
        [{"id": 3, "video": "a.mp4", "fps": 10, "t": [IN_FRAMES["value"]], "annotator": 1}],
        task({"video": "a.mp4"}, IN_SECONDS),
        {"id": 9, "result": [IN_SECONDS], "task": {"id": 1, "data": {"video": "a.mp4"}}},
    ],
)
def test_label_studio_exports_of_every_form_are_read(file, tasks):
    assert by_name(read_labels(file("a.json", json.dumps(tasks)))) == {"a.mp4": JUMP}


@pytest.mark.parametrize(
    ("address", "name", "bare"),
    [
        ("/data/upload/1/3f2a1b9c-match.mp4", "match.mp4", "match"),
        ("/data/upload/3f2a1b9c-my%20match.mp4", "my match.mp4", "my match"),
        ("https://label.org/data/upload/12/3f2a1b9c-a-b.mp4?x=1", "a-b.mp4", "a-b"),
        ("/data/local-files/?d=videos/b%20c.mp4", "videos/b c.mp4", "b c"),
        ("https://h/x/e.mp4?X-Amz-Signature=ab.cd", "https://h/x/e.mp4", "e"),
        ("s3://bucket/x/e%20f.mp4", "s3://bucket/x/e f.mp4", "e f"),
        ("videos/100%.mp4", "videos/100%.mp4", "100%"),
    ],
)
def test_label_studio_addresses_become_names(file, address, name, bare):
    (found,) = read_labels(file("a.json", json.dumps([task({"video": address}, IN_SECONDS)])))

    assert (found.name, found.bare_name) == (name, bare)


def test_label_studio_uploads_of_one_name_stay_apart(file):
    tasks = [task({"video": f"/data/upload/1/{digit * 8}-a.mp4"}, IN_SECONDS) for digit in "ab"]

    read = read_label_file(file("a.json", json.dumps(tasks)))

    assert [each.name for each in read.videos] == [each["data"]["video"] for each in tasks]
    assert "another task also has a video a.mp4" in read.notes[0]


def test_label_studio_results_that_are_no_labels_in_time_are_named(file):
    box = {"type": "videorectangle", "value": {"sequence": [], "labels": ["jump"]}}
    text = {"type": "labels", "value": {"start": 0, "end": 4, "text": "jump", "labels": ["word"]}}
    choice = {"type": "choices", "value": {"choices": ["good"]}}

    read = read_label_file(file("a.json", json.dumps([task({"video": "a.mp4"}, IN_SECONDS, box, box, text, choice)])))

    assert spans(read.videos[0]) == JUMP
    assert read.notes[0].endswith(
        "results that are not temporal labels were skipped: 1 choices, 1 labels, 2 videorectangle"
    )


def test_label_studio_task_keeps_the_name_it_was_made_with(file):
    tasks = json.loads(encode_labels([video(segment(1, 2), name="x/a b%20.mp4")], "labelstudio"))
    tasks[0]["data"]["video"] = "/data/upload/1/3f2a1b9c-a_b20.mp4"

    assert [each.name for each in read_labels(file("a.json", json.dumps(tasks)))] == ["x/a b%20.mp4"]


def test_label_studio_task_of_several_videos_is_refused(file):
    tasks = [task({"left_video": "a.mp4", "right_video": "b.mp4"}, IN_SECONDS)]

    with pytest.raises(
        AnnotationError, match=r"task 1: cannot tell which of its data is the video \(left_video, right"
    ):
        read_labels(file("a.json", json.dumps(tasks)))


# BORIS


def boris(files, times, **changes):
    """A project of BORIS 8: events count through the queue of files, with the time offset added."""
    project = json.loads(encode_labels([video(name="x.mp4")], "boris"))
    project["behaviors_conf"] = {"0": {"type": "State event", "key": "j", "code": "jump"}}
    events = [[time, "", "jump", "", "", "NA"] for time in times]
    info = {"length": dict.fromkeys(files, 60.0), "fps": dict.fromkeys(files, 25.0)}
    info |= {"media_creation_time": dict.fromkeys(files, 1000.0)}
    project["observations"] = {
        "o": {
            "file": {"1": files},
            "type": "MEDIA",
            "time offset": 0.0,
            "events": events,
            "media_info": info,
            **changes,
        }
    }
    return project


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        (boris(["a.mp4"], [91.5, 92.5], **{"time offset": 90.0}), {"a.mp4": JUMP}),
        (boris(["a.mp4"], [-8.5, -7.5], **{"time offset": -10}), {"a.mp4": JUMP}),
        (boris(["a.mp4"], [1001.5, 1002.5], media_creation_date_as_offset=True), {"a.mp4": JUMP}),
        (boris(["a.mp4", "b.mp4"], [1.5, 2.5, 61.5, 62.5]), {"a.mp4": JUMP, "b.mp4": JUMP}),
        (boris(["a.mp4", "b.mp4"], [59, 61]), {"a.mp4": [(59, 60, "jump")], "b.mp4": [(0, 1, "jump")]}),
        (boris(["a.mp4", "b.mp4"], [60, 61]), {"a.mp4": [], "b.mp4": [(0, 1, "jump")]}),
        (boris(["a.mp4", "b.mp4"], [59, 60]), {"a.mp4": [(59, 60, "jump")], "b.mp4": []}),
        (boris(["a.mp4"], [1.5, 2.5], file={"1": [], "2": ["a.mp4"]}), {"a.mp4": JUMP}),
    ],
)
def test_boris_events_are_found_in_their_files(file, project, expected):
    assert by_name(read_labels(file("a.boris", json.dumps(project)))) == expected


def test_boris_project_that_is_packed_or_of_windows_is_read(file):
    project = json.dumps(boris([r"C:\Users\me\a.mp4"], [1.5, 2.5]))

    for path in (
        file("a.boris.gz", gzip.compress(project.encode())),
        file("b.json.gz", gzip.compress(project.encode())),
    ):
        (found,) = read_labels(path)
        assert (found.bare_name, spans(found)) == ("a", JUMP)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"{}" * 100, mtime=0)[:20]], ids=["other", "cut"])
def test_packed_file_that_is_damaged_is_refused(file, content):
    with pytest.raises(AnnotationError, match=r"a\.boris\.gz: not gzip, or truncated"):
        read_labels(file("a.boris.gz", content))


def test_boris_observations_without_a_video_are_named(file):
    project = boris(["a.mp4"], [1.5, 2.5])
    project["observations"]["seen"] = {"type": "LIVE", "file": [], "events": [[1.0, "", "jump", "", ""]]}
    project["observations"]["again"] = project["observations"]["o"]

    read = read_label_file(file("a.boris", json.dumps(project)))

    assert by_name(read.videos) == {"a.mp4": JUMP * 2}
    assert "observations.seen: has no video" in read.notes[0]
    assert "observations.again: a.mp4 is also in observations.o" in read.notes[1]


def test_boris_queue_without_lengths_is_refused(file):
    project = boris(["a.mp4", "b.mp4"], [61, 62])
    del project["observations"]["o"]["media_info"]["length"]["a.mp4"]

    with pytest.raises(AnnotationError, match=r"observations\.o: has no duration for a\.mp4"):
        read_labels(file("a.boris", json.dumps(project)))


_TABULAR = (
    "Observation id,Observation date,Description,Observation duration,Observation type,Source,Time offset (s),"
    "Media duration (s),FPS,Subject,Behavior,Behavioral category,Behavior type,Time,Media file name,Image index,"
    "Image file path,Comment"
)
_AGGREGATED = (
    "Observation id,Observation date,Description,Observation type,Source,Time offset (s),Coding duration,"
    "Media duration (s),FPS (frame/s),Subject,Observation duration by subject by observation,Behavior,"
    "Behavioral category,Behavior type,Start (s),Stop (s),Duration (s),Media file name,Image index start,"
    "Image index stop,Image file path start,Image file path stop,Comment start,Comment stop"
)
_QUEUE = "player #1:x/a b.mp4;y/c.mp4,100,10.000;10.000,25.000;25.000"
_QUEUED = "player #1:x/a b.mp4;y/c.mp4,100,11.500,10.000;10.000,25.000;25.000"
TABULAR = "\n".join(
    [
        _TABULAR,
        *(
            f"queue,1970-01-01 00:00:00,,11.5,Media file(s),{_QUEUE},{event}"
            for event in (
                ",jump,,START,101.500,Not found,NA,NA,",
                "overlap 2,jump,,START,103.000,Not found,NA,NA,",
                ",jump,,STOP,103.250,Not found,NA,NA,",
                "overlap 2,jump,,STOP,105.000,Not found,NA,NA,",
                ',blink,,POINT,106.000,Not found,NA,NA,"note, with comma"',
                ",wave,,START,112.500,Not found,NA,NA,",
                ",wave,,STOP,113.000,Not found,NA,NA,",
            )
        ),
    ]
)
AGGREGATED = "\n".join(
    [
        _AGGREGATED,
        *(
            f"queue,1970-01-01 00:00:00,,Media file,{_QUEUED},{event},NA,NA,,,,"
            for event in (
                "No focal subject,2.25,jump,Not defined,STATE,101.500,103.250,1.750,Not found",
                "No focal subject,2.25,wave,Not defined,STATE,112.500,113.000,0.500,Not found",
                "No focal subject,2.25,blink,Not defined,POINT,106.000,106.000,NA,Not found",
                "overlap 2,2.0,jump,Not defined,STATE,103.000,105.000,2.000,Not found",
            )
        ),
    ]
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tabular.csv", TABULAR),
        ("tabular.tsv", TABULAR.replace('"note, with comma"', "note").replace(",", "\t")),
        ("aggregated.csv", AGGREGATED),
        ("aggregated.txt", AGGREGATED.replace(",", "\t")),
    ],
)
def test_tables_that_boris_exports_are_read_in_the_time_of_each_file(file, name, content):
    """Rows as BORIS 8.27.4 wrote them for two files in a queue and a time offset of 100 s."""
    read = read_label_file(file(name, content))

    assert (read.form, read.notes) == ("boris", ())
    assert by_name(read.videos) == {
        "x/a b.mp4": [(1.5, 3.25, "jump"), (3, 5, "jump")],
        "y/c.mp4": [(2.5, 3, "wave")],
    }
    assert {(found.duration_s, found.fps) for found in read.videos} == {(10.0, 25.0)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABULAR.replace("STOP,113.000", "START,113.000").rpartition("\n")[0], "'wave' starts at 112.5 s and does not"),
        (TABULAR.replace("112.500", "soon"), r"line 7: expected times in seconds, got \[\"soon\"\]"),
        (TABULAR.replace("POINT", "blob"), 'line 6: expected START, STOP, STATE or POINT as behavior type, got "BLOB"'),
        (TABULAR.partition(",START")[0], 'line 2: expected START, STOP, STATE or POINT as behavior type, got ""'),
        (AGGREGATED.replace("10.000;10.000", "NA;NA"), r"has no duration for x/a b\.mp4"),
    ],
    ids=["no end", "time", "type", "cut off", "length"],
)
def test_tables_of_boris_that_are_wrong_are_refused(file, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(file("events.csv", content))


# chapters


def test_chapters_that_ffmpeg_writes_are_read(file):
    text = (
        ";FFMETADATA1\ntitle=a\\=b\nencoder=Lavf62\n[STREAM]\nlanguage=eng\n"
        "[CHAPTER]\nTIMEBASE=1/1000000000\nSTART=1500000000\nEND=2500000000\ntitle=jump\\; high\\\nand far\n"
        "[CHAPTER]\nTIMEBASE=1/25\nSTART=75\nEND=100\ntitle=sit\n"
    )

    (found,) = read_labels(file("a.txt", text))

    assert spans(found) == [(1.5, 2.5, "jump; high\nand far"), (3.0, 4.0, "sit")]
