"""`tallformer watch`: actions of a live source as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tallformer_infer.commands import options

if TYPE_CHECKING:
    from tallformer_infer.live import Event

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_SOURCE = "Source"


@app.command()
def watch(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="rtsp://, http(s):// (HLS), rtmp://, srt:// or udp:// URL, /dev/video0, a growing file, or -.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Append lines to this file (default: stdout).")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep a clip around each action, copied as received.")
    ] = None,
    provisional: Annotated[
        bool,
        typer.Option("--provisional", help="Also write actions before they are final; later lines revise or end them."),
    ] = False,
    model: options.Model = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    threshold: options.Threshold = None,
    operating_point: options.OperatingPoint = None,
    classes: options.Classes = None,
    max_delay: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Drop frames when detection falls this far behind.",
            rich_help_panel=_SOURCE,
        ),
    ] = 30.0,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Reconnect after this long without data.", rich_help_panel=_SOURCE
        ),
    ] = 10.0,
    idle: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="End when a file has not grown for this long.", rich_help_panel=_SOURCE
        ),
    ] = 10.0,
    once: Annotated[
        bool, typer.Option("--once", help="End when the connection is lost; do not reconnect.", rich_help_panel=_SOURCE)
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Detect actions in a live stream, and write them as JSON lines.

    Writes an action as soon as no later frame can change it, at the end of its
    window at the earliest. With --provisional, a line also comes about one
    clip after the action; lines with the same id revise it, make it final
    ("action") or withdraw it ("withdrawn"). Reconnects after a lost connection, and reports the
    gap in wall-clock time. Memory stays constant.

    Exit code: 0 the source has ended; 1 it cannot be opened; 2 usage error;
    130 Ctrl-C; 143 SIGTERM.

    [bold]Examples[/bold]

      tallformer watch rtsp://camera.local/stream1
      tallformer watch rtsp://camera.local/stream1 --record clips --out actions.jsonl
      tallformer watch /dev/video0 --threshold 0.5 --provisional
    """
    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("tallformer_infer.live")

    from tallformer_infer.live import Feed, FeedOptions, Recorder
    from tallformer_infer.live import watch as watch_feed

    wanted = options.DetectorOptions(
        model=model,
        device=device,
        threads=threads,
        threshold=threshold,
        classes=tuple(classes or ()),
        operating_point=operating_point,
    )
    detector = wanted.load()
    recipe = detector.bundle.recipe
    if recipe.sampling.most_frames is not None:
        raise typer.BadParameter(f"--model {detector.bundle.name}: sees whole videos, and a live stream has no end")
    selection = wanted.selection(detector.bundle)
    window_s = recipe.window.window_frames / recipe.sampling.sample_fps
    keep_s = 3 * window_s + 2 * max_delay if record is not None else 0.0
    feed_options = FeedOptions(
        timeout_s=timeout, most_delay_s=max_delay, keep_s=keep_s, reconnects=not once, idle_s=idle
    )
    recorder = None if record is None else Recorder(record)
    feed = Feed(source, feed_options)
    if not quiet:
        typer.echo(f"tallformer: watching {source}; an action is final up to {window_s:.0f} s after it", err=True)
    events = watch_feed(
        feed,
        detector,
        threshold=threshold,
        classes=selection.classes,
        operating_point=operating_point,
        recorder=recorder,
        provisional=provisional,
    )
    try:
        _write(events, out)
    finally:
        feed.close()


def _write(events: Iterator[Event], out: Path | None) -> None:
    """Write every event as it comes, and report gaps."""
    from tallformer_infer.files import writing
    from tallformer_infer.stopping import run_interruptibly

    file: TextIO = sys.stdout
    if out is not None and str(out) != "-":
        with writing(out):
            file = out.open("a", encoding="utf-8")
    while (event := run_interruptibly(lambda: next(events, None))) is not None:
        file.write(json.dumps(event, ensure_ascii=False) + "\n")
        file.flush()
        if event["event"] == "gap":
            typer.echo(f"tallformer: gap of {event['seconds']} s: {event['detail']}", err=True)
