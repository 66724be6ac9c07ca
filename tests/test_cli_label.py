"""`tallformer label` and `tallformer archive` as users meet them."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from pathlib import Path

import pytest
import typer

from tallformer_infer import cli
from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.queries import EXPORT_FORMATS, ActionFilter
from tallformer_infer.archive.run import Plan
from tallformer_infer.archive.tasks import Alive, Totals
from tallformer_infer.commands import label as label_command
from tallformer_infer.commands import progress
from tallformer_infer.commands.options import given_options
from tallformer_infer.commands.report import archive_rows
from tallformer_infer.results import Selection
from tallformer_infer.structures import Action
from tests.archive_runs import content_of
from tests.pages import Elements
from tests.videos import cut_short, damage, textured_pictures, write_video
from tests.web_server import serve


def write(path, seconds, seed):
    return write_video(path, textured_pictures(seconds * 15, height_px=64, width_px=64, seed=seed), fps=15)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "a.mp4", 6, 1)
    write(folder / "=1+1.mp4", 8, 2)
    (folder / "text.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def archive(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("archive") / "labels"
    assert cli.run(["label", str(videos), "--out", str(out), "--quiet", "--operating-point", "none"]) == 1
    return out


def run(capsys, *arguments):
    code = cli.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_run_says_what_there_is_to_do_and_what_was_done(videos, tmp_path, capsys):
    code, shown, said = run(capsys, "label", videos, "--out", tmp_path / "out")

    assert (code, shown) == (1, "")
    lines = said.splitlines()
    assert any(re.fullmatch(r"tallformer: 3 videos to label; \d+ workers?", line) for line in lines[:2])
    assert f"tallformer: error: {videos / 'text.mp4'}: cannot be opened as video" in said
    assert [line.split() for line in lines if line.startswith(("labelled", "failed "))] == [
        ["labelled", "2"],
        ["failed", "1"],
    ]


def test_quiet_run_says_only_what_failed(videos, tmp_path, capsys):
    _, _, said = run(capsys, "label", videos, "--out", tmp_path / "out", "--quiet")

    (line,) = [line for line in said.splitlines() if "warning: demo is a sample model" not in line]
    assert "error:" in line


def test_a_sample_model_says_what_it_is_for_and_warns_once_on_other_footage(videos, tmp_path, capsys):
    options = ("--out", tmp_path / "out", "--model", "demo")
    _, _, said = run(capsys, "label", videos, *options)
    _, _, logged = run(capsys, "label", videos, "--out", tmp_path / "other", "--model", "demo", "--json-logs")

    assert said.startswith("tallformer: model demo: Sample model for trying the commands.")
    assert said.count("warning: demo is a sample model for generated videos and does not work on real footage") == 1
    events = [json.loads(line) for line in logged.splitlines()]
    assert "does not work on real footage" in events[0]["intended_use"]
    assert [event["event"] for event in events if "is a sample model" in event.get("message", "")] == ["warning"]


def test_run_for_programs_writes_json(videos, tmp_path, capsys):
    _, _, said = run(capsys, "label", videos, "--out", tmp_path / "out", "--json-logs")

    events = [json.loads(line) for line in said.splitlines()]
    names = [event["event"] for event in events]
    assert names[:2] == ["loaded", "planned"]
    assert names.count("video_done") == 2
    assert names.count("video_failed") == 1
    assert events[-1]["event"] == "finished"
    assert events[-1]["clips_encoded"] == 3 + 4


def test_run_with_nothing_left_is_exit_code_0_and_does_not_load_the_model(videos, tmp_path, capsys):
    run(capsys, "label", videos / "a.mp4", "--out", tmp_path / "out")
    began_s = time.monotonic()

    code, _, said = run(capsys, "label", videos / "a.mp4", "--out", tmp_path / "out")

    assert code == 0
    assert "0 videos to label, 1 done before" in said
    assert time.monotonic() - began_s < 3


def test_options_of_the_detector_reach_the_workers(videos, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(label_command, "_run", lambda parts, *_, **__: seen.append(parts.settings) or 0)
    options = "--device cpu --precision fp32 --threads 3 --workers 1 --hwaccel auto --windows reference --threshold 0.3"
    more = "--top-k 5 --classes orbit --operating-point none --skip-static 2 --allow-protocol SFTP --timeout-factor 7"

    code, _, said = run(capsys, "label", videos, "--out", tmp_path / "out", *options.split(), *more.split())

    assert code == 0, said
    (got,) = seen
    assert (got.device, got.precision, got.threads, got.hwaccel) == ("cpu", "fp32", 3, "auto")
    assert (got.layout.windows, got.static_tolerance, got.longest_factor) == ("reference", 2, 7)
    assert got.selection == Selection(threshold=0.3, top_k=5, classes=("orbit",), operating_point=None)
    assert "sftp" in got.protocols


def test_failure_of_before_is_still_exit_code_1(videos, archive, capsys):
    code, _, said = run(capsys, "label", videos, "--out", archive, "--operating-point", "none")

    assert code == 1
    assert "2 done before, 1 failed before" in said


def test_one_process_can_own_the_device_for_all_workers(videos, archive, tmp_path, capsys):
    run(capsys, "label", videos, "--out", tmp_path / "out", "--quiet", "--operating-point", "none", "--share-device")

    assert content_of(tmp_path / "out") == content_of(archive)


def test_several_forms_of_result_files(videos, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, "label", videos / "a.mp4", "--out", out)

    code, _, said = run(
        capsys, "label", videos / "a.mp4", "--out", out, "--format", "json,activitynet", "-f", "srt,via"
    )

    assert code == 0
    assert "from stored candidates" in said
    assert {path.name for path in (out / "results").iterdir()} == {
        "a.mp4.json",
        "a.mp4.activitynet.json",
        "a.mp4.srt",
        "a.mp4.via.json",
    }


def test_html_is_a_page_per_video_and_an_index_that_leads_to_them(videos, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, "label", videos, "--out", out, "--device", "cpu")  # the same results as files, and no index
    assert not (out / "index.html").exists()

    code, _, said = run(capsys, "label", videos, "--out", out, "--device", "cpu", "--format", "json,html")

    assert code == 1  # text.mp4 is no video
    assert f"open {out / 'index.html'} to look at the results" in " ".join(said.split()).replace("- ", "-")
    rows = {Path(row[0]).name: row for row in data(out / "index.html")["rows"]}
    assert {name: row[5] for name, row in rows.items()} == {
        "a.mp4": "results/a.mp4.html",
        "=1+1.mp4": "results/%3D1%2B1.mp4.html",
        "text.mp4": None,
    }
    page = out / "results" / "a.mp4.html"
    (video,) = data(page)["videos"]
    assert (page.parent / video["source"]).resolve() == videos / "a.mp4"
    written = json.loads((out / "results" / "a.mp4.json").read_text())["videos"][0]["actions"]
    assert len(video["actions"]) == len(written)
    assert video["fps"] == 15

    run(capsys, "report", out, "--out", tmp_path / "elsewhere.html")
    links = [row[5] for row in data(tmp_path / "elsewhere.html")["rows"]]
    assert sorted(link for link in links if link) == ["out/results/%3D1%2B1.mp4.html", "out/results/a.mp4.html"]


def data(page):
    return json.loads(Elements(page.read_bytes()).scripts["data"])


def test_video_behind_an_address_is_labelled(videos, tmp_path, capsys):
    with serve() as site:
        site.files["/some/a.mp4"] = (videos / "a.mp4").read_bytes()
        code, _, said = run(capsys, "label", f"{site.address}/some/a.mp4", "--out", tmp_path / "out")

    assert code == 0, said
    assert (tmp_path / "out" / "results" / "a.mp4.json").is_file()


def test_videos_behind_another_kind_of_address_are_labelled(videos, archive, tmp_path, capsys):
    pytest.importorskip("fsspec")
    code, _, said = run(capsys, "label", f"file://{videos}", "--out", tmp_path / "out", "--operating-point", "none")

    assert code == 1, said
    found, expected = (
        {row["name"]: (row["status"], row["actions"]) for row in content_of(out)[0].values()}
        for out in (tmp_path / "out", archive)
    )
    assert found == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "docx"], "--format docx: no such format; there are json, html, activitynet"),
        (["--threshold", "2"], "Input should be less than or equal to 1"),
        (["--classes", "swim"], "class 'swim': no such class"),
        (["--operating-point", "best"], "operating point 'best': no such point"),
    ],
)
def test_option_that_cannot_be_is_refused_before_anything_is_made(videos, tmp_path, capsys, options, message):
    code, _, said = run(capsys, "label", videos, "--out", tmp_path / "out", *options)

    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


def test_source_that_cannot_be_listed_is_one_line(tmp_path, capsys):
    code, _, said = run(capsys, "label", tmp_path / "*.mp4", "--out", tmp_path / "out")

    assert code == 1
    assert said == f"tallformer: error: {tmp_path}/*.mp4: nothing matches this pattern\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "host:6379"], "--address: has no effect with --engine processes"),
        (["--gpu-fraction", "0.5"], "--gpu-fraction: has no effect with --engine processes"),
        (["--engine", "ray", "--memory-gb", "4"], "--memory-gb: has no effect with --engine ray"),
        (["--engine", "ray", "--gpus", "2"], "--gpus: has no effect with --engine ray"),
        (["--engine", "ray", "--no-share-device"], "--no-share-device: has no effect with --engine ray"),
        (["--device", "cpu", "--gpus", "2"], "--gpus: has no effect with --device cpu"),
        (["--gpus", "2", "--no-share-device"], "--gpus: has no effect with --no-share-device"),
        (["--workers", "2", "--memory-gb", "4"], "--memory-gb: has no effect with --workers"),
        (["--store", "there", "--store-gb", "0"], "--store: has no effect with --store-gb 0"),
    ],
)
def test_option_that_would_be_ignored_is_refused(videos, tmp_path, capsys, options, message):
    code, _, said = run(capsys, "label", videos, "--out", tmp_path / "out", *options)

    assert (code, message in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_missing_file_is_reported_before_anything_is_made(videos, tmp_path, capsys):
    code, _, said = run(capsys, "label", videos / "a.mp4", tmp_path / "nosuch", "--out", tmp_path / "out")

    assert (code, said) == (1, f"tallformer: error: {tmp_path}/nosuch: no such file or folder\n")
    assert not (tmp_path / "out").exists()


def test_empty_folder_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()

    code, _, said = run(capsys, "label", tmp_path / "empty", "--out", tmp_path / "out")

    assert code == 1
    assert said == f"tallformer: error: {tmp_path}/empty: no video in this folder or its subfolders\n"


def test_kind_of_failure_there_is_not_is_refused(archive, capsys):
    code, _, said = run(capsys, "archive", "retry", archive, "--kind", "nosuch")

    assert code == 2
    assert "--kind nosuch: no such kind of failure; there are media, read, crash" in " ".join(said.split())


def test_switched_off_option_is_repeated_as_it_was_given():
    app, seen = typer.Typer(), []

    @app.command()
    def command(context: typer.Context, share: bool | None = typer.Option(None, "--share/--no-share")) -> None:
        seen.append(given_options(context, without=()))

    for flag in ("--share", "--no-share"):
        app([flag], standalone_mode=False)

    assert seen == [("--share",), ("--no-share",)]


def test_folder_that_cannot_be_made_is_one_line(videos, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    code, _, said = run(capsys, "label", videos, "--out", tmp_path / "file" / "out")

    assert code == 1
    assert said == f"tallformer: error: {tmp_path}/file/out: cannot be created: Not a directory\n"


def test_status_counts_and_names_failures(videos, archive, capsys):
    code, shown, _ = run(capsys, "archive", "status", archive)

    assert code == 0
    assert shown.startswith("videos: 2 done, 1 failed; 0.00 hours\n")
    assert "text.mp4: cannot be opened as video" in shown.replace("\n", "")
    described = json.loads(run(capsys, "archive", "status", archive, "--json")[1])
    assert described["failures"][0]["kind"] == "media"
    assert sum(label["actions"] for label in described["labels"]) == len(lines_of(capsys, archive))


def test_retry_has_failed_videos_tried_again(videos, archive, tmp_path, capsys):
    out = shutil.copytree(archive, tmp_path / "copy")

    code, shown, _ = run(capsys, "archive", "retry", out, "--path", "text")

    assert (code, shown) == (0, "1 video will be tried again by the next `tallformer label`\n")
    assert "1 video to label" in run(capsys, "label", videos, "--out", out, "--operating-point", "none")[2]
    assert run(capsys, "archive", "retry", out, "--kind", "crash")[1].startswith("0 videos")


def lines_of(capsys, archive, *options):
    _, shown, _ = run(capsys, "archive", "query", archive, "--json", "--limit", 0, *options)
    return [json.loads(line) for line in shown.splitlines()]


def test_query_gives_the_best_first(archive, capsys):
    scores = [line["score"] for line in lines_of(capsys, archive)]

    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 10
    assert all(line["score"] >= scores[5] for line in lines_of(capsys, archive, "--min-score", scores[5]))
    assert {line["path"].rpartition("/")[2] for line in lines_of(capsys, archive, "--path", "=1")} == {"=1+1.mp4"}


def test_query_shows_a_table(archive, capsys):
    code, shown, _ = run(capsys, "archive", "query", archive, "--limit", 2)

    assert code == 0
    assert shown.splitlines()[0].split() == ["score", "label", "start", "end", "video"]
    assert shown.splitlines()[-1] == "the best 2; --limit 0 shows all"


def test_query_for_a_label_there_is_not_is_refused(archive, capsys):
    code, _, said = run(capsys, "archive", "query", archive, "--label", "swim")

    assert code == 1
    assert said.startswith("tallformer: error: label 'swim': no action has it; there are ")


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_exports_hold_the_same_actions(archive, tmp_path, capsys, form):
    out = tmp_path / f"actions.{form}"

    code, _, said = run(capsys, "archive", "export", archive, "--out", out)

    rows = read(out, form)
    assert (code, said) == (0, f"tallformer: wrote {len(rows)} actions to {out}\n".removeprefix("tallformer: "))
    expected = lines_of(capsys, archive)
    assert sorted(round(float(row["score"]), 6) for row in rows) == sorted(line["score"] for line in expected)
    assert {row["path"] for row in rows} == {line["path"] for line in expected}
    assert [(row["path"], float(row["start_s"])) for row in rows] == sorted(
        [(row["path"], float(row["start_s"])) for row in rows], key=lambda pair: ("=1" not in pair[0], pair[1])
    )


def read(path, form):
    if form == "parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    if form == "csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_everything_that_is_exported_is_read_by_convert(archive, tmp_path, capsys, form):
    if form in ("otio", "edl", "fcp7"):
        pytest.skip("editing programs' files hold whole frames, and are not read")
    expected = sorted(
        (
            line["path"].rpartition("/")[2].removesuffix(".mp4"),
            *(round(1000 * line[end]) for end in ("start_s", "end_s")),
        )
        for line in lines_of(capsys, archive)
    )
    out = tmp_path / (f"all.{form}" if form in ("parquet", "csv", "jsonl", "tsv", "boris") else "all.json")

    assert run(capsys, "archive", "export", archive, "--out", out, "--format", form)[0] == 0
    files = sorted(out.iterdir()) if out.is_dir() else [out]
    truth = tmp_path / "truth.json"
    code, _, said = run(capsys, "convert", *files, "--out", truth)

    assert code == 0, said
    rows = [
        (name, *(round(1000 * end) for end in each["segment"]))
        for name, entry in json.loads(truth.read_text())["database"].items()
        for each in entry["annotations"]
    ]
    assert sorted(rows) == expected


def test_path_means_the_same_in_query_and_export(tmp_path, capsys):
    from tests.test_archive_database import LABELLED  # noqa: PLC0415

    names = ["/x/a1.mp4", "/x/ab.mp4", "/x/a^.mp4", "/x/caf\udce9.mp4"]
    with ArchiveDatabase(tmp_path, writes=True) as database:
        database.add([(name, f"{place}", f"{place}", False) for place, name in enumerate(names)])
        for place in range(len(names)):
            action = Action(start_s=place, end_s=place + 1, label="jump", score=0.5)
            database.finish(place + 1, LABELLED, [action])

    def found(pattern):
        queried = [line["path"] for line in lines_of(capsys, tmp_path, "--path", pattern)]
        wanted = ActionFilter(path=pattern)
        with ArchiveDatabase(tmp_path) as database:
            matching = [row.source for row in database.videos("done") if wanted.matches(row.source)]
        assert sorted(queried) == sorted(matching)
        return sorted(matching)

    assert found("*/a[!0-9].mp4") == ["/x/a^.mp4", "/x/ab.mp4"]
    assert found("caf") == ["/x/caf\udce9.mp4"]
    assert found("/x/a?.mp4") == ["/x/a1.mp4", "/x/a^.mp4", "/x/ab.mp4"]


@pytest.mark.parametrize("form", ["activitynet", "tsv", "labelstudio", "via", "boris"])
def test_exports_of_whole_videos_name_all_of_them(archive, tmp_path, capsys, form):
    out = tmp_path / "all"

    code, _, said = run(capsys, "archive", "export", archive, "--out", out, "--format", form)

    assert code == 0, said
    assert "1+1" in out.read_text()
    assert run(capsys, "archive", "export", archive, "--out", out, "--format", form, "--label", "grow")[0] == 2


@pytest.mark.parametrize(
    ("form", "ending"), [("srt", "srt"), ("vtt", "vtt"), ("eaf", "eaf"), ("ffmetadata", "ffmetadata.txt")]
)
def test_exports_of_one_video_per_file_fill_a_folder_as_label_does(archive, videos, tmp_path, capsys, form, ending):
    out = tmp_path / "folder"

    code, _, said = run(capsys, "archive", "export", archive, "--out", out, "--format", form)

    assert code == 0, said
    assert {path.name for path in out.iterdir()} == {f"a.mp4.{ending}", f"=1+1.mp4.{ending}"}
    assert f"wrote {len(lines_of(capsys, archive))} actions" in said
    assert (
        run(capsys, "archive", "export", archive, "--out", tmp_path / "x", "--format", form, "--label", "grow")[0] == 2
    )


def test_export_of_one_video_per_file_to_a_file_is_refused(archive, tmp_path, capsys):
    code, _, said = run(capsys, "archive", "export", archive, "--out", tmp_path / "all.srt")
    assert (code, "name a folder, and --format srt" in " ".join(said.split())) == (2, True)

    (tmp_path / "file").write_text("")
    code, _, said = run(capsys, "archive", "export", archive, "--out", tmp_path / "file", "--format", "srt")
    assert (code, said) == (1, f"tallformer: error: {tmp_path}/file: srt holds one video per file; expected a folder\n")
    assert (tmp_path / "file").read_text() == ""


def test_export_of_whole_videos_is_what_detect_writes(archive, videos, tmp_path, capsys):
    out = tmp_path / "actions.json"

    assert run(capsys, "archive", "export", archive, "--out", out)[0] == 0

    document = json.loads(out.read_text())
    assert [video["path"] for video in document["videos"]] == [str(videos / "=1+1.mp4"), str(videos / "a.mp4")]
    assert document["failures"][0]["path"] == str(videos / "text.mp4")


def test_cell_that_a_spreadsheet_would_compute_gets_an_apostrophe(videos, tmp_path, capsys, monkeypatch):
    from tests.test_archive_database import LABELLED  # noqa: PLC0415

    with ArchiveDatabase(tmp_path, writes=True) as database:
        database.add([("/a.mp4", "a", "a", False)])
        database.finish(1, LABELLED, [Action(start_s=0, end_s=1, label="=cmd|' /C calc'!A0", score=0.5)])

    run(capsys, "archive", "export", tmp_path, "--out", tmp_path / "x.csv")

    assert read(tmp_path / "x.csv", "csv")[0]["label"] == "'=cmd|' /C calc'!A0"


def test_export_whose_form_is_not_told_is_refused(archive, tmp_path, capsys):
    code, _, said = run(capsys, "archive", "export", archive, "--out", tmp_path / "x.doc")

    assert code == 2
    assert "its ending names no format" in said


def test_report_of_an_archive_lists_every_video_and_why_one_failed(archive, tmp_path, capsys):
    code, _, said = run(capsys, "report", archive, "--out", tmp_path / "index.html")

    assert code == 0
    assert "an index of 3 videos, 1 of them failed" in said
    page = (tmp_path / "index.html").read_text()
    assert "text.mp4" in page
    assert "Invalid data found" in page


def test_report_of_an_archive_counts_its_actions(archive):
    rows = {row.name.rpartition("/")[2]: row for row in archive_rows(archive, archive)}
    with ArchiveDatabase(archive) as database:
        actions = {video.source.rpartition("/")[2]: database.actions_of(video.id) for video in database.videos()}

    assert sum(rows["a.mp4"].counts.values()) == len(actions["a.mp4"]) > 0
    assert sum(rows["a.mp4"].seconds.values()) == pytest.approx(
        sum(one.end_s - one.start_s for one in actions["a.mp4"])
    )
    assert not rows["text.mp4"].counts


@pytest.fixture(scope="module")
def incomplete(tmp_path_factory):
    """Three videos: of 10 s only about half is there, one with damage in the middle, one that is whole."""
    folder = tmp_path_factory.mktemp("incomplete")
    whole = write_video(folder / "whole.mkv", textured_pictures(150, height_px=64, width_px=64), fps=15)
    cut_short(whole, folder / "short.mkv", keep=0.5)
    damage(whole, folder / "damaged.mkv", places=[0.3, 0.5], run_bytes=200)
    return folder


def test_short_and_damaged_videos_are_reported_everywhere(incomplete, tmp_path, capsys):
    out = tmp_path / "out"
    code, _, said = run(capsys, "label", incomplete, "--out", out)

    assert code == 0
    rows = {row["name"]: row for row in content_of(out)[0].values()}
    assert 4 < rows["short.mkv"]["missing_s"] < 6
    assert rows["damaged.mkv"]["decode_errors"] >= 1
    assert (rows["whole.mkv"]["missing_s"], rows["whole.mkv"]["decode_errors"]) == (0.0, 0)
    short = f"{rows['short.mkv']['duration_s']:.1f} s of 10.0 s could be read"
    assert f"tallformer: warning: {incomplete / 'short.mkv'}: {short}" in said
    assert re.search(r"warning: \S+damaged.mkv: \d+ places? (is|are) damaged or left out", said)
    assert "whole.mkv" not in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("  of these short or damaged")] == ["2"]

    shown = run(capsys, "archive", "status", out)[1]
    assert shown.startswith("videos: 3 done, 1 damaged, 1 short; 0.01 hours\n")
    assert f"short.mkv: {short}\n" in shown
    described = json.loads(run(capsys, "archive", "status", out, "--json")[1])
    assert described["losses"] == {"damaged": 1, "short": 1}
    assert [(Path(one["path"]).name, one["losses"]) for one in described["incomplete"]] == [
        ("damaged.mkv", ["damaged"]),
        ("short.mkv", ["short"]),
    ]
    index = {Path(row.name).name: row for row in archive_rows(out, out)}
    assert {name: row.status for name, row in index.items()} == {
        "damaged.mkv": "damaged",
        "short.mkv": "short",
        "whole.mkv": "done",
    }
    assert (index["short.mkv"].note, index["short.mkv"].error) == (short, "")


def test_json_log_warns_of_short_and_damaged_videos(incomplete, tmp_path, capsys):
    _, _, said = run(capsys, "label", incomplete, "--out", tmp_path / "out", "--json-logs")

    events = [json.loads(line) for line in said.splitlines()]
    warnings = [event for event in events if event["event"] == "warning" and "sample model" not in event["message"]]
    warned = {Path(event["path"]).name: event["message"] for event in warnings}
    assert set(warned) == {"damaged.mkv", "short.mkv"}
    assert warned["short.mkv"].endswith("s of 10.0 s could be read")
    done = {Path(event["path"]).name: event for event in events if event["event"] == "video_done"}
    assert 4 < done["short.mkv"]["missing_s"] < 6
    assert events[-1]["incomplete"] == 2


def test_log_without_a_terminal_gets_one_line_a_minute(monkeypatch, capsys):
    now_s = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    watcher = progress.TerminalWatcher(quiet=False)
    totals = Totals(planned=10, planned_bytes=100)
    watcher.planned(Plan(), totals, workers=2)
    for passed_s in (0, 30, 59, 61, 100, 120, 122):
        now_s[0] = 1000.0 + passed_s
        totals.done, totals.done_bytes, totals.video_s, totals.wall_s = passed_s // 30, passed_s, 7200, passed_s or 1
        watcher.alive(0, "/a.mp4", Alive(5.0), totals)

    assert capsys.readouterr().err.splitlines() == [
        "tallformer: 10 videos to label; 2 workers",
        "tallformer: 2/10 videos, 2.00 h of video, 118× real time, 0:39 left",
        "tallformer: 4/10 videos, 2.00 h of video, 59× real time, 0:00 left",
    ]
