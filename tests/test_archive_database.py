"""The database of an archive: rows, actions, versions, one writer."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.archive import database as schema
from tallformer_infer.archive.database import ArchiveDatabase, Labelled
from tallformer_infer.archive.queries import ActionFilter, count_by_label, find_actions, list_actions
from tallformer_infer.errors import ArchiveError
from tallformer_infer.structures import Action

LABELLED = Labelled(
    duration_s=10.0,
    missing_s=0.0,
    decode_errors=0,
    result={"a": 1},
    selection={"top_k": 3},
    remarks=("fine",),
    hashes=("e", "l", "a"),
    outputs=("json",),
    model=("b", "recipe", "r"),
    versions={"tallformer": "1"},
)


def action(start_s, end_s, label="wave", score=0.5):
    return Action(start_s=start_s, end_s=end_s, label=label, score=score)


def with_videos(folder, *sources):
    database = ArchiveDatabase(folder, writes=True)
    database.add((source, source.strip("/"), source, False) for source in sources)
    return database


def test_finished_video_is_read_as_it_was_written(tmp_path):
    actions = (action(1.0, 2.0), action(3.0, 4.5, "jump", 0.25))
    with with_videos(tmp_path, "/a.mp4") as database:
        (row,) = database.videos("waiting")
        database.start(row.id)
        database.identify(row.id, content="sha256:1", size_bytes=5, mtime_ns=7)
        database.finish(row.id, LABELLED, actions)

    with ArchiveDatabase(tmp_path) as database:
        (row,) = database.videos()
        assert (row.status, row.attempts, row.content, row.size_bytes) == ("done", 1, "sha256:1", 5)
        assert row.selection == {"top_k": 3}
        assert (row.result, row.remarks, row.encoder_hash, row.actions_hash) == ({"a": 1}, ("fine",), "e", "a")
        assert database.actions_of(row.id) == actions


def test_video_that_is_done_again_has_its_new_actions_only(tmp_path):
    with with_videos(tmp_path, "/a.mp4") as database:
        database.finish(1, LABELLED, [action(1, 2), action(3, 4)])
        database.finish(1, LABELLED, [action(5, 6)])

        assert database.actions_of(1) == (action(5, 6),)


def test_failed_video_has_no_actions_and_says_why(tmp_path):
    with with_videos(tmp_path, "/a.mp4") as database:
        database.finish(1, LABELLED, [action(1, 2)])
        database.fail(1, "crash", "it crashed", again=False)

        row = database.video(1)
        assert (row.status, row.attempts, row.error_kind, row.error) == ("failed", 2, "crash", "it crashed")
        assert database.actions_of(1) == ()


def test_change_that_breaks_off_leaves_nothing(tmp_path):
    with with_videos(tmp_path, "/a.mp4") as database:
        database.finish(1, LABELLED, [action(1, 2)])

        with pytest.raises(ZeroDivisionError):
            database.finish(1, LABELLED, (action(number, 1 / number) for number in (1, 0)))

        assert database.actions_of(1) == (action(1, 2),)


def test_source_that_is_not_utf8_comes_back_as_it_was(tmp_path):
    odd = b"/videos/\xff\xfe.mp4".decode("utf-8", "surrogateescape")
    with with_videos(tmp_path, odd) as database:
        (row,) = database.videos()

        assert row.source == odd
        assert database.name_keys() == {odd}


def test_words_of_a_label_are_data(tmp_path):
    label = "x'); DROP TABLE actions; --"
    with with_videos(tmp_path, "/a.mp4") as database:
        database.finish(1, LABELLED, [action(0, 1, label)])

        (found,) = find_actions(database, ActionFilter(labels=(label,)))
        assert found.label == label


def test_second_writer_is_refused(tmp_path):
    with with_videos(tmp_path), pytest.raises(ArchiveError, match="another run writes to this archive"):
        ArchiveDatabase(tmp_path, writes=True)
    ArchiveDatabase(tmp_path, writes=True).close()


def test_writer_that_was_killed_leaves_no_lock(tmp_path):
    program = f"""
import os, pathlib
from tallformer_infer.archive.database import ArchiveDatabase
database = ArchiveDatabase(pathlib.Path({str(tmp_path)!r}), writes=True)
database.add([("/a", "a", "a", False)])
database.connection.execute("BEGIN IMMEDIATE")
database.connection.execute("DELETE FROM videos")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], check=False)

    with ArchiveDatabase(tmp_path, writes=True) as database:
        assert [row.source for row in database.videos()] == ["/a"]


def test_reader_sees_what_is_done_while_another_writes(tmp_path):
    with with_videos(tmp_path, "/a.mp4") as writer, ArchiveDatabase(tmp_path) as reader:
        writer.finish(1, LABELLED, [action(0, 1)])

        assert len(list(find_actions(reader, ActionFilter()))) == 1
        with pytest.raises(ArchiveError, match="cannot be written"):
            reader.start(1)


def test_folder_without_an_archive_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match=f"{tmp_path}: no archive"):
        ArchiveDatabase(tmp_path)


def test_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "archive.db") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()

    with pytest.raises(ArchiveError, match="of another program"):
        ArchiveDatabase(tmp_path, writes=True)


def test_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "archive.db").write_bytes(b"something else" * 100)

    with pytest.raises(ArchiveError, match="not a database"):
        ArchiveDatabase(tmp_path)


def test_archive_of_a_newer_version_is_refused(tmp_path):
    with with_videos(tmp_path) as database:
        database.connection.execute("PRAGMA user_version = 99")

    with pytest.raises(ArchiveError, match=f"has schema version 99, this tallformer reads {schema.SCHEMA_VERSION}"):
        ArchiveDatabase(tmp_path)


@pytest.mark.parametrize("writes", [True, False])
def test_archive_of_an_older_version_is_brought_up_to_date(tmp_path, writes, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        older.setattr(schema, "SCHEMA_VERSION", 1)
        older.setattr("tallformer_infer.archive.database.SCHEMA_VERSION", 1)
        with with_videos(tmp_path, "/a.mp4") as database:
            database.connection.execute("INSERT INTO labels VALUES (1, 'wave')")
            database.connection.execute("INSERT INTO actions VALUES (1, 1, 1, 0, 1, 0.5)")

    with ArchiveDatabase(tmp_path, writes=writes) as database:
        (version,) = database.connection.execute("PRAGMA user_version").fetchone()
        assert version == schema.SCHEMA_VERSION
        assert len(list(find_actions(database, ActionFilter()))) == 1


QUERY = """
import os, pathlib, sys
from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.queries import ActionFilter, find_actions
if os.geteuid() == 0:
    os.setuid(65534)
with ArchiveDatabase(pathlib.Path(sys.argv[1])) as database:
    print(*[found.score for found in find_actions(database, ActionFilter())])
"""


@pytest.fixture
def folder_for_all():
    """A folder that every user can read, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def ask_without_write_access(folder):
    """Query an archive in a folder that the process may not write to."""
    folder.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", QUERY, str(folder)], capture_output=True, text=True, check=False)
    folder.chmod(0o755)
    return done.stdout.strip() or done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders without write access are POSIX's")
@pytest.mark.parametrize("is_open", [False, True], ids=["after a run", "changes in the log only"])
def test_archive_on_a_read_only_disk_can_be_queried(folder_for_all, tmp_path, is_open):
    """Without the files of the log, and with a log that was copied without its index, as a backup has it."""
    with with_videos(tmp_path, "/a.mp4") as database:
        database.finish(1, LABELLED, [action(0, 1, score=0.25)])
        for path in tmp_path.glob("archive.db*" if is_open else "nothing"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, folder_for_all / path.name)
    if not is_open:
        shutil.copyfile(tmp_path / "archive.db", folder_for_all / "archive.db")

    assert ask_without_write_access(folder_for_all) == "0.25"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders without write access are POSIX's")
def test_archive_of_an_older_version_on_a_read_only_disk_can_be_queried(folder_for_all, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        older.setattr(schema, "SCHEMA_VERSION", 1)
        with ArchiveDatabase(folder_for_all, writes=True) as database:
            database.add([("/a.mp4", "a", "a", False)])
            database.connection.execute("INSERT INTO labels VALUES (1, 'wave')")
            database.connection.execute("INSERT INTO actions VALUES (1, 1, 1, 0, 1, 0.5)")
    before = (folder_for_all / "archive.db").read_bytes()

    assert ask_without_write_access(folder_for_all) == "0.5"
    assert (folder_for_all / "archive.db").read_bytes() == before


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/[!a]/*", {"/b/1.mp4", "/^/1.mp4"}),
        ("/[^a]/*", {"/^/1.mp4", "/a/1.mp4"}),
        ("/[ab]/1.mp?", {"/a/1.mp4", "/b/1.mp4"}),
        ("b/1", {"/b/1.mp4"}),
    ],
)
def test_pattern_of_paths_means_the_same_to_query_retry_and_export(tmp_path, path, expected):
    sources = ["/a/1.mp4", "/b/1.mp4", "/^/1.mp4"]
    wanted = ActionFilter(path=path)
    with with_videos(tmp_path, *sources) as database:
        for number in (1, 2, 3):
            database.finish(number, LABELLED, [action(0, 1)])

        assert {found.source for found in find_actions(database, wanted)} == expected
        assert {found.source for found in list_actions(database, wanted)} == expected
        assert {source for source in sources if wanted.matches(source)} == expected


def test_losses_of_an_archive_of_before_are_taken_from_its_results(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        older.setattr(schema, "SCHEMA_VERSION", 2)
        with with_videos(tmp_path, "/a.mp4", "/b.mp4", "/c.mp4", "/d.mp4") as database:
            for number, missing_s, errors in ((1, 2.5, 1), (2, 2.5, 3), (3, 0.0, 1), (4, 0.0, 0)):
                result = json.dumps({"missing_s": missing_s, "decode_errors": errors})
                database.connection.execute("UPDATE videos SET result = ? WHERE id = ?", (result, number))

    with ArchiveDatabase(tmp_path) as database:
        rows = database.videos()

    assert [(row.missing_s, row.decode_errors) for row in rows] == [(2.5, 1), (2.5, 3), (0.0, 1), (0.0, 0)]
    assert [row.losses for row in rows] == [("short",), ("short", "damaged"), ("damaged",), ()]


FILTERS = st.builds(
    ActionFilter,
    labels=st.lists(st.sampled_from(["wave", "jump", "sit"]), max_size=2, unique=True).map(tuple),
    min_score=st.none() | st.integers(0, 4).map(lambda number: number / 4),
    max_score=st.none() | st.integers(0, 4).map(lambda number: number / 4),
    from_s=st.none() | st.integers(0, 60).map(float),
    to_s=st.none() | st.integers(0, 60).map(float),
    path=st.sampled_from([None, "/b/*", "1.mp4", "/nothing/*"]),
    limit=st.sampled_from([None, 1, 5]),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Three videos with actions at random times, and all of them as a list."""
    chance = random.Random(0)
    sources = ["/a/1.mp4", "/b/1.mp4", "/b/2.mp4"]
    with with_videos(tmp_path_factory.mktemp("filled"), *sources) as database:
        everything = []
        for number, source in enumerate(sources, 1):
            actions = []
            for _ in range(60):
                start_s = float(chance.randrange(60))
                label, score = chance.choice(["wave", "jump", "sit"]), chance.randrange(9) / 8
                actions.append(action(start_s, start_s + chance.randrange(1, 20), label, score))
            database.finish(number, LABELLED, actions)
            everything += [(source, one) for one in actions]
        yield database, everything


@given(FILTERS)
@pytest.mark.parametrize("few", [100_000, 0])
def test_query_gives_what_a_search_of_everything_gives(filled, few, wanted):
    database, everything = filled
    expected = [
        (-one.score, one.start_s)
        for source, one in everything
        if (not wanted.labels or one.label in wanted.labels)
        and (wanted.min_score is None or one.score >= wanted.min_score)
        and (wanted.max_score is None or one.score <= wanted.max_score)
        and (wanted.from_s is None or one.end_s > wanted.from_s)
        and (wanted.to_s is None or one.start_s < wanted.to_s)
        and (wanted.path is None or source.startswith(wanted.path.rstrip("*")) or source.endswith(wanted.path))
    ]

    with pytest.MonkeyPatch.context() as patch:  # 0: every filter passes for one that lets many through
        patch.setattr("tallformer_infer.archive.queries._FEW", few)
        found = list(find_actions(database, wanted))

    assert [(-one.score, one.start_s) for one in found] == sorted(expected)[: wanted.limit]


def test_unknown_label_is_refused_with_those_there_are(filled):
    with pytest.raises(ArchiveError, match="label 'run': no action has it; there are jump, sit, wave"):
        find_actions(filled[0], ActionFilter(labels=("run",)))


def test_labels_are_counted(filled):
    database, everything = filled
    sit = [one.end_s - one.start_s for _, one in everything if one.label == "sit"]

    assert {name: (count, seconds) for name, count, seconds in count_by_label(database)}["sit"] == (
        len(sit),
        pytest.approx(sum(sit)),
    )
