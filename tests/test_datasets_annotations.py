"""Annotations and video files: read as they are, and refused all at once where they are wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.files import Problems
from tallformer_infer.labels.truth import read_annotations
from tallformer_training.datasets import DatasetRequest, VideoSet, read_video_set
from tests.videos import write_video

CLASSES = ("run", "jump")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 2 s: a, v_b and, in a folder of its own, c."""
    folder = tmp_path_factory.mktemp("videos")
    picture = np.zeros((32, 32, 3), np.uint8)
    (folder / "deeper").mkdir()
    for path in ("a.mp4", "v_b.mkv", "deeper/c.mp4"):
        write_video(folder / path, [picture] * 30, fps=15)
    (folder / "notes.txt").write_text("no video")
    return folder


def write(folder: Path, database: dict[str, Any]) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps({"database": database}), encoding="utf-8")
    return path


def entry(*segments: Any, subset: str = "training", label: str = "run") -> dict[str, Any]:
    return {"subset": subset, "annotations": [{"segment": segment, "label": label} for segment in segments]}


def read(annotations: Path, videos: Path, **changes: Any) -> VideoSet:
    return read_video_set(replace(DatasetRequest(annotations=annotations, videos=videos), **changes), CLASSES)


def problems_of(annotations: Path, videos: Path, **changes: Any) -> list[str]:
    with pytest.raises(AnnotationError) as raised:
        read(annotations, videos, **changes)
    return [line.removeprefix(f"{annotations}: ") for line in str(raised.value).splitlines()]


def test_videos_are_found_by_name_with_or_without_v_and_in_folders_below(tmp_path: Path, videos: Path) -> None:
    path = write(tmp_path, {"v_a": entry([0, 1]), "b": entry([0, 1]), "c.mp4": entry([0.5, 2])})

    found = read(path, videos)

    assert [video.path.name for video in found.videos] == ["a.mp4", "v_b.mkv", "c.mp4"]
    assert [video.name for video in found.videos] == ["v_a", "b", "c.mp4"]


def test_segments_become_rows_and_labels_become_classes(tmp_path: Path, videos: Path) -> None:
    path = write(tmp_path, {"a": {"annotations": [{"segment": ["0.5", 1.5], "label": "jump"}]}})

    (video,) = read(path, videos).videos

    np.testing.assert_array_equal(video.segments_s, [[0.5, 1.5]])
    np.testing.assert_array_equal(video.segments_frames(15.0, 30), [[7.5, 22.5]])
    assert video.labels.tolist() == [1]


def test_every_problem_is_reported_at_once_with_its_key(tmp_path: Path, videos: Path) -> None:
    path = write(
        tmp_path,
        {
            "a": {
                "duration": -1,
                "annotations": [
                    {"segment": [1.5, 0.5], "label": "run"},
                    {"segment": [0.5, float("nan")], "label": "run"},
                    {"segment": [0, 1], "label": "swim"},
                    {"segment": [0, 4], "label": "run"},
                    {"segment": [5, 6], "label": "run"},
                    {"segment": [0, 1], "label": "jump"},
                    {"segment": [0, 1], "label": "jump"},
                    {"segment": [1, 1], "label": "jump"},
                    {"segment": [0], "label": "jump"},
                    {"segment": [0, 1], "label": 3},
                    "x",
                ],
            },
            "nowhere": {"annotations": [{"segment": [0, 1], "label": "run"}]},
            "b": {"annotations": "none"},
            "c": 5,
        },
    )

    problems = problems_of(path, videos)

    keys = [line.partition(": ")[0] for line in problems]
    rows = "database.a.annotations"
    assert sorted(keys) == sorted(
        [
            "database.a.duration",
            *[f"{rows}[{row}].segment" for row in (0, 1, 2, 3, 4, 6, 7, 8)],
            f"{rows}[9].label",
            f"{rows}[10]",
            "database.nowhere",
            "database.b.annotations",
            "database.c",
        ]
    )
    text = "\n".join(problems)
    for part in (
        "ends at 0.5 s, before it starts at 1.5 s",
        "got [0.5, NaN]",
        "class 'swim' is not among the recipe's classes (run, jump)",
        "[0, 4] s goes beyond the video, which goes from 0 to 2 s; --repair skips it",
        "[5, 6] s lies outside the video",
        "duplicate of the segment at database.a.annotations[5].segment",
        "starts and ends at 1 s; expected a length above 0",
        "no file of that name in",
    ):
        assert part in text


def test_repair_passes_over_known_faults_and_counts_them(tmp_path: Path, videos: Path) -> None:
    rows = [[0, 1], [0, 1], [1, 4], [5, 6], [1, 1]]
    path = write(tmp_path, {"a": entry(*rows), "nowhere": entry([0, 1])})

    found = read(path, videos, repair=True)

    np.testing.assert_array_equal(found.videos[0].segments_s, [[0, 1], [1, 2]])
    assert set(found.notes[1:]) == {
        "classes without a segment: jump",
        "videos without a file: 1",
        "duplicate segments, skipped: 1",
        "segments that extend beyond their video, clipped: 1",
        "segments outside their video, skipped: 1",
        "segments without length, skipped: 1",
    }


def test_repair_does_not_help_a_segment_that_ends_before_it_starts(tmp_path: Path, videos: Path) -> None:
    path = write(tmp_path, {"a": entry([0, 1], [1.5, 0.5])})

    assert len(problems_of(path, videos, repair=True)) == 1


@pytest.mark.parametrize(("end_s", "is_refused"), [(2.0, False), (2.5, False), (2.51, True)])
def test_half_a_second_behind_the_end_is_cut(tmp_path: Path, videos: Path, end_s: float, is_refused: bool) -> None:
    path = write(tmp_path, {"a": entry([1, end_s])})

    if is_refused:
        assert "goes beyond the video" in problems_of(path, videos)[0]
    else:
        np.testing.assert_array_equal(read(path, videos).videos[0].segments_s, [[1, 2]])


def test_two_files_of_one_video_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "a.mkv"):
        write_video(folder / name, [np.zeros((32, 32, 3), np.uint8)] * 30)

    (problem,) = problems_of(write(tmp_path, {"a": entry([0, 1])}), folder)

    assert problem.startswith("database.a: has 2 files: ")


def test_a_file_that_is_no_video_is_refused_like_any_other_problem(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"no video at all")

    (problem,) = problems_of(write(tmp_path, {"a": entry([0, 1])}), folder)

    assert problem.startswith(f"database.a: {folder / 'a.mp4'}: ")


def test_ambiguous_segments_are_background(tmp_path: Path, videos: Path) -> None:
    database = {"a": entry([0, 1]), "b": entry([0, 1], label="Ambiguous")}

    found = read(write(tmp_path, database), videos)

    assert [len(video.labels) for video in found.videos] == [1, 0]
    assert "segments of class Ambiguous, left as background: 1" in found.notes
    assert "videos without a segment: 1; they are background" in found.notes


@pytest.mark.parametrize(
    ("database", "message"),
    [({"a": entry()}, "no segment of the recipe's classes"), ({}, "database: expected an object with a key per video")],
)
def test_annotations_with_nothing_to_learn_are_refused(
    tmp_path: Path, videos: Path, database: dict[str, Any], message: str
) -> None:
    assert message in problems_of(write(tmp_path, database), videos)[0]


def test_the_training_subset_is_taken_unless_another_is_named(tmp_path: Path, videos: Path) -> None:
    path = write(tmp_path, {"a": entry([0, 1], subset="train"), "b": entry([0, 1], subset="Validation")})

    assert [video.name for video in read(path, videos).videos] == ["a"]
    assert [video.name for video in read(path, videos, subset="validation").videos] == ["b"]


def test_a_video_without_a_subset_is_refused_where_others_have_one(tmp_path: Path, videos: Path) -> None:
    path = write(tmp_path, {"a": entry([0, 1]), "b": {"annotations": []}, "c": {"subset": 1, "annotations": []}})

    assert problems_of(path, videos) == [
        'database.b: has no "subset", though other videos have one',
        "database.c.subset: expected a name, got 1",
    ]


def test_a_thumos_folder_is_read_and_its_faults_have_lines(tmp_path: Path) -> None:
    (tmp_path / "Diving_val.txt").write_text("v1  1.0  2.5\nv2  0  3\n\n")
    (tmp_path / "Ambiguous_val.txt").write_text("v1  7 8\n")
    (tmp_path / "Diving_test.txt").write_text("t1  1.0  2.5\n")
    problems = Problems(str(tmp_path))

    found = read_annotations(tmp_path, subset=None, defaults=("training", "validation"), problems=problems)

    assert not problems.lines
    assert found.subset == "validation"
    assert {video.name: [(row.start_s, row.end_s, row.label) for row in video.segments] for video in found.videos} == {
        "v1": [(7.0, 8.0, "Ambiguous"), (1.0, 2.5, "Diving")],
        "v2": [(0.0, 3.0, "Diving")],
    }
    (tmp_path / "Diving_val.txt").write_text("v1 1.0\nv1 a b\n")
    read_annotations(tmp_path, subset="val", defaults=(), problems=problems)
    assert [line.split(": ")[1] for line in problems.lines] == ["Diving_val.txt:1", "Diving_val.txt:2"]


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_videos_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(AnnotationError, match=r"no such folder|has no video file"):
        read(write(tmp_path, {"a": entry([0, 1])}), tmp_path / folder)
