"""Command line: `python -m tallformer_training.synthetic --out DIR --videos N --seed S`."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tallformer_infer.errors import ConfigError, TallformerError
from tallformer_training.synthetic.dataset import SetSpec, make_dataset
from tallformer_training.synthetic.script import Style, Subset, VideoSpec


def make(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    out: Annotated[Path, typer.Option(help="Folder for the videos and their annotations.json.")],
    videos: Annotated[int, typer.Option(help="Number of videos.")],
    seed: Annotated[int, typer.Option(help="Seed, an integer.")],
    style: Annotated[
        str, typer.Option(help="thumos14: many actions of all classes; activitynet: a few long ones, all of one class.")
    ] = "thumos14",
    minutes: Annotated[
        float | None, typer.Option(help="Length of each video.", show_default="2; activitynet: 25 to 50 s")
    ] = None,
    subset: Annotated[str, typer.Option(help="training, validation or testing; they share no look.")] = "training",
    fps: Annotated[float, typer.Option(help="Frame rate.")] = 15.0,
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "128x96",
    jobs: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
) -> None:
    """Generate untrimmed videos with exact ground truth. Repeat the command to continue after an interruption."""
    console = Console(stderr=True)
    try:
        width_px, height_px = _read_size(size)
        spec = SetSpec(
            subset=cast(Subset, subset),
            videos=videos,
            seed=seed,
            minutes=minutes,
            fps=fps,
            width_px=width_px,
            height_px=height_px,
            style=cast(Style, style),
        )
        _make_with_progress(spec, out, jobs or os.cpu_count() or 1, console)
    except TallformerError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; repeat the command to continue")
        sys.exit(130)


def _make_with_progress(spec: SetSpec, out: Path, jobs: int, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    began, written, minutes = time.perf_counter(), 0, 0.0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{spec.subset} videos", total=spec.videos, speed="")

        def count(video: VideoSpec, is_new: bool) -> None:
            nonlocal written, minutes
            written, minutes = written + is_new, minutes + is_new * video.minutes
            speed = minutes * 60 / (time.perf_counter() - began)
            progress.update(task, advance=1, speed=f"{speed:.0f} × real time" if written else "")

        truth = make_dataset(spec, out, jobs=jobs, on_video=count)
    console.print(f"{written} written, {spec.videos - written} existed already; truth: {truth}", soft_wrap=True)


def _read_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if match is None:
        raise ConfigError(f"size={size}: expected WIDTHxHEIGHT in pixels, such as 128x96")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    typer.run(make)
