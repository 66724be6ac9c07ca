"""`tallformer bench`: time the stages of detection on one video, as a table or JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallformer_infer.commands import options
from tallformer_infer.console import Speaker, speaking
from tallformer_infer.devices import Device, RunPrecision, available_cores, processor_features, processor_name
from tallformer_infer.errors import MediaError
from tallformer_infer.stopping import import_interruptibly, run_interruptibly
from tallformer_infer.text import clock, counted, times

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.diagnosis.stages import Speed
    from tallformer_infer.diagnosis.turns import Spread
    from tallformer_infer.pipeline import Detector
    from tallformer_infer.structures import VideoInfo


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

SCHEMA_VERSION = "1.0"
_Shown = Literal["decode", "encode", "detect"]
_NAMES: dict[_Shown, str] = {"decode": "decode alone", "encode": "encode alone", "detect": "detect, all of it"}

_MADE = "generated"
_DEFAULT_SECONDS = 60
_BATCHES = 4
"""Encoder calls that are timed alone; with a large model, all clips would take as long as `detect` again."""
_LONGEST_S = 600.0
"""No new round starts after this many seconds."""


@app.command()
def bench(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    video: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEO", show_default=False, help="Video to use (default: a generated 720p h264 video)."
        ),
    ] = None,
    model: options.Model = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Clips per encoder call (default: as in `detect`)."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Use the first S seconds of the video; 0: all.")
    ] = 60,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of measurements.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Benchmark detection on this machine, and show the bottleneck.

    Measures decoding alone, the encoder alone and `detect` as a whole, and two
    upper bounds of this machine: plain decoding, and large matrix products.
    Reports which stage is the bottleneck and how close it is to its bound. The
    table goes to stderr.

    Run it on an idle machine, with the video and model you care about.

    Exit code: 0 success; 1 the video or the model cannot be used; 2 usage
    error; 130 Ctrl-C; 143 SIGTERM.

    [bold]Examples[/bold]

      tallformer bench
      tallformer bench match.mp4 --model my-model
      tallformer bench match.mp4 --model my-model --threads 1 --seconds 20
      tallformer bench --json | jq .detect.times_real_time
    """
    import_interruptibly("tallformer_infer.diagnosis.stages")

    wanted = BenchOptions(
        video=video,
        model=model,
        device=device,
        precision=precision,
        threads=threads,
        batch=batch,
        seconds=seconds,
        rounds=rounds,
    )
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        bench_video(wanted, speaker, as_json=as_json)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What the user asked for."""

    video: str | None
    """Video file; None: generate one."""
    model: str | None
    """Bundle, or name of a bundled model; None: the default model."""
    device: Device
    """Device."""
    precision: RunPrecision | None
    """Encoder precision; None: chosen by the runtime."""
    threads: int | None
    """CPU threads."""
    batch: int | None
    """Clips per encoder call; None: as `detect` does."""
    seconds: float
    """Length of video to use; 0: all of it."""
    rounds: int
    """Rounds of measurements."""


def bench_video(options: BenchOptions, speaker: Speaker, *, as_json: bool) -> None:
    """Measure, print the table to stderr, and the JSON to stdout if `as_json`.

    Raises:
        TallformerError: The video or the model cannot be used.
    """
    from tallformer_infer.diagnosis.stages import Trial, measure_stages
    from tallformer_infer.pipeline import Detector

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
        speaker.step("generating a video" if options.video is None else "reading the video")
        video, name, info = run_interruptibly(lambda: _prepare(options, Path(work)))
        speaker.step("warming up")
        speed = run_interruptibly(
            lambda: measure_stages(
                detector,
                video,
                trial,
                on_round=lambda number: speaker.step(f"round {number + 1} of {options.rounds}"),
            )
        )
    document = speed_document(speed, detector, info, video=name, threads=options.threads)
    speaker.stopped()
    speaker.show("speed", speed_lines(speed, document), **document)
    if as_json:
        typer.echo(json.dumps(document, indent=2))


def _check_source(video: str) -> None:
    """Raise a `MediaError` if a video cannot be read several times."""
    from tallformer_infer.media import STDIN_NAMES, is_regular_file, open_source

    if is_regular_file(video):
        return
    if "://" not in video and video not in STDIN_NAMES:
        open_source(video).close()  # says what is wrong with it
    raise MediaError(f"{video}: is read several times; expected a regular file, so save it first")


def _prepare(options: BenchOptions, work: Path) -> tuple[str, str, VideoInfo]:
    """The file to measure on, its name in the output, and its properties."""
    from tallformer_infer.diagnosis.sample_video import first_seconds, write_sample
    from tallformer_infer.media import probe

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


def speed_document(
    speed: Speed, detector: Detector, info: VideoInfo, *, video: str, threads: int | None
) -> dict[str, Any]:
    """The measurements as JSON; names stay the same within a major `schema_version`."""
    bundle, runtime = detector.bundle, detector.runtime
    product = speed.timings.get("matrix product")
    return {
        "schema_version": SCHEMA_VERSION,
        "video": {
            "path": video,
            "codec": info.codec,
            "width_px": info.width_px,
            "height_px": info.height_px,
            "measured_s": round(speed.duration_s, 3),
            "source_frames": speed.source_frames,
            "frames": speed.frames,
        },
        "model": {
            "name": bundle.name,
            "recipe": bundle.recipe.name,
            "precision": runtime.precision,
            "gigaflop_per_clip": speed.gigaflop_per_clip and round(speed.gigaflop_per_clip, 3),
        },
        "machine": {
            "processor": processor_name(),
            "processor_features": list(processor_features()),
            "cores": available_cores(),
            "threads": threads,
            "device": runtime.device,
            "runtime": runtime.name,
        },
        "rounds": len(speed.timings["detect"].wall_s),
        "ceilings": {
            "decode_frames_per_s": _rate(speed.source_frames, speed.timings["bare decode"].spread),
            "matrix_gigaflop_per_s": product and _rate(speed.gigaflop_per_product or 0, product.spread),
        },
        "decode": {**_stage(speed, "decode"), "frames_per_s": _rate(speed.source_frames, _wall(speed, "decode"))},
        "encode": {
            **_stage(speed, "encode"),
            "clips": speed.clips,
            "clips_timed": speed.clips_timed,
            "clips_at_once": speed.clips_at_once,
            "clips_per_s": _rate(speed.clips, _wall(speed, "encode")),
        },
        "detect": {
            **_stage(speed, "detect"),
            "times_slower_stage": round(speed.over_slower_stage.median, 3),
        },
        "binds": speed.binding,
    }


def speed_lines(speed: Speed, facts: dict[str, Any]) -> list[str]:
    """The table, line by line."""
    video, model, machine = facts["video"], facts["model"], facts["machine"]
    threads = "one thread per core" if machine["threads"] is None else counted(machine["threads"], "thread")
    head = f"{'':18}{'median':>9}{'quartiles':>17}{'real time':>11}   of its limit"
    return [
        f"{video['path']}: {clock(speed.duration_s, digits=1)}, {video['width_px']}×{video['height_px']} "
        f"{video['codec']}, {counted(speed.source_frames, 'frame')}, {speed.frames} sampled",
        f"{model['name']} ({model['recipe']}, {model['precision']}), {machine['device']}, {machine['runtime']}, "
        f"{machine['cores']} cores, {threads}, {', '.join([machine['processor'], *machine['processor_features']])}; "
        f"{counted(facts['rounds'], 'round')} in turn",
        "",
        head,
        *_rows(speed, facts),
        "",
        *_verdict(speed),
    ]


def _rows(speed: Speed, facts: dict[str, Any]) -> Iterator[str]:
    ceilings = facts["ceilings"]
    rate = ceilings["matrix_gigaflop_per_s"]
    limits = {
        "decode": f"of {ceilings['decode_frames_per_s']:,.0f} frames/s, decoded and dropped",
        "encode": f"of {rate or 0:,.0f} GFLOP/s, products of matrices",
        "detect": f"of the limit of {speed.binding}",
    }
    for stage, name in _NAMES.items():
        entry = facts[stage]
        low, high = entry["quartiles_s"]
        share = entry["ceiling_share"]
        limit = f"{share:4.0%} {limits[stage]}" if share is not None else "not known here"
        yield (
            f"{name:18}{entry['median_s']:>7.2f} s{f'{low:.2f} to {high:.2f} s':>17}"
            f"{times(entry['times_real_time']):>11}   {limit}"
        )


def _verdict(speed: Speed) -> Iterator[str]:
    other: _Shown = "encode" if speed.binding == "decode" else "decode"
    longer = _wall(speed, speed.binding).median / _wall(speed, other).median
    yield (
        f"{speed.binding} is the bottleneck: alone it takes {longer:.1f} times as long as {other}, and all of it takes "
        f"{speed.over_slower_stage.median:.2f} times as long as {speed.binding} alone"
    )


def _stage(speed: Speed, stage: _Shown) -> dict[str, Any]:
    wall, share = _wall(speed, stage), speed.ceiling_share(stage)
    return {
        "median_s": _rounded(wall.median),
        "quartiles_s": [_rounded(wall.low), _rounded(wall.high)],
        "times_real_time": _rounded(speed.duration_s / wall.median),
        "ceiling_share": None if share is None else round(share.median, 3),
    }


def _wall(speed: Speed, stage: _Shown) -> Spread:
    return speed.timings[stage].spread


def _rate(count: float, spread: Spread) -> float:
    return _rounded(count / spread.median)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
