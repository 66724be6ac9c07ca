"""`tallformer import`: other people's weights to a tallformer checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tallformer_infer import __version__
from tallformer_infer.config import Recipe, preset, read_recipe
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.importing import ImportReport, match_checkpoint

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(name="import")
def import_command(
    file: Annotated[Path, typer.Argument(help="Weights to read: .pth (nothing in it is run) or .safetensors.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a .json file with one.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")],
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(help="Parameters that the file may lack, such as 'head.*'; they get fresh weights. Repeatable."),
    ] = None,
) -> None:
    """Turn an official TALLFormer checkpoint, or a Video Swin backbone, into a tallformer checkpoint.

    All weights of the model, and nothing else, must be in the file; otherwise it says what is wrong and writes nothing.

    [bold]Examples[/bold]

    A detector trained with the official code:

      tallformer import epoch_900_weights.pth --recipe thumos14-swin-b --out model.safetensors

    A Kinetics backbone to start training from (official, mmaction2 and torchvision names are known):

      tallformer import swin_base_patch244_window877_kinetics400_22k.pth --recipe thumos14-swin-b
        --allow-missing 'neck.*' --allow-missing 'head.*' --out start.safetensors

    A recipe of your own: edit what `tallformer models show thumos14-swin-b --recipe` prints, and pass the file.
    """
    chosen = read_recipe(Path(recipe)) if recipe.endswith(".json") else preset(recipe)
    state, report = match_checkpoint(file, chosen, allow_missing=allow_missing or ())
    console = Console(stderr=True)
    for line in report.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    report.require_complete()
    save_checkpoint(out, state, chosen, provenance=provenance(report, chosen))
    console.print(f"written: {out}", markup=False, highlight=False, soft_wrap=True)


def provenance(report: ImportReport, recipe: Recipe) -> dict[str, object]:
    """Where imported weights come from, as JSON values; trained only if none of them are fresh."""
    return {
        "trained": not report.initialised,
        "tool": f"tallformer {__version__}",
        "recipe": recipe.name,
        "source": {
            "file": report.path.name,
            "sha256": report.sha256,
            "layout": report.layout,
            "container": report.container,
        },
        "initialised": list(report.initialised),
    }
