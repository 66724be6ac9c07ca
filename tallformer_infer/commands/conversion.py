"""`tallformer convert`: labels in, labels out."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import typer

from tallformer_infer.commands.label_files import check_label_files, write_label_files
from tallformer_infer.console import Speaker
from tallformer_infer.errors import AnnotationError, TallformerError
from tallformer_infer.labels.formats import FORMATS, LabelFile, notes_on, read_label_file
from tallformer_infer.labels.names import SUFFIXES
from tallformer_infer.labels.segments import LabelledVideo, shifted
from tallformer_infer.media.probe import probe
from tallformer_infer.results import STDOUT
from tallformer_infer.text import counted, printable


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What the user asked for."""

    files: tuple[Path, ...]
    """Files to read."""
    out: Path
    """File or folder to write, `-` for stdout."""
    read: str | None
    """Format of every file; None tells it from each."""
    write: str
    """Format to write."""
    video: str | None
    """Name for the only video."""
    fps: float | None
    """Frames per second of videos that do not say it."""
    subset: str | None
    """Subset of all videos; None leaves them as they are."""
    tiers: tuple[str, ...] = ()
    """Tiers of ELAN documents to read; none for all that have times."""


def convert_files(options: ConvertOptions, speaker: Speaker) -> None:
    """Read every file, and write what was in them.

    Raises:
        TallformerError: A file cannot be read, or what was read cannot be written.
        typer.BadParameter: Options do not fit what was read.
    """
    if options.fps is not None and not (math.isfinite(options.fps) and options.fps > 0):
        raise typer.BadParameter(f"--fps {options.fps}: expected frames per second, such as 29.97")
    videos = [_changed(video, options) for video in _read_all(options, speaker)]
    check_label_files(options.out, options.write, videos, inputs=[str(path) for path in options.files])
    for note in notes_on(videos, options.write):
        speaker.say("warning", note)
    write_label_files(videos, options.write, options.out)
    segments = sum(len(video.segments) for video in videos)
    where = "stdout" if options.out == STDOUT else printable(options.out)
    done = f"wrote {counted(segments, 'segment')} of {counted(len(videos), 'video')} to {where}"
    speaker.say("written", done, out=str(options.out), videos=len(videos), segments=segments, format=options.write)


def _read_all(options: ConvertOptions, speaker: Speaker) -> list[LabelledVideo]:
    files = [read_label_file(path, form=options.read, fps=options.fps, tiers=options.tiers) for path in options.files]
    for file in files:
        if options.tiers and file.form != "eaf":
            raise typer.BadParameter(f"--tier is for ELAN documents, and {file.path} is {file.form}")
        for note in file.notes:
            speaker.say("warning", note)
    count = sum(len(file.videos) for file in files)
    if options.video is not None and count != 1:
        raise typer.BadParameter(f"--video names one video, and there are {count} in what was read")
    found: dict[str, Path] = {}
    videos: list[LabelledVideo] = []
    for file in files:
        for video in file.videos:
            if video.name in found:
                raise AnnotationError(
                    f"{file.path}: has the video {video.name}, as {found[video.name]} has; keep one of them"
                )
            found[video.name] = file.path
            if options.video is not None:
                video = dataclasses.replace(video, name=options.video, has_bare_name=False)  # noqa: PLW2901
            videos.append(_on_its_time_line(video, file, options.write, speaker))
    return videos


def _on_its_time_line(video: LabelledVideo, file: LabelFile, write: str, speaker: Speaker) -> LabelledVideo:
    """The video with times of its own time line, and its start, where the file of it is there to tell that.

    See Note [where times begin] in `labels.formats`.
    """
    counts_from_zero = FORMATS[file.form].counts_from_zero
    if counts_from_zero == FORMATS[write].counts_from_zero or video.start_s:
        return video
    path = _file_of(video, file.path.parent)
    if path is None:
        return video
    try:
        start_s = round(probe(path).start_s, 6)
    except TallformerError as error:
        speaker.say("warning", f"{path}: when it begins is not known, and is taken to be 0: {error}")
        return video
    if not counts_from_zero:
        return dataclasses.replace(video, start_s=start_s)
    return shifted(video, start_s)


def _file_of(video: LabelledVideo, folder: Path) -> Path | None:
    """The file of a video on this machine: where its name says, or beside the labels; None where there is none."""
    if "://" in video.name:
        return None
    places = [Path(video.name), folder / video.name, folder / re.split(r"[/\\]", video.name)[-1]]
    for path in places:
        if not video.has_bare_name and os.path.isfile(path):  # noqa: PTH113 (False for names that no file can have)
            return path
    named = {os.path.abspath(f"{path}{suffix}") for path in places[1:] for suffix in SUFFIXES}  # noqa: PTH100
    found = [Path(path) for path in named if os.path.isfile(path)]  # noqa: PTH113
    return found[0] if len(found) == 1 else None


def _changed(video: LabelledVideo, options: ConvertOptions) -> LabelledVideo:
    return dataclasses.replace(video, fps=video.fps or options.fps, subset=options.subset or video.subset)
