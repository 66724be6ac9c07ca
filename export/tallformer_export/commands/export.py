"""`tallformer export`: a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tallformer_infer.config import preset, read_recipe

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A .safetensors checkpoint; with --random-weights, a recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle to write: a folder, or a file ending in .zip.")],
    name: Annotated[str | None, typer.Option(help="What to call the model [default: the recipe's name].")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for whoever gets the bundle.")] = "unknown",
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="No checkpoint: random weights for the recipe NAME or FILE.json given."),
    ] = None,
) -> None:
    """Write a checkpoint as a bundle of ONNX graphs, compared with torch.

    [bold]Examples[/bold]

      tallformer export model.safetensors --out my-model

      tallformer export model.safetensors --out my-model.zip --name swin-b --licence CC-BY-4.0

      tallformer export thumos14-swin-t --random-weights 0 --out swin-t-random
    """
    from tallformer_export.exporting import export_checkpoint, export_random

    console = Console(stderr=True)
    with console.status("starting") as status:

        def show(step: str) -> None:
            status.update(step)

        if random_weights is None:
            parity = export_checkpoint(Path(model), out, name=name, licence=licence, on_step=show)
        else:
            recipe = read_recipe(Path(model)) if model.endswith(".json") else preset(model)
            parity = export_random(recipe, out, seed=random_weights, name=name or "untrained", on_step=show)
    console.print(
        f"[bold]{out}[/bold] written; largest difference from torch: features {parity.features:.1e}, "
        f"segments {parity.segments_frames:.1e} frames, scores {parity.scores:.1e}",
        soft_wrap=True,
    )
    console.print(f"try it: tallformer detect VIDEO --model {out} --out actions.json", soft_wrap=True)
