"""`tallformer engine`: build, list and accept the TensorRT engines of a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from tallformer_infer.commands import options
from tallformer_infer.console import speaking
from tallformer_infer.errors import ConfigError, DeviceError, EngineError, ExtraError
from tallformer_infer.text import printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.bundle import Bundle
    from tallformer_infer.runtime.tensorrt.keys import Gpu, Library
    from tallformer_infer.runtime.tensorrt.store import StoredEngine


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log as JSON, one object per line.")]

SCHEMA_VERSION = "1.0"
"""Version of what `list --json` prints."""


@app.callback()
def engine() -> None:
    """Build TensorRT engines from a bundle's graphs for `tallformer detect --device tensorrt`, and list them."""


@app.command()
def build(
    model: options.ModelArgument = None,
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
    from tallformer_infer.runtime.tensorrt.building import EngineOptions, build_engines
    from tallformer_infer.runtime.tensorrt.keys import BatchProfile

    try:
        batches = (BatchProfile.parse(clips), BatchProfile.parse(windows))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    wanted = EngineOptions(
        library=library, ahead_of_time=ahead_of_time, clips=batches[0], windows=batches[1], force=force
    )
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        build_engines(load_bundle(model), wanted, speaker)


@app.command("list")
def list_engines(
    model: options.ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the engines of a bundle, and say which of them this machine would run.

    [bold]Examples[/bold]

      tallformer engine list my-model
      tallformer engine list my-model --json | jq .engines
    """
    from tallformer_infer.bundle import load_bundle

    listing = look_at_engines(load_bundle(model))
    if as_json:
        typer.echo(json.dumps(listing_document(listing), indent=2))
    else:
        console = Console(highlight=False)
        for line in table_lines(listing):
            console.print(line, soft_wrap=True)


@app.command()
def accept(model: options.ModelArgument = None, quiet: Quiet = False, json_logs: JsonLogs = False) -> None:
    """Accept engines that were built elsewhere, if you trust where they come from.

    An engine holds machine code. So those that you did not build on this machine
    are refused until you accept them.

    [bold]Example[/bold]

      tallformer engine accept my-model
    """
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.runtime.tensorrt.building import accept_engines

    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        accept_engines(load_bundle(model), speaker)


@dataclass(frozen=True)
class EngineListing:
    """The engines of a bundle, and what this machine has to run them."""

    bundle: Bundle
    """Bundle that the engines were built from."""
    library: Library | None
    """Installed TensorRT library."""
    gpu: Gpu | None
    """GPU of this machine."""
    missing: tuple[str, ...]
    """Why there is no library, or no GPU."""
    engines: tuple[tuple[StoredEngine, str | None], ...]
    """Each engine with the reason why it is not used; None if it fits, as far as this machine can tell."""


def look_at_engines(bundle: Bundle) -> EngineListing:
    """Find and check a bundle's engines, even if nothing here can run them."""
    from tallformer_infer.runtime.tensorrt.keys import load_library, require_gpu
    from tallformer_infer.runtime.tensorrt.store import stored_engines

    missing = []
    gpu = library = None
    try:
        gpu = require_gpu()
    except DeviceError as error:
        missing.append(str(error))
    try:
        library = load_library()
    except (ExtraError, DeviceError) as error:
        missing.append(str(error))
    engines = tuple((stored, _problem(stored, bundle, library, gpu)) for stored in stored_engines(bundle))
    return EngineListing(bundle, library, gpu, tuple(missing), engines)


def table_lines(listing: EngineListing) -> Iterator[Text]:
    """Three lines per engine: what it is, where it is, and whether it is used."""
    from tallformer_infer.runtime.tensorrt.store import engine_folders

    for stored, problem in listing.engines:
        record = stored.record
        if record is None:
            yield Text(printable(stored.path.name), style="bold")
        else:
            key = record.key
            batch = key.batch.most if key.batch.least == key.batch.most else f"{key.batch.least} to {key.batch.most}"
            facts = (
                f"{key.precision}, batch {batch}, for {key.target}, {key.library} {key.library_version}, "
                f"{record.engine_bytes / 1e6:.1f} MB, built {record.built_at}"
            )
            yield Text.assemble((key.graph, "bold"), f"  {printable(facts)}")
        yield Text(f"  {printable(stored.path)}", style="dim")
        yield Text.assemble("  ", ("✗ ", "red") if problem else ("✓ ", "green"), printable(problem or "fits"))
    if not listing.engines:
        yield Text(f"no engines in {' or '.join(printable(folder) for folder in engine_folders(listing.bundle))}")
    for reason in listing.missing:
        yield Text(f"nothing runs here: {printable(reason)}", style="yellow")


def listing_document(listing: EngineListing) -> dict[str, Any]:
    """The listing as JSON; names stay the same within a major `schema_version`."""
    from tallformer_infer.config import to_json

    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": str(listing.bundle.path),
        "library": None if listing.library is None else str(listing.library),
        "gpu": None if listing.gpu is None else str(listing.gpu),
        "missing": list(listing.missing),
        "engines": [
            {
                "path": str(stored.path),
                "log": str(stored.log),
                "fits": problem is None,
                "problem": problem,
                "record": None if stored.record is None else to_json(stored.record),
            }
            for stored, problem in listing.engines
        ],
    }


def _problem(stored: StoredEngine, bundle: Bundle, library: Library | None, gpu: Gpu | None) -> str | None:
    from tallformer_infer.runtime.tensorrt.store import misfit

    if stored.record is None:
        return stored.damage
    reason = misfit(stored.record, bundle, library, None if gpu is None else gpu.capability)
    if reason is not None:
        return reason
    try:
        stored.read()
    except EngineError as error:
        return str(error).removeprefix(f"{stored.path}: ")
    return None
