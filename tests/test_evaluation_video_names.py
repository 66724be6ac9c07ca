"""Names of videos: which two are the same, and lists of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.segments import match_video, read_video_list


def write(folder: Path, text: str) -> Path:
    path = folder / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("video", "known", "match"),
    [
        ("a", ["a", "v_a"], "a"),
        ("v_a", ["a"], "a"),
        ("a", ["v_a"], "v_a"),
        ("a", ["b"], None),
        ("v_a", ["v_v_a"], None),
    ],
)
def test_a_video_is_found_by_its_name_before_that_with_or_without_prefix(
    video: str, known: list[str], match: str | None
) -> None:
    assert match_video(video, known) == match


class TestVideoList:
    def test_names_without_comments_and_empty_lines(self, tmp_path: Path) -> None:
        assert read_video_list(write(tmp_path, "a\n\n# why\n  b  # gone\n")) == {"a", "b"}

    def test_a_list_of_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match="expected one video name per line, found none"):
            read_video_list(write(tmp_path, "# nothing\n"))

    def test_a_missing_list_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match="no such file"):
            read_video_list(tmp_path / "list.txt")

    def test_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")

        with pytest.raises(AnnotationError, match="expected a text file"):
            read_video_list(tmp_path / "list.txt")
