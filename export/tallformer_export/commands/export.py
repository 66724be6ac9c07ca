"""`tallformer export`: export a checkpoint to a bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallformer_infer.bundle import Precision, WeightStorage
from tallformer_infer.config import preset, read_recipe, to_json
from tallformer_infer.console import Speaker, speaking
from tallformer_infer.stopping import import_interruptibly

if TYPE_CHECKING:
    from tallformer_infer.config import ParityReport

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def export(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A .safetensors checkpoint; with --random-weights, a recipe; with --triton alone, a bundle.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="BUNDLE", help="Bundle to write: a folder, or a file ending in .zip."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model (default: name of the recipe).")
    ] = None,
    licence: Annotated[str, typer.Option(metavar="TEXT", help="Licence of the weights.")] = "unknown",
    intended_use: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the model is for and what it cannot do; shown wherever it is used."),
    ] = None,
    random_weights: Annotated[
        int | None,
        typer.Option(
            metavar="SEED", help="Export random weights for a recipe (NAME or FILE.json) instead of a checkpoint."
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            metavar="NAME",
            help="Encoder precision. fp32: anywhere. int8: fastest on CPUs. fp16, bf16, int8-static (calibrated on the "
            "sample): GPUs.",
        ),
    ] = "fp32",
    weights: Annotated[
        WeightStorage,
        typer.Option(
            metavar="NAME",
            help="Storage of weights: fp32, fp16 (half the file) or int8 (a quarter); no layer is slower.",
        ),
    ] = "fp32",
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Leave the picture size open (I3D only), to share one graph.")
    ] = False,
    sample: Annotated[
        Path | None,
        typer.Option(
            metavar="VIDEO",
            help="Video for the comparison with torch (default: a short generated one).",
        ),
    ] = None,
    accept_parity: Annotated[
        bool,
        typer.Option(
            "--accept-parity", help="Write the bundle even if it differs too much from torch, and record that."
        ),
    ] = False,
    engine: Annotated[
        bool,
        typer.Option("--engine", help="Also build TensorRT engines, as `tallformer engine build` does."),
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the graphs into a model repository of NVIDIA Triton: those of --out, else of the bundle MODEL.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log as JSON, one object per line.")] = False,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, and compare it with torch on the frames of a video.

    The comparison is stored in the bundle; see `tallformer info BUNDLE`.

    [bold]Examples[/bold]

      tallformer export model.safetensors --out my-model

      tallformer export model.safetensors --out my-model.zip --name swin-b --licence CC-BY-4.0

      tallformer export thumos14-swin-t --random-weights 0 --out swin-t-random

      tallformer export kinetics400 --triton models
    """
    if out is None:
        if triton is None:
            raise typer.BadParameter("expected --out BUNDLE, or --triton DIR for a bundle")
        with speaking(quiet=quiet, json_logs=json_logs) as speaker:
            _write_for_triton(speaker, model, triton)
        return
    import_interruptibly("tallformer_export.exporting")
    import_interruptibly("tallformer_infer.runtime.tensorrt.building")
    from tallformer_export.exporting import ExportOptions, check_input_stays, export_checkpoint, export_random
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.runtime.tensorrt.building import EngineOptions, build_engines, check_engines_can_be_built

    check_input_stays(Path(model), out)
    if engine:
        check_engines_can_be_built(EngineOptions())
    options = ExportOptions(
        precision=precision, weights=weights, any_size=any_size, sample=sample, accept_parity=accept_parity
    )
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        if random_weights is None:
            parity = export_checkpoint(
                Path(model),
                out,
                name=name,
                licence=licence,
                intended_use=intended_use,
                options=options,
                on_step=speaker.step,
            )
        else:
            parity = export_random(
                read_recipe(Path(model)) if model.endswith(".json") else preset(model),
                out,
                seed=random_weights,
                name=name or "untrained",
                options=options,
                on_step=speaker.step,
            )
        speaker.stopped()
        _tell(speaker, out, parity)
        if engine:
            build_engines(load_bundle(out), EngineOptions(), speaker)
        if triton is not None:
            _write_for_triton(speaker, str(out), triton)


def _write_for_triton(speaker: Speaker, source: str, folder: Path) -> None:
    from tallformer_export.triton import write_triton_repository
    from tallformer_infer.bundle import load_bundle

    names = write_triton_repository(load_bundle(source), folder)
    named = f"{', '.join(names[:-1])} and {names[-1]}"
    speaker.say("triton", f"wrote {named} to {folder}", models=names, folder=str(folder))


def _tell(speaker: Speaker, out: Path, parity: ParityReport) -> None:
    differences, actions = parity.differences, parity.actions
    worst = ", ".join(
        f"{name.partition('.')[2]} {differences[name].worst or 0:.1e}{unit}"
        for name, unit in (("encoder.features", ""), ("localizer.segments", " frames"), ("localizer.scores", ""))
    )
    message = (
        f"wrote {out}; largest difference from torch: {worst}; "
        f"{actions.matched} of {actions.in_torch} actions are the same"
    )
    speaker.say("written", message, out=str(out), parity_with_torch=to_json(parity))
    if parity.accepted:
        speaker.say("warning", f"--accept-parity: {', '.join(parity.accepted)} above the limit; recorded in the bundle")
    again = shlex.join(["tallformer", "detect", "VIDEO", "--model", str(out), "--out", "actions.json"])
    speaker.say("hint", f"try it: {again}")
