"""`tallformer info`: show the contents of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallformer_infer.commands import options

if TYPE_CHECKING:
    from rich.table import Table

    from tallformer_infer.bundle import Bundle

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def info(
    model: options.ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, including the recipe.")] = False,
) -> None:
    """Show the contents of a model bundle: intended use, classes, recipe, operating points and origin.

    [bold]Examples[/bold]

      tallformer info
      tallformer info my-model.zip --json | jq .recipe.classes
    """
    import json

    from rich.console import Console

    from tallformer_infer.bundle import load_bundle

    bundle = load_bundle(model)
    if as_json:
        typer.echo(json.dumps(_as_json(bundle), indent=2))
    else:
        Console(highlight=False).print(_as_table(bundle))


def _as_json(bundle: Bundle) -> dict[str, Any]:
    return {"path": str(bundle.path), "bundle_sha256": bundle.sha256, **bundle.description.as_json()}


def _as_table(bundle: Bundle) -> Table:
    from rich.table import Table
    from rich.text import Text

    from tallformer_infer.text import printable

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text, style in _facts(bundle):
        table.add_row(name, Text(printable(text), style=style))
    return table


def _facts(bundle: Bundle) -> list[tuple[str, str, str]]:
    recipe = bundle.recipe
    sampling, window = recipe.sampling, recipe.window
    graphs = [(f"graph {name}", f"{graph.file} · {graph.precision}", "") for name, graph in bundle.graphs.items()]
    return [
        ("model", bundle.name, "bold"),
        (
            "trained",
            "yes" if bundle.trained else "no: random weights, its actions mean nothing",
            "" if bundle.trained else "yellow",
        ),
        ("intended use", bundle.intended_use or "not stated", "" if bundle.intended_use else "dim"),
        ("licence", bundle.licence, ""),
        ("path", str(bundle.path), ""),
        ("sha256", f"{bundle.sha256[:16]}…", ""),
        ("recipe", recipe.name, ""),
        ("frames", f"{recipe.rate_text}, {sampling.crop_px}×{sampling.crop_px} px", ""),
        ("window", f"{window.window_frames} frames ({recipe.window_text}) in clips of {window.clip_frames}", ""),
        ("suppression", recipe.suppress.text, ""),
        *graphs,
        *_points(bundle),
        *_parity(bundle),
        *((name, _short(value), "dim") for name, value in bundle.provenance.items()),
        *_groups(recipe.classes),
        (f"{len(recipe.classes)} classes", " · ".join(recipe.classes), ""),
    ]


def _groups(classes: Sequence[str]) -> list[tuple[str, str, str]]:
    from tallformer_infer.config import groups_of

    found = groups_of(classes)
    text = " · ".join(f"@{name} ({count})" for name, count in found.items())
    return [("class groups", f"{text}; for --classes", "")] if found else []


def _points(bundle: Bundle) -> list[tuple[str, str, str]]:
    from tallformer_infer.commands.tables import describe_calibration, describe_point

    calibration = bundle.calibration
    if calibration is None:
        return [("operating points", "none (`tallformer calibrate` creates them from labelled videos)", "dim")]
    lines = [describe_point(calibration, name) for name in calibration.points]
    for number, name in enumerate(calibration.points):
        if nothing := calibration.keeps_nothing_of(name):
            lines[number] += f"; keeps nothing of {', '.join(nothing)}"
    return [
        ("calibrated", describe_calibration(calibration), ""),
        ("operating points", f"{', '.join(calibration.names)} (default: {calibration.default})", ""),
        *(("", line, "") for line in lines),
    ]


def _parity(bundle: Bundle) -> list[tuple[str, str, str]]:
    parity = bundle.parity
    if parity is None:
        return []
    actions = parity.actions
    of_whom, again = "torch's", "again"
    if not parity.differences:  # of a bundle that was only compared with itself
        of_whom, again = "the", f"again with --precision {', '.join(parity.at_run_time)}"
    lines = [
        (
            "parity",
            f"{actions.matched} of {of_whom} {actions.in_torch} actions are found {again} at tIoU "
            f"{actions.tiou_threshold:g}, in {parity.sample.frames} frames ({parity.sample.source})",
            "",
        )
    ]
    told = dict(parity.differences)
    for precision, differences in parity.at_run_time.items():
        told |= {f"{name} with --precision {precision}": difference for name, difference in differences.items()}
    for name, difference in told.items():
        worst = "unknown" if difference.worst is None else f"{difference.worst:.2g}"
        mean = "" if difference.mean is None else f", on average {difference.mean:.2g}"
        beyond = (
            ""
            if difference.is_within
            else ": beyond the limit, " + ("accepted" if name in parity.accepted else "not accepted")
        )
        text = f"{name} differ by {worst} at most{mean} ({difference.unit}; limit {difference.limit:g}){beyond}"
        lines.append(("", text, "yellow" if beyond else ""))
    return lines


def _short(value: object, *, longest: int = 200) -> str:
    if isinstance(value, dict):
        text = ", ".join(
            f"{key} {item:.3g}" if isinstance(item, float) else f"{key} {item}" for key, item in value.items()
        )
    else:
        text = str(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
