"""`tallformer bench`: what the user can ask for. What is done about it: `benching`."""

from __future__ import annotations

from typing import Annotated

import typer

from tallformer_infer.devices import Device, RunPrecision

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def bench(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    video: Annotated[
        str | None,
        typer.Argument(metavar="VIDEO", show_default=False, help="A file; without one, 720p h264 is made for it."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="BUNDLE", help="Folder, .zip, or a name that `tallformer models` lists."),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(help="As `tallformer detect` takes it."),
    ] = "auto",
    precision: Annotated[RunPrecision | None, typer.Option(help="As `tallformer detect` takes it.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads; else one per core.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Clips per call of the encoder alone; else as `detect` takes them."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="How much of the video, from its start; 0 takes all.")
    ] = 60,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often all is timed, in turn.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and failures (stderr).")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object per line (stderr).")] = False,
) -> None:
    """Measure how fast this machine detects, and what keeps it from being faster.

    Times, in turn: decoding alone, the encoder alone, and `detect` as a whole;
    and the two rates that no detector can pass here: decoding without any use
    of the pictures, and large products of matrices. Says which of the two
    stages binds, and how near to its limit it is. The table goes to stderr.

    The machine should be quiet. Take the video and the model that matter: both
    decide what binds.

    Exit code: 0 measured; 1 the video or the model cannot be used; 2 usage; 130
    stopped by Ctrl-C; 143 stopped by SIGTERM.

    [bold]Examples[/bold]

      tallformer bench
      tallformer bench match.mp4 --model my-model
      tallformer bench match.mp4 --model my-model --threads 1 --seconds 20
      tallformer bench --json | jq .detect.times_real_time
    """
    from tallformer_infer.commands.waiting import import_interruptibly

    import_interruptibly("tallformer_infer.commands.benching")

    from tallformer_infer.commands.benching import BenchOptions, bench_video
    from tallformer_infer.commands.saying import speaking

    options = BenchOptions(
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
        bench_video(options, speaker, as_json=as_json)
