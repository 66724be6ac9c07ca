"""`tallformer doctor`: what this machine has, and what is missing."""

from __future__ import annotations

from typing import Annotated, get_args, get_type_hints

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check this machine: packages, devices, and what to install.

    Shows packages and versions, NVIDIA driver and GPUs, the devices of ONNX
    Runtime, FFmpeg and its hardware decoders. Tries each value of --device
    with the default model; a crash is reported and the check continues.

    Exit code: 0 `tallformer detect` runs on some device; 1 it does not.

    [bold]Examples[/bold]

      tallformer doctor
      tallformer doctor --json | jq .devices
    """
    import json

    from rich.console import Console

    from tallformer_infer.commands.doctor_table import as_json as to_json
    from tallformer_infer.commands.doctor_table import table_lines
    from tallformer_infer.console import speaking
    from tallformer_infer.diagnosis import diagnose
    from tallformer_infer.stopping import run_interruptibly

    with speaking(quiet=as_json, json_logs=False) as speaker:
        speaker.step("trying drivers, libraries and devices")
        diagnosis = run_interruptibly(lambda: diagnose(_device_values()))
    if as_json:
        typer.echo(json.dumps(to_json(diagnosis), indent=2))
    else:
        console = Console(highlight=False)
        for line in table_lines(diagnosis, console):
            console.print(line, soft_wrap=True)
    raise typer.Exit(0 if diagnosis.can_detect else 1)


def _device_values() -> tuple[str, ...]:
    """What `detect --device` takes, asked of `detect` itself."""
    from tallformer_infer.commands.detect import detect

    return get_args(get_type_hints(detect)["device"])
