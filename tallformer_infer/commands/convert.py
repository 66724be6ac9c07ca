"""`tallformer convert`: read label files of one format, write another."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallformer_infer.commands import options
from tallformer_infer.commands.options import converted_format, converted_named, readable_named
from tallformer_infer.console import Speaker, speaking
from tallformer_infer.errors import AnnotationError, TallformerError
from tallformer_infer.stopping import import_interruptibly
from tallformer_infer.text import counted, printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.labels import LabelFile, LabelledVideo


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def convert(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", show_default=False, help="Label files, of one format or several."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file; - is stdout; a folder for one file per video.",
            show_default=False,
        ),
    ],
    read: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            parser=readable_named,
            help="Format of FILE (default: from its ending and content).",
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            parser=converted_named,
            help="Output format (default: from the ending of --out, else truth).",
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(metavar="VIDEO", help="Name of the video, if FILE has one video without a name."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="X", help="Frames per second, if labels count frames without stating the rate."),
    ] = None,
    tiers: Annotated[
        list[str] | None,
        typer.Option("--tier", metavar="NAME", help="ELAN tier to read; may be repeated. Default: all with times."),
    ] = None,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Subset to assign to all videos: training, validation, testing.")
    ] = None,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Convert labels between formats, such as corrected labels to ground truth.

    Reads json (ActivityNet truth and results, actions.json), csv, tsv, jsonl,
    parquet, srt, vtt, eaf (ELAN), labelstudio, via (VIA 3), boris and
    ffmetadata.

    Writes truth (ActivityNet form, for `eval`, `calibrate` and `train`),
    activitynet (results), csv, tsv, jsonl, srt, vtt, eaf, labelstudio,
    labelstudio-config, via, boris, otio, edl, fcp7 and ffmetadata.

    [bold]Examples[/bold]

      tallformer convert corrected.eaf --out truth.json
      tallformer convert *.srt --out truth.json --subset validation
      tallformer convert actions.json --to eaf --out folder
      tallformer convert export.json --fps 29.97 --out truth.json
      tallformer convert study.eaf --tier action --out truth.json
    """
    import_interruptibly("tallformer_infer.labels.formats")
    import_interruptibly("tallformer_infer.media")

    wanted = ConvertOptions(
        files=tuple(files),
        out=out,
        read=read,
        write=write or converted_format(out),
        video=video,
        fps=fps,
        subset=subset,
        tiers=tuple(tiers or ()),
    )
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        convert_files(wanted, speaker)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What the user asked for."""

    files: tuple[Path, ...]
    """Files to read."""
    out: Path
    """File or folder to write, `-` for stdout."""
    read: str | None
    """Format of every file; None: from each file's ending and content."""
    write: str
    """Format to write."""
    video: str | None
    """Name for the only video."""
    fps: float | None
    """Frame rate of videos that do not state it, in frames per second."""
    subset: str | None
    """Subset to assign to all videos; None: keep theirs."""
    tiers: tuple[str, ...] = ()
    """ELAN tiers to read; empty: all with times."""


def convert_files(options: ConvertOptions, speaker: Speaker) -> None:
    """Read every file and write all videos in the other format.

    Raises:
        TallformerError: A file cannot be read, or what was read cannot be written.
        typer.BadParameter: Options do not fit what was read.
    """
    from tallformer_infer.commands.result_files import check_label_files, write_label_files
    from tallformer_infer.labels import notes_on
    from tallformer_infer.results import STDOUT

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
    from tallformer_infer.labels import read_label_file

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
    """The video with times on its own time line, and its start, if its file is here to read the start from.

    See Note [where times begin] in `labels.formats`.
    """
    from tallformer_infer.labels import FORMATS, shifted
    from tallformer_infer.media import probe

    counts_from_zero = FORMATS[file.form].counts_from_zero
    if counts_from_zero == FORMATS[write].counts_from_zero or video.start_s:
        return video
    path = _file_of(video, file.path.parent)
    if path is None:
        return video
    try:
        start_s = round(probe(path).start_s, 6)
    except TallformerError as error:
        speaker.say("warning", f"{path}: its start is not known, 0 is assumed: {error}")
        return video
    if not counts_from_zero:
        return dataclasses.replace(video, start_s=start_s)
    return shifted(video, start_s)


def _file_of(video: LabelledVideo, folder: Path) -> Path | None:
    """The file of a video: where its name says, or beside the labels; None if it is in neither place."""
    from tallformer_infer.labels import SUFFIXES

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
