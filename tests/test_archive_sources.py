"""What is named on the command line, as videos with names for their results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.archive.places import place_in
from tallformer_infer.archive.results import choose_names
from tallformer_infer.archive.sources import FoundSource, find_sources
from tallformer_infer.errors import ArchiveError, OutputError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def names_of(*given, without=()):
    return [found.name for found in find_sources([str(item) for item in given], without=without)]


def test_folder_gives_its_videos_and_those_below_by_name(tmp_path):
    make(tmp_path, "b.mp4", "a.MKV", "below/c.webm", "notes.txt", "cover.jpg", ".hidden.mp4", ".cache/d.mp4")

    assert names_of(tmp_path) == ["a.MKV", "b.mp4", "below/c.webm"]


def test_file_of_a_folder_whose_name_says_nothing_is_a_guess(tmp_path):
    make(tmp_path, "a.mp4", "recording", "camera.7")

    assert {found.name: found.is_guess for found in find_sources([str(tmp_path)])} == {
        "a.mp4": False,
        "camera.7": True,
        "recording": True,
    }


def test_file_that_is_named_is_no_guess(tmp_path):
    make(tmp_path, "recording")

    assert find_sources([str(tmp_path / "recording")]) == [FoundSource(str(tmp_path / "recording"), "recording")]


def test_file_that_is_named_and_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="gone: no such file or folder"):
        find_sources([str(tmp_path / "gone")])


def test_folder_without_a_video_is_refused(tmp_path):
    make(tmp_path, "notes.txt", "below/.hidden.mp4")

    with pytest.raises(ArchiveError, match="no video in this folder or its subfolders"):
        find_sources([str(tmp_path)])


def test_list_whose_files_are_all_missing_is_refused_and_a_single_missing_file_is_not(tmp_path):
    make(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("gone.mp4\na.mp4\n")
    (tmp_path / "wrong.txt").write_text("x/gone.mp4\nx/a.mp4\n")

    assert names_of(tmp_path / "list.txt") == ["gone.mp4", "a.mp4"]
    with pytest.raises(
        ArchiveError, match=r"none of its 2 files exists, such as .*x/gone.mp4; relative paths start at"
    ):
        find_sources([str(tmp_path / "wrong.txt")])


def test_folder_that_the_run_writes_to_is_left_alone(tmp_path):
    make(tmp_path, "a.mp4", "labels/results/b.mp4")

    assert names_of(tmp_path, without=[tmp_path / "labels"]) == ["a.mp4"]


def test_link_to_a_folder_is_not_followed(tmp_path):
    make(tmp_path, "a/b.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)

    assert names_of(tmp_path) == ["a/b.mp4"]


def test_pipe_in_a_folder_is_left_alone(tmp_path):
    make(tmp_path, "a.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")

    assert names_of(tmp_path) == ["a.mp4"]


def test_pattern_gives_files_and_folders(tmp_path):
    make(tmp_path, "x1.mp4", "x2/a.mp4", "x3.txt", "y.mp4")

    assert names_of(tmp_path / "x*") == ["x1.mp4", "a.mp4"]
    assert names_of(tmp_path / "**" / "*.mp4") == ["x1.mp4", "a.mp4", "y.mp4"]


def test_pattern_without_a_match_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="nothing matches this pattern"):
        find_sources([str(tmp_path / "*.mp4")])


def test_video_that_is_named_twice_is_there_once(tmp_path):
    make(tmp_path, "a.mp4")

    assert names_of(tmp_path, tmp_path / "a.mp4", tmp_path / "." / "a.mp4") == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# these\na.mp4\n\nhttps://x.org/c.mp4?key=1\n"),
        ("list.csv", "id,Path\n1,a.mp4\n2,https://x.org/c.mp4?key=1\n"),
        ("list.csv", '\ufeffpath\n"a.mp4"\nhttps://x.org/c.mp4?key=1\n'),
        ("list.jsonl", '{"path": "a.mp4"}\n"https://x.org/c.mp4?key=1"\n'),
    ],
)
def test_list_names_videos_from_its_own_folder_on(tmp_path, name, text):
    (make(tmp_path, "lists/a.mp4") / "lists" / name).write_text(text, encoding="utf-8")

    found = find_sources([str(tmp_path / "lists" / name)])

    assert [one.source for one in found] == [str(tmp_path / "lists/a.mp4"), "https://x.org/c.mp4?key=1"]
    assert [one.name for one in found] == ["a.mp4", "c.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name\nx\n", "none of the columns path"),
        ("a.jsonl", '"a.mp4"\n{"p": 1}\n', "line 2: expected a path"),
        ("a.jsonl", "nothing\n", "line 1: not JSON"),
        ("a.txt", "# nothing\n", "lists no video"),
    ],
)
def test_list_that_cannot_be_read_says_where(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)

    with pytest.raises(ArchiveError, match=message):
        find_sources([str(tmp_path / name)])


def test_folder_behind_an_address_gives_its_videos(tmp_path):
    pytest.importorskip("fsspec")
    make(tmp_path, "a.mp4", "below/b.mp4", "notes.txt")

    found = find_sources([f"file://{tmp_path}"])

    assert [one.name for one in found] == ["a.mp4", "below/b.mp4"]
    assert found[0].source == f"file://{tmp_path}/a.mp4"


def test_standard_input_is_refused():
    with pytest.raises(ArchiveError, match="standard input can only be read once"):
        find_sources(["-"])


def chosen(*names, taken=()):
    return [name for _, name, _ in choose_names([FoundSource(f"/{i}/{n}", n) for i, n in enumerate(names)], set(taken))]


def test_ordinary_names_stay_as_they_are():
    assert chosen("a.mp4", "below/b c.mkv", "ä.mov") == ["a.mp4", "below/b c.mkv", "ä.mov"]


def test_videos_of_one_name_get_two():
    first, second = chosen("a.mp4", "a.mp4")

    assert first == "a.mp4"
    assert second.startswith("a.mp4~")


@pytest.mark.parametrize(("one", "other"), [("A.mp4", "a.MP4"), ("é.mp4", "e\u0301.mp4"), ("ß.mp4", "SS.mp4")])
def test_names_that_some_file_system_takes_for_the_same_get_two(one, other):
    _, second = chosen(one, other)

    assert "~" in second


@given(st.lists(st.text(st.characters(), max_size=300), min_size=1, max_size=5))
def test_names_stay_in_the_folder_and_differ(names):
    folder = Path("/out/results")
    made = chosen(*names)

    assert len({name.casefold() for name in made}) == len(names)
    for name in made:
        path = Path(os.path.normpath(folder.joinpath(*name.split("/"))))
        assert path.is_relative_to(folder)
        assert path != folder
        assert all(0 < len(part.encode()) < 240 for part in path.parts)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\..\\b", "C:\\x.mp4", "con.mp4", "\x00"]
)
def test_name_that_would_leave_the_folder_does_not(name):
    (made,) = chosen(name)

    assert ".." not in made.split("/")
    assert not made.startswith("/")
    assert "\\" not in made
    assert ":" not in made
    assert "\x00" not in made


def test_results_do_not_follow_a_link_out_of_their_folder(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a").symlink_to(tmp_path, target_is_directory=True)

    with pytest.raises(OutputError, match="is outside "):
        place_in(tmp_path / "results", "a/b.mp4.json")
