"""Result files at an address: whole, resumable, and nothing lost where it does not answer."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET

import pytest

from tallformer_infer import cli
from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.places import NotTriedError
from tallformer_infer.errors import OutputError
from tests.archive_runs import content_of, label
from tests.ftp_server import serve
from tests.videos import textured_pictures, write_video

fsspec = pytest.importorskip("fsspec")
from tallformer_infer.archive.places import RemotePlace  # noqa: E402


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "below").mkdir()
    for seed, name in enumerate(("a.mp4", "b.mp4", "below/a.mp4", "c #1%.mp4")):
        write_video(folder / name, textured_pictures(40, height_px=64, width_px=64, seed=seed), fps=15)
    return folder


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory):
    """What a run into a folder writes: documents by name, without times."""
    out = tmp_path_factory.mktemp("expected")
    label(videos, out=out)
    return {name.removeprefix("results/"): file for name, file in content_of(out)[1].items()}


def documents(contents):
    """Parsed, and without times that differ from run to run."""
    found = {}
    for name, content in contents.items():
        found[name] = json.loads(content)
        for video in found[name]["videos"]:
            del video["timings_s"]
    return found


def files_at(address):
    system, root = fsspec.core.url_to_fs(address)
    root = root.rstrip("/")
    system.invalidate_cache()
    paths = system.find(f"{root}/results") if system.exists(f"{root}/results") else []
    return documents({path.removeprefix(f"{root}/results/"): system.cat_file(path) for path in paths})


def run(capsys, videos, out, state, *options):
    arguments = [
        "label",
        videos,
        "--out",
        out,
        "--state",
        state,
        "--threads",
        1,
        "--workers",
        1,
        "--device",
        "cpu",
        *options,
    ]
    arguments += [part for name in ("memory", "ftp") for part in ("--allow-protocol", name)]
    code = cli.run([str(argument) for argument in [*arguments, "--operating-point", "none", "--json-logs"]])
    said = capsys.readouterr().err
    return code, [json.loads(line) for line in said.splitlines() if line.startswith("{")], said


def statuses(state):
    with ArchiveDatabase(state) as database:
        return [(row.status, row.error_kind) for row in database.videos()]


@pytest.mark.parametrize("kind", ["memory", "file", "ftp"])
def test_files_at_an_address_are_those_of_a_folder_and_a_second_run_writes_none(
    videos, expected, tmp_path, capsys, kind
):
    (tmp_path / "there").mkdir()
    with serve(tmp_path / "there") as site:
        out = {"memory": f"memory://{tmp_path.name}", "file": f"file://{tmp_path}/there/x", "ftp": f"{site.address}/x"}[
            kind
        ]

        first = run(capsys, videos, out, tmp_path / "state")
        stored = len(site.commands)
        second = run(capsys, videos, out, tmp_path / "state")

        assert (first[0], second[0]) == (0, 0), first[2]
        assert files_at(out) == expected
        assert second[1][-1]["unchanged"] == 4
        assert not any(command.startswith(("STOR", "RNTO")) for command in site.commands[stored:])


def test_copy_of_the_database_goes_along(videos, tmp_path):
    state, there = tmp_path / "state", tmp_path / "there"

    assert cli.run(["label", str(videos), "--out", f"file://{there}", "--state", str(state), "--quiet"]) == 0

    assert {path.name for path in there.iterdir()} == {"archive.db", "results"}
    with ArchiveDatabase(there) as copy, ArchiveDatabase(state) as database:
        assert copy.videos() == database.videos()
        assert len(copy.videos()) == 4


def test_address_that_stops_answering_loses_nothing_and_the_next_run_writes_what_is_missing(
    videos, expected, tmp_path, capsys
):
    state, there = tmp_path / "state", tmp_path / "there"
    there.mkdir()
    with serve(there) as site:
        site.stores_until_it_hangs_up = 2  # the database, one result, and half of another
        code, events, said = run(capsys, videos, site.address, state)

        assert code == 1
        failures = [event for event in events if event["event"] == "video_failed" and not event["again"]]
        assert events[-2]["failed"] == 3
        assert len(failures) + events[-1]["missing"] == 3
        assert 1 <= len(failures) <= 3
        assert all(f"{site.address}/results/" in event["error"] for event in failures)
        assert events[-1]["event"] == "error"
        assert "run the same command again to write what is missing" in events[-1]["message"]
        assert "Traceback" not in said
        assert sorted(statuses(state), key=str) == [("done", None)] + [("failed", "output")] * 3
        whole = {str(path.relative_to(there / "results")): path.read_bytes() for path in there.rglob("*.json")}
        assert documents(whole).items() <= expected.items()
        assert len(whole) == 1

        site.stores_until_it_hangs_up = None
        code, events, said = run(capsys, videos, site.address, state)

        assert code == 0, said
        assert (events[-1]["done"], events[-1]["unchanged"], events[-1]["clips_encoded"]) == (3, 1, 0)
        assert files_at(site.address) == expected
        assert statuses(state) == [("done", None)] * 4
        assert [path for path in there.rglob("*") if path.suffix == ".tmp"] == []


def test_address_that_does_not_answer_is_one_line_before_anything_is_done(videos, tmp_path, capsys):
    with serve(tmp_path) as site:
        out = f"{site.address}/x"

    options = ["--state", str(tmp_path / "state"), "--allow-protocol", "ftp"]
    code = cli.run(["label", str(videos), "--out", out, *options])

    said = capsys.readouterr().err
    assert code == 1
    assert said.count("\n") == 1
    assert f"error: {out}: cannot be reached: " in said
    assert "refused" in said
    assert not (tmp_path / "state").exists()


def test_address_that_cannot_be_written_is_one_line_before_anything_is_done(videos, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    out = f"file://{tmp_path}/file/x"
    code = cli.run(["label", str(videos), "--out", out, "--state", str(tmp_path / "state")])

    said = capsys.readouterr().err
    assert (code, said.count("error")) == (1, 1), said
    assert said.endswith(f"error: {tmp_path}/file/x/archive.db: cannot be written: Not a directory\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "s3://bucket/x"], "the database needs a folder of this machine: name one that stays, --state DIR"),
        (["--out", "https://host/x", "--state", "s"], "http addresses can only be read"),
        (["--out", "s3://bucket/x", "--state", "s3://bucket/y"], "expected a folder of this machine"),
        (["--out", "folder", "--state", "s"], "--state: is for an address as --out; folder holds its own database"),
    ],
)
def test_places_that_do_not_go_together_are_refused(videos, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)

    assert cli.run(["label", str(videos), *options]) == 2

    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("sftp://host/x", "protocol sftp is not allowed; expected az, file, gs, http, https, s3, or add --allow-proto"),
        ("simplecache::s3://bucket/x", "chains of protocols (::) are not read"),
        ("zip://x::file:///tmp/x.zip", "chains of protocols (::) are not read"),
    ],
)
def test_results_go_to_no_chain_and_to_no_protocol_that_was_not_allowed(videos, tmp_path, capsys, out, reason):
    code = cli.run(["label", str(videos), "--out", out, "--state", str(tmp_path / "state")])

    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (1, 1)
    assert f"error: {out}: cannot be reached: {reason}" in said


def test_scheme_that_nobody_knows_is_one_line(videos, tmp_path, capsys):
    options = ["--state", str(tmp_path / "state"), "--allow-protocol", "nowhere"]
    code = cli.run(["label", str(videos), "--out", "nowhere://x", *options])

    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (1, 1)
    assert "error: nowhere://x: cannot be reached: " in said


def test_address_goes_on_from_its_copy_with_an_empty_folder_and_is_refused_to_another(
    videos, expected, tmp_path, capsys
):
    out = f"memory://{tmp_path.name}-moved"
    assert run(capsys, videos, out, tmp_path / "first")[0] == 0

    code, events, _ = run(capsys, videos, out, tmp_path / "second")
    assert (code, events[-1]["done"], events[-1]["unchanged"]) == (0, 0, 4)

    label(videos / "a.mp4", out=tmp_path / "other")
    options = ["--state", str(tmp_path / "other"), "--allow-protocol", "memory"]
    assert cli.run(["label", str(videos), "--out", out, *options]) == 1
    assert "has an archive that was not written from" in capsys.readouterr().err
    assert files_at(out) == expected


def test_file_that_is_gone_from_an_address_is_written_again_without_candidates(videos, expected, tmp_path):
    place, out = RemotePlace(f"memory://{tmp_path.name}-gone", ["memory"]), tmp_path / "state"
    label(videos, out=out, place=place, store=None)
    system, root = fsspec.core.url_to_fs(place.address)
    system.rm_file(f"{root}/results/below/a.mp4.json")

    done = label(videos, out=out, place=RemotePlace(place.address, ["memory"]), store=None)

    assert done.engine.tasks == []
    assert done.run.totals.done == 1
    assert files_at(place.address) == expected


def test_link_does_not_lead_out_of_a_mounted_address(videos, tmp_path):
    there, outside = tmp_path / "there", tmp_path / "outside"
    (there / "results").mkdir(parents=True)
    outside.mkdir()
    (there / "results" / "below").symlink_to(outside, target_is_directory=True)

    done = label(videos, out=tmp_path / "state", place=RemotePlace(f"file://{there}"))

    assert (done.run.totals.done, done.run.totals.failed) == (3, 1)
    assert list(outside.iterdir()) == []


def test_after_three_failures_in_a_row_files_are_refused_without_a_try(tmp_path):
    with serve(tmp_path) as site:
        place = RemotePlace(site.address, ["ftp"])
        site.stores_until_it_hangs_up = 0
        for _ in range(3):
            with pytest.raises(OutputError, match=r"a\.json: cannot be written: ") as caught:
                place.write("a.json", b"{}")
            assert not isinstance(caught.value, NotTriedError)
        with pytest.raises(NotTriedError, match="did not answer a moment ago"):
            place.write("a.json", b"{}")
        site.stores_until_it_hangs_up = None

        place.try_again()
        place.write("a.json", b"{}")

    assert (tmp_path / "results" / "a.json").read_bytes() == b"{}"


def test_file_that_breaks_off_leaves_what_was_there(tmp_path):
    with serve(tmp_path) as site:
        place = RemotePlace(site.address, ["ftp"])
        place.write("a.json", b"old content")
        site.stores_until_it_hangs_up = 0

        with pytest.raises(OutputError):
            place.write("a.json", b"new content")

    assert (tmp_path / "results" / "a.json").read_bytes() == b"old content"


def test_elan_file_at_an_address_names_its_video_by_its_whole_place_only(videos, tmp_path, capsys):
    out = f"memory://{tmp_path.name}-eaf"
    assert run(capsys, videos / "a.mp4", out, tmp_path / "state", "--format", "eaf")[0] == 0

    system, root = fsspec.core.url_to_fs(out)
    (media,) = ET.fromstring(system.cat_file(f"{root}/results/a.mp4.eaf")).iter("MEDIA_DESCRIPTOR")

    assert media.attrib["MEDIA_URL"] == f"file://{videos}/a.mp4"
    assert "RELATIVE_MEDIA_URL" not in media.attrib


def test_copy_of_the_database_is_one_of_this_program(videos, tmp_path, capsys):
    """Whoever finds it can ask it with `archive query`: its version and application are those of the original."""
    out = tmp_path / "there"
    run(capsys, videos / "a.mp4", f"file://{out}", tmp_path / "state")

    with sqlite3.connect(out / "archive.db") as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    code = cli.run(["archive", "query", str(out), "--limit", "1"])

    assert code == 0, capsys.readouterr().err


def test_video_at_an_address_that_is_as_before_has_no_file_written_again(videos, tmp_path):
    """Only a worker can tell that it is; that is no reason to write anything."""
    out = tmp_path / "out"
    label(f"file://{videos}/a.mp4", out=out)
    before = (out / "results" / "a.mp4.json").stat().st_mtime_ns

    done = label(f"file://{videos}/a.mp4", out=out)

    assert len(done.engine.tasks) == 1
    assert statuses(out) == [("done", None)]
    assert (out / "results" / "a.mp4.json").stat().st_mtime_ns == before
