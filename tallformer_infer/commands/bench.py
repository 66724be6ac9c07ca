"""`tallformer bench`: what the user can ask for. What is done about it: `benching`."""

from __future__ import annotations

from typing import Annotated

import typer

from tallformer_infer.commands import options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


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
    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("tallformer_infer.commands.benching")

    from tallformer_infer.commands.benching import BenchOptions, bench_video
    from tallformer_infer.console import speaking

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
