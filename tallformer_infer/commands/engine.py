"""`tallformer engine`: TensorRT engines of a bundle."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        show_default=False,
        help="Folder, .zip, or a name listed by `tallformer models` (default: the default model).",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log as JSON, one object per line.")]


@app.callback()
def engine() -> None:
    """Build TensorRT engines from a bundle's graphs for `tallformer detect --device tensorrt`, and list them."""


@app.command()
def build(
    model: Model = None,
    clips: Annotated[
        str,
        typer.Option(metavar="N,N,N", help="Least, best and most clips per encoder call; one number fixes it."),
    ] = "1,8,8",
    windows: Annotated[
        str, typer.Option(metavar="N,N,N", help="Least, best and most windows per localizer call, likewise.")
    ] = "1",
    library: Annotated[
        Literal["tensorrt", "tensorrt_rtx"] | None,
        typer.Option(
            metavar="NAME",
            help="tensorrt or tensorrt_rtx (default: tensorrt if installed).",
            show_default=False,
        ),
    ] = None,
    ahead_of_time: Annotated[
        str | None,
        typer.Option(
            metavar="TARGETS",
            help="Build for other GPUs, such as sm86,sm89, or portable (tensorrt_rtx only).",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild existing engines.")] = False,
    quiet: Quiet = False,
    json_logs: JsonLogs = False,
) -> None:
    """Build the engines of a bundle for the GPU of this machine.

    They take their precision from the bundle: see `tallformer export --precision`.
    An engine is used only with the graph, GPU, TensorRT version and platform it
    was built for, so build again after any of them changes. It lies in the folder
    `engines` of the bundle, or in your cache if the bundle is a .zip, came with
    tallformer, or cannot be written.

    [bold]Examples[/bold]

      tallformer engine build my-model
      tallformer engine build my-model.zip --clips 1,16,16
      tallformer engine build my-model --ahead-of-time sm86,sm89
    """
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.console import speaking
    from tallformer_infer.errors import ConfigError
    from tallformer_infer.runtime.tensorrt.engines import EngineOptions, build_engines
    from tallformer_infer.runtime.tensorrt.keys import BatchProfile

    try:
        batches = (BatchProfile.parse(clips), BatchProfile.parse(windows))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    options = EngineOptions(
        library=library, ahead_of_time=ahead_of_time, clips=batches[0], windows=batches[1], force=force
    )
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        build_engines(load_bundle(model), options, speaker)


@app.command("list")
def list_engines(
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the engines of a bundle, and say which of them this machine would run.

    [bold]Examples[/bold]

      tallformer engine list my-model
      tallformer engine list my-model --json | jq .engines
    """
    import json

    from rich.console import Console

    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.commands.engine_table import as_json as to_json
    from tallformer_infer.commands.engine_table import look_at_engines, table_lines

    listing = look_at_engines(load_bundle(model))
    if as_json:
        typer.echo(json.dumps(to_json(listing), indent=2))
    else:
        console = Console(highlight=False)
        for line in table_lines(listing):
            console.print(line, soft_wrap=True)


@app.command()
def accept(model: Model = None, quiet: Quiet = False, json_logs: JsonLogs = False) -> None:
    """Accept engines that were built elsewhere, if you trust where they come from.

    An engine holds machine code. So those that you did not build on this machine
    are refused until you accept them.

    [bold]Example[/bold]

      tallformer engine accept my-model
    """
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.console import speaking
    from tallformer_infer.runtime.tensorrt.engines import accept_engines

    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        accept_engines(load_bundle(model), speaker)
