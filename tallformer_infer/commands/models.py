"""`tallformer models`: the models that are installed, and the recipes that new ones can be made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tallformer_infer.config import Recipe

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the installed models and the recipes for new ones, or show one.

    [bold]Examples[/bold]

      tallformer models
      tallformer models show thumos14-swin-t
      tallformer models show thumos14-swin-t --recipe > my-recipe.json
    """
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """List models and recipes."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print("[bold]Models[/bold], for `tallformer detect --model NAME`")
    _print_table(console, _models_table())
    console.print("\n[bold]Recipes[/bold], for `train` and `import`; see `tallformer models show NAME`")
    _print_table(console, _recipes_table())


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Recipe or model, as listed by `tallformer models`.")],
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Print the recipe as JSON, to edit and pass to `train --recipe`.")
    ] = False,
) -> None:
    """Show a recipe, or the recipe of a model."""
    import json

    from rich.console import Console

    from tallformer_infer.config import to_json

    found = _find(name)
    if recipe:
        typer.echo(json.dumps(to_json(found), indent=2))
    else:
        Console(highlight=False).print(_facts_table(found))


def _find(name: str) -> Recipe:
    from tallformer_infer.bundle import bundled_models, load_bundle
    from tallformer_infer.config import RECIPES
    from tallformer_infer.errors import ConfigError

    if name in RECIPES:
        return RECIPES[name]
    models = bundled_models()
    if name in models:
        return load_bundle(models[name]).recipe
    names = ", ".join(dict.fromkeys([*RECIPES, *models]))
    raise ConfigError(f"{name}: no such recipe or model; there are {names}")


def _print_table(console: Console, table: Table) -> None:
    """A table, or a paragraph per row if the terminal is too narrow for the words."""
    from rich.measure import Measurement
    from rich.text import Text

    if Measurement.get(console, console.options.update(max_width=500), table).minimum <= console.width:
        console.print(table)
        return
    names, *others = table.columns
    for row, name in enumerate(names.cells):
        facts = [f"{column.header}: {list(column.cells)[row]}" for column in others]
        console.print(Text.assemble((f"{name} ", "bold cyan"), ", ".join(facts)))


def _models_table() -> Table:
    from rich.text import Text

    from tallformer_infer.bundle import bundled_models, load_bundle
    from tallformer_infer.text import printable

    table = _table("model", "trained", "recipe", "classes", "licence", "operating points")
    for name, path in bundled_models().items():
        bundle = load_bundle(path)
        trained = Text("yes") if bundle.trained else Text("no", style="yellow")
        points = "-" if bundle.calibration is None else ", ".join(bundle.calibration.points)
        facts = (bundle.recipe.name, len(bundle.recipe.classes), bundle.licence, points)
        table.add_row(printable(name), trained, *(Text(printable(fact)) for fact in facts))
    return table


def _recipes_table() -> Table:
    from tallformer_infer.config import RECIPES

    table = _table("recipe", "encoder", "input", "window", "classes")
    for recipe in RECIPES.values():
        table.add_row(
            recipe.name,
            recipe.model.backbone.short_text,
            f"{recipe.sampling.crop_px} px, {recipe.rate_text}",
            recipe.window_text,
            str(len(recipe.classes)),
        )
    return table


def _facts_table(recipe: Recipe) -> Table:
    from rich.table import Table
    from rich.text import Text

    from tallformer_infer.text import printable

    window, candidates, suppress = recipe.window, recipe.candidates, recipe.suppress
    sampling = recipe.sampling
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (
        ("recipe", recipe.name),
        ("encoder", recipe.model.backbone.text),
        ("input", f"{sampling.crop_px}×{sampling.crop_px}, {recipe.rate_text}, resize {sampling.resize}"),
        ("window", f"{window.window_frames} frames ({recipe.window_text}), clips of {window.clip_frames} frames"),
        _steps(recipe),
        ("head", _head(recipe)),
        ("candidates", f"{candidates.per_window or 'all'} per window"),
        ("suppression", f"{suppress.text}, {suppress.max_per_video} per video"),
        (f"{len(recipe.classes)} classes", " · ".join(recipe.classes)),
    ):
        table.add_row(name, Text(printable(text)))
    return table


def _steps(recipe: Recipe) -> tuple[str, str]:
    from tallformer_infer.config import ContrastHeadConfig

    has_pyramid = not isinstance(recipe.model.head, ContrastHeadConfig)
    return "pyramid" if has_pyramid else "steps", f"one every {', '.join(map(str, recipe.model.level_strides))} frames"


def _head(recipe: Recipe) -> str:
    from tallformer_infer.config import ContrastHeadConfig, HeadConfig, PointHeadConfig

    head = recipe.model.head
    if isinstance(head, ContrastHeadConfig):
        step_s = recipe.model.encoder_stride / recipe.sampling.sample_fps
        shortest, longest = (head.lengths_steps[index] * step_s for index in (0, -1))
        return f"contrast: segments of {shortest:.1f} to {longest:.0f} s in which a class is likelier than around them"
    if isinstance(head, HeadConfig):
        return f"anchors, {recipe.candidates.anchors_per_level} per level"
    if isinstance(head, PointHeadConfig):
        return "points, each with the distances to both ends of its action"
    classes = "class" if head.classes_per_proposal == 1 else "classes"
    return f"refined proposals, each in the {head.classes_per_proposal} likeliest {classes} of the window"


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, style="bold cyan" if index == 0 else None, no_wrap=index == 0, overflow="fold")
    return table
