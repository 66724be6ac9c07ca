"""Files of labels to write: where they go, and that they can go there before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from tallformer_infer.errors import OutputError
from tallformer_infer.labels.formats import FORMATS, encode_labels, require_libraries
from tallformer_infer.labels.segments import LabelledVideo
from tallformer_infer.results import STDOUT, check_destination, make_folder, write_content


def check_label_files(out: Path, form: str, videos: Sequence[LabelledVideo], *, inputs: Sequence[str] = ()) -> None:
    """Refuse a destination or format before hours are spent on what is to be written.

    Args:
        out: A file, `-` for standard output, or, for a format of one video per file, a folder, which is created.
        form: Name of the format.
        videos: With or without their segments.
        inputs: Files that the run reads, and that must not be replaced.

    Raises:
        OutputError: It cannot be written, or two videos would be the same file.
        ExtraError: A library that the format needs is not installed.
    """
    require_libraries(form)
    if FORMATS[form].holds_one_video and is_folder_name(out):
        make_folder(out)
    for path in label_files(out, form, videos):
        check_destination(path, inputs=inputs, example=f"labels{FORMATS[form].suffix}")


def is_folder_name(out: Path) -> bool:
    """Whether a name that is not there yet is that of a folder: one without an ending."""
    return out != STDOUT and not out.exists() and not out.suffix


def label_files(out: Path, form: str, videos: Sequence[LabelledVideo]) -> list[Path]:
    """The files to write: `out`, or for a format of one video per file and a folder, one in it for each video.

    Raises:
        OutputError: There are several videos and `out` is no folder, or two would be the same file.
    """
    facts = FORMATS[form]
    if not facts.holds_one_video or (len(videos) == 1 and not out.is_dir()):
        return [out]
    if out == STDOUT or not out.is_dir():
        raise OutputError(f"{out}: {form} holds one video per file, and there are {len(videos)}; name a folder")
    found: dict[Path, str] = {}
    for video in videos:
        path = out / f"{PurePath(video.bare_name).name}{facts.suffix}"  # never outside of the folder
        if path in found:
            raise OutputError(f"{found[path]} and {video.name}: both would be {path}; rename one, or run them apart")
        found[path] = video.name
    return list(found)


def write_label_files(videos: Sequence[LabelledVideo], form: str, out: Path) -> None:
    """Write videos and their labels, each file whole or not at all.

    Raises:
        OutputError: A file cannot be written, or the format cannot hold the labels.
    """
    paths = label_files(out, form, videos)
    if paths == [out]:
        write_content(encode_labels(videos, form, folder=_folder(out)), out)
        return
    for path, video in zip(paths, videos, strict=True):
        write_content(encode_labels([video], form, folder=out), path)


def _folder(out: Path) -> Path:
    return Path() if out == STDOUT else out.parent
