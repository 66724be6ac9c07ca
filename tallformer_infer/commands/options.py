"""Options that several commands share, and how their values are read. No heavy imports: `--help` must be instant."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallformer_infer import devices
from tallformer_infer.errors import ConfigError
from tallformer_infer.stopping import run_interruptibly

if TYPE_CHECKING:
    from tallformer_infer.bundle import Bundle
    from tallformer_infer.pipeline import Detector
    from tallformer_infer.results import Selection
    from tallformer_infer.structures import Layout, Windows


RUN, SELECT, PROGRESS = "Model and device", "Which actions to keep", "Progress output"
"""Headings of `--help`."""

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="BUNDLE",
        help="Model: a folder, a .zip, or a name listed by `tallformer models`.",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        show_default=False,
        help="Folder, .zip, or a name listed by `tallformer models` (default: the default model).",
    ),
]
Device = Annotated[
    devices.Device,
    typer.Option(
        metavar="NAME",
        help="auto: CUDA where it works, else the fastest way on this CPU. Or cpu, openvino, openvino:GPU, "
        "openvino:NPU, cuda, onnx-tensorrt, or tensorrt (engines of `tallformer engine build`).",
        rich_help_panel=RUN,
    ),
]
Precision = Annotated[
    devices.RunPrecision | None,
    typer.Option(
        metavar="NAME",
        help="Encoder precision for auto and openvino: fp32, or bf16 (default: bf16 only where it is faster and the "
        "actions stay the same).",
        rich_help_panel=RUN,
    ),
]
Hwaccel = Annotated[
    devices.Hwaccel,
    typer.Option(
        metavar="NAME",
        help="Video decoder: none (the CPU); auto: a device where one opens and takes the video; or a device that must "
        "take every video: cuda, videotoolbox, d3d11va, vaapi.",
        rich_help_panel=RUN,
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPU threads (default: one per core).", rich_help_panel=RUN)
]
Rates = Annotated[
    str | None,
    typer.Option(
        metavar="R,R",
        help="Frame rates to search at, such as 15,5,1.67: the model's own, and that divided by whole numbers. Lower "
        "rates find longer actions at little cost.",
        rich_help_panel=RUN,
    ),
]
ClassScores = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Class scores per video, in place of the model's own classifier (models of whole videos): a CUHK score "
        "file, or labels.",
        rich_help_panel=RUN,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="X", help="Drop actions with a lower score.", rich_help_panel=SELECT),
]
OperatingPoint = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Operating point of a calibrated model; all: every action; none: every action, uncalibrated scores.",
        rich_help_panel=SELECT,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Keep only the N best actions of each video.", rich_help_panel=SELECT),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        help="Keep only these classes, or groups such as @sports (`tallformer info` lists them). Repeatable.",
        rich_help_panel=SELECT,
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Keep only the classes and @groups in this file, one per line.", rich_help_panel=SELECT
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=PROGRESS)]
JsonLogs = Annotated[
    bool, typer.Option("--json-logs", help="Log as JSON, one object per line.", rich_help_panel=PROGRESS)
]


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Options of `detect`, `label`, `watch` and `features` that decide what is found in a video."""

    model: str | None
    """Bundle, or name of a bundled model; None: the default model."""
    device: devices.Device
    """Where to run."""
    precision: devices.RunPrecision | None = None
    """Encoder precision; None: chosen by the runtime."""
    threads: int | None
    """CPU threads; None: one per core, or, with several workers, cores ÷ workers."""
    hwaccel: devices.Hwaccel = "none"
    """What decodes videos."""
    windows: Windows | float = "shared"
    """Window layout, or the length of a window in seconds."""
    rates: tuple[float, ...] | None = None
    """Frame rates to search at, in frames per second; None: the recipe's own."""
    class_scores: Path | None = None
    """File of class scores per video; None: the model's own classifier."""
    threshold: float | None = None
    """Lowest score to keep."""
    top_k: int | None = None
    """Most actions to keep per video."""
    classes: tuple[str, ...] = ()
    """Classes and groups to keep, as typed, one or several with commas; empty: all."""
    operating_point: str | None = None
    """Operating point, `all` or `none`; None: the model's default."""

    def load(self) -> Detector:
        """Load the model on its device.

        Raises:
            TallformerError: The model or the file of class scores cannot be read, or the device cannot be used.
        """
        from tallformer_infer.evaluation import read_class_scores
        from tallformer_infer.pipeline import Detector

        scores = None if self.class_scores is None else read_class_scores(self.class_scores)
        return run_interruptibly(
            lambda: Detector.load(
                self.model,
                device=self.device,
                precision=self.precision,
                threads=self.threads,
                class_scores=scores,
                hwaccel=self.hwaccel,
            )
        )

    def selection(self, bundle: Bundle) -> Selection:
        """Which actions to keep.

        Raises:
            typer.BadParameter: An option does not fit the model.
        """
        from tallformer_infer.pipeline import choose_selection

        try:
            return choose_selection(
                bundle,
                threshold=self.threshold,
                top_k=self.top_k,
                classes=split_classes(self.classes, bundle.recipe.classes),
                operating_point=self.operating_point,
                see=shlex.join(["tallformer", "info", self.model or bundle.name]),
            )
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from error

    def layout(self, bundle: Bundle) -> Layout:
        """How videos are laid out for the localizer.

        Raises:
            typer.BadParameter: An option does not fit the model.
        """
        from tallformer_infer.pipeline import choose_layout, choose_windows

        try:
            windows, _ = choose_windows(bundle.recipe, self.windows)
            return choose_layout(bundle.recipe, windows, self.rates)
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from error


def token_option(text: str, panel: str) -> Any:
    """The option `--token`, of a server and of its clients.

    Args:
        text: What the help says of it.
        panel: Heading in the help.
    """
    return typer.Option(envvar="TALLFORMER_TOKEN", show_envvar=False, metavar="TEXT", help=text, rich_help_panel=panel)


def output_named(name: str) -> str:
    """Parse a format that `detect` writes."""
    from tallformer_infer.report import RESULT_FORMATS

    return _one_of(name, RESULT_FORMATS)


def converted_named(name: str) -> str:
    """Parse a format that `convert` writes."""
    from tallformer_infer.labels import WRITABLE

    return _one_of(name, WRITABLE)


def readable_named(name: str) -> str:
    """Parse a format that `convert` reads."""
    from tallformer_infer.labels import READABLE

    return _one_of(name, READABLE)


def exported_named(name: str) -> str:
    """Parse a format that `archive export` writes."""
    from tallformer_infer.archive.queries import EXPORT_FORMATS

    return _one_of(name, EXPORT_FORMATS)


def output_format(out: Path | None) -> str:
    """Format of `detect` for a file of this name; JSON for a name without an ending.

    Raises:
        typer.BadParameter: The ending is that of no format.
    """
    suffix = "" if out is None or not _is_file_name(out) else out.suffix.lower()
    if suffix in (".html", ".htm"):
        return "html"
    if suffix in ("", ".json"):
        return "json"
    return _known_suffix(suffix, out, (".json", ".html"))


def converted_format(out: Path) -> str:
    """Format of `convert` for a file of this name; truth for .json and for a name without an ending.

    Raises:
        typer.BadParameter: The ending is that of no format.
    """
    suffix = out.suffix.lower() if _is_file_name(out) else ""
    return "truth" if suffix in ("", ".json") else _known_suffix(suffix, out, (".json",))


def _is_file_name(out: Path) -> bool:
    """Whether the ending of a name tells the format; not for a folder, a pipe or a device."""
    return not out.exists() or out.is_file()


def _known_suffix(suffix: str, out: Path | None, others: tuple[str, ...]) -> str:
    from tallformer_infer.labels import BY_SUFFIX, WRITABLE

    known = {suffix: name for suffix, name in BY_SUFFIX.items() if name in WRITABLE}
    if suffix not in known:
        named = ", ".join((*others, *known))
        raise typer.BadParameter(f"--out {out}: unknown ending {suffix}; expected one of {named}, or name the format")
    return known[suffix]


def _one_of(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}")
    return name


def expand_videos(given: Sequence[str]) -> tuple[str, ...]:
    """Expand folders, and patterns that the shell left alone, to the videos in them.

    Raises:
        typer.BadParameter: A pattern matches no file, a folder holds no video, or a video is named twice.
    """
    videos = [video for item in given for video in _expand(item)]
    seen: set[str] = set()
    for video in videos:
        place = video if _is_address(video) else os.path.abspath(video)  # noqa: PTH100 (links may differ on purpose)
        if place in seen:
            raise typer.BadParameter(f"{video}: is named twice; name each video once")
        seen.add(place)
    return tuple(videos)


def missing_files(videos: Sequence[str]) -> tuple[str, ...]:
    """Files that do not exist; URLs and standard input are not checked."""
    return tuple(video for video in videos if not _is_address(video) and not os.path.lexists(video))


def wanted_classes(typed: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """Values of `--classes` and lines of `--classes-file`: one class or `@group` each; `#` starts a comment.

    Raises:
        typer.BadParameter: The file cannot be read, or names no class.
    """
    if file is None:
        return tuple(typed or ())
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise typer.BadParameter(f"--classes-file {file}: {reason}") from None
    names = [line for line in lines if line]
    if not names:
        raise typer.BadParameter(f"--classes-file {file}: no class in it; expected one per line")
    return (*(typed or ()), *names)


def split_classes(values: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...] | None:
    """Class names as typed, each once, `@groups` expanded; a name that has a comma in it is not split.

    Raises:
        ConfigError: A group is unknown, or the model knows none of its classes.
    """
    from tallformer_infer.config import expand_groups

    names = [name.strip() for value in values for name in ([value] if value in known else value.split(","))]
    return expand_groups(names, known) or None


def as_arguments(videos: Sequence[str]) -> list[str]:
    """Videos as arguments of a command line, after `--` if one looks like an option."""
    is_like_an_option = any(video.startswith("-") and video != "-" for video in videos)
    return [*(["--"] if is_like_an_option else []), *videos]


def parse_windows(given: str) -> Windows | float:
    """Parse a window layout, or the length of a window in seconds.

    Raises:
        typer.BadParameter: It is neither.
    """
    if given in ("shared", "reference"):
        return "shared" if given == "shared" else "reference"
    try:
        return float(given.removesuffix("s"))
    except ValueError:
        raise typer.BadParameter(
            f"invalid value for '--windows': {given!r} is not one of 'shared', 'reference', and no seconds"
        ) from None


def parse_rates(given: str | None) -> tuple[float, ...] | None:
    """Parse rates separated by commas.

    Raises:
        typer.BadParameter: One is no number.
    """
    if given is None:
        return None
    try:
        return tuple(float(rate) for rate in given.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"invalid value for '--rates': {given!r}; expected frames per second, such as 15,5,1.67"
        ) from None


def given_options(context: typer.Context, *, without: Sequence[str]) -> tuple[str, ...]:
    """Options that the user gave, to print them in a command that resumes the run.

    Args:
        context: Of the command that runs.
        without: Parameters to leave out, by name.
    """
    given: list[str] = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.param_type_name != "option" or option.name in without or source is None:
            continue
        if source.name != "COMMANDLINE":
            continue
        flag, value = max(option.opts, key=len), context.params[option.name or ""]
        if isinstance(value, bool):
            given.append(flag if value else max(option.secondary_opts, key=len))
        else:
            given += [part for item in (value if option.multiple else [value]) for part in (flag, str(item))]
    return tuple(given)


def _expand(item: str) -> list[str]:
    if Path(item).is_dir():
        return _videos_in(item)
    if _is_address(item) or Path(item).exists() or not any(character in item for character in "*?["):
        return [item]
    files = sorted(match for match in glob.glob(item, recursive=True) if Path(match).is_file())  # noqa: PTH207
    if not files:
        raise typer.BadParameter(f"{item}: no file matches this pattern")
    return files


def _videos_in(folder: str) -> list[str]:
    """Files in a folder and its subfolders that have the ending of a video, sorted by name, without hidden ones."""
    from tallformer_infer.archive.sources import VIDEO_SUFFIXES

    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(here, name) for name in sorted(files) if not name.startswith(".")]
        found += [str(path) for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise typer.BadParameter(f"{folder}: no video in this folder, judged by the endings of its files")
    return found


def _is_address(item: str) -> bool:
    return item == "-" or "://" in item
