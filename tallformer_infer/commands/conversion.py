"""`tallformer convert`: labels in, labels out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import typer

from tallformer_infer.commands.label_files import check_label_files, write_label_files
from tallformer_infer.commands.saying import Speaker
from tallformer_infer.commands.text import counted, printable
from tallformer_infer.errors import AnnotationError
from tallformer_infer.formats import LabelFormat, LabelledVideo, ReadableFormat, notes_on, read_labels
from tallformer_infer.results import STDOUT


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What the user asked for."""

    files: tuple[Path, ...]
    """Files to read."""
    out: Path
    """File or folder to write, `-` for stdout."""
    read: ReadableFormat | None
    """Format of every file; None tells it from each."""
    write: LabelFormat
    """Format to write."""
    video: str | None
    """Name for the only video."""
    fps: float | None
    """Frames per second of videos that do not say it."""
    subset: str | None
    """Subset of all videos; None leaves them as they are."""


def convert_files(options: ConvertOptions, speaker: Speaker) -> None:
    """Read every file, and write what was in them.

    Raises:
        TallformerError: A file cannot be read, or what was read cannot be written.
        typer.BadParameter: Options do not fit what was read.
    """
    if options.fps is not None and not (math.isfinite(options.fps) and options.fps > 0):
        raise typer.BadParameter(f"--fps {options.fps}: expected frames per second, such as 29.97")
    videos = [_changed(video, options) for video in _read_all(options)]
    if options.video is not None:
        if len(videos) != 1:
            raise typer.BadParameter(f"--video names one video, and there are {len(videos)} in what was read")
        videos = [dataclasses.replace(videos[0], name=options.video, has_bare_name=False)]
    check_label_files(options.out, options.write, videos, inputs=[str(path) for path in options.files])
    for note in notes_on(videos, options.write):
        speaker.say("warning", note)
    write_label_files(videos, options.write, options.out)
    segments = sum(len(video.segments) for video in videos)
    where = "stdout" if options.out == STDOUT else printable(options.out)
    done = f"wrote {counted(segments, 'segment')} of {counted(len(videos), 'video')} to {where}"
    speaker.say("written", done, out=str(options.out), videos=len(videos), segments=segments, format=options.write)


def _read_all(options: ConvertOptions) -> list[LabelledVideo]:
    found: dict[str, Path] = {}
    videos: list[LabelledVideo] = []
    for path in options.files:
        for video in read_labels(path, form=options.read, fps=options.fps):
            if video.name in found:
                raise AnnotationError(
                    f"{path}: has the video {video.name}, as {found[video.name]} has; keep one of them"
                )
            found[video.name] = path
            videos.append(video)
    return videos


def _changed(video: LabelledVideo, options: ConvertOptions) -> LabelledVideo:
    return dataclasses.replace(video, fps=video.fps or options.fps, subset=options.subset or video.subset)
