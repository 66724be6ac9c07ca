"""`tallformer bench`: one model on one video, stage by stage."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from tallformer_infer.commands.bench_tables import as_json as to_json
from tallformer_infer.commands.bench_tables import speed_lines
from tallformer_infer.console import Speaker
from tallformer_infer.devices import Device, RunPrecision
from tallformer_infer.errors import MediaError
from tallformer_infer.media import probe
from tallformer_infer.media.byte_sources import STDIN_NAMES, is_regular_file, open_source
from tallformer_infer.pipeline import Detector
from tallformer_infer.speed.sample_video import first_seconds, write_sample
from tallformer_infer.speed.stages import Trial, measure_stages
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.structures import VideoInfo

_MADE = "generated"
_DEFAULT_SECONDS = 60
_BATCHES = 4
"""Calls of the encoder alone; with large models, all clips would take as long as `detect` once more."""
_LONGEST_S = 600.0
"""No further round is begun after so many seconds."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What the user asked for."""

    video: str | None
    """File; None makes one."""
    model: str | None
    """Bundle, or name of a bundled model; None is the default one."""
    device: Device
    """Where to run."""
    precision: RunPrecision | None
    """Of the encoder; None leaves it to the runtime."""
    threads: int | None
    """CPU threads."""
    batch: int | None
    """Clips per call of the encoder alone; None as the device takes them."""
    seconds: float
    """How much of the video; 0 is all."""
    rounds: int
    """How often all is timed."""


def bench_video(options: BenchOptions, speaker: Speaker, *, as_json: bool) -> None:
    """Measure, show the table on stderr, and print JSON on stdout if it is wanted.

    Raises:
        TallformerError: The video or the model cannot be used.
    """
    if options.video is not None:
        _check_source(options.video)
    speaker.step("loading the model")
    detector = run_interruptibly(
        lambda: Detector.load(
            options.model, device=options.device, precision=options.precision, threads=options.threads
        )
    )
    at_once = options.batch or detector.runtime.clips_at_once
    trial = Trial(
        threads=options.threads,
        rounds=options.rounds,
        most_clips=_BATCHES * at_once,
        clips_at_once=options.batch,
        at_most_s=_LONGEST_S,
    )
    with tempfile.TemporaryDirectory(prefix="tallformer-bench-", ignore_cleanup_errors=True) as work:
        speaker.step("making a video" if options.video is None else "looking at the video")
        video, name, info = run_interruptibly(lambda: _prepare(options, Path(work)))
        speaker.step("trying everything once")
        speed = run_interruptibly(
            lambda: measure_stages(
                detector,
                video,
                trial,
                on_round=lambda number: speaker.step(f"round {number + 1} of {options.rounds}"),
            )
        )
    document = to_json(speed, detector, info, video=name, threads=options.threads)
    speaker.stopped()
    speaker.show("speed", speed_lines(speed, document), **document)
    if as_json:
        typer.echo(json.dumps(document, indent=2))


def _check_source(video: str) -> None:
    """Raise a `MediaError` where a video cannot be read several times."""
    if is_regular_file(video):
        return
    if "://" not in video and video not in STDIN_NAMES:
        open_source(video).close()  # says what is wrong with it
    raise MediaError(f"{video}: is read several times; expected a regular file, so save it first")


def _prepare(options: BenchOptions, work: Path) -> tuple[str, str, VideoInfo]:
    """The file to measure on, what to call it, and what it is."""
    if options.video is None:
        made = work / "video.mp4"
        write_sample(made, seconds=int(options.seconds) or _DEFAULT_SECONDS)
        return str(made), _MADE, probe(made)
    info = probe(options.video)
    if not options.seconds or (info.duration_s is not None and info.duration_s <= options.seconds):
        return options.video, options.video, info
    part = work / "part.mkv"
    first_seconds(options.video, part, seconds=options.seconds)
    return str(part), options.video, info
