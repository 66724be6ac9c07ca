"""`tallformer doctor`: what this machine has and what is missing, as a table or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tallformer_infer.console import speaking
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.text import counted, printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.diagnosis import Decoding, Diagnosis, EngineLibrary, Folder, Provider


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

SCHEMA_VERSION = "1.2"

_Mark = Literal["yes", "no", "absent", "fact"]
_MARKS: dict[_Mark, tuple[str, str]] = {
    "yes": ("✓", "green"),
    "no": ("✗", "red"),
    "absent": ("-", "dim"),
    "fact": (" ", ""),
}
_LEAST_CELLS = 24
"""Least width of the text column; a narrower terminal breaks lines itself."""
_FIRST_CODECS = ("h264", "hevc", "av1", "vp9")


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
    from tallformer_infer.diagnosis import diagnose

    with speaking(quiet=as_json, json_logs=False) as speaker:
        speaker.step("trying drivers, libraries and devices")
        diagnosis = run_interruptibly(lambda: diagnose(_device_values()))
    if as_json:
        typer.echo(json.dumps(diagnosis_document(diagnosis), indent=2))
    else:
        console = Console(highlight=False)
        for line in table_lines(diagnosis, console):
            console.print(line, soft_wrap=True)
    raise typer.Exit(0 if diagnosis.can_detect else 1)


@dataclass(frozen=True)
class _Row:
    section: str
    name: str
    mark: _Mark
    text: str
    commands: tuple[str, ...] = ()


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON; names stay the same within a major `schema_version`."""
    facts = dataclasses.asdict(diagnosis)
    return {"schema_version": SCHEMA_VERSION, "can_detect": diagnosis.can_detect, **facts}


def table_lines(diagnosis: Diagnosis, console: Console) -> Iterator[Text]:
    """The table, line by line, wrapped to the width of the terminal.

    Only commands are not wrapped: each has a line of its own, so that it can be copied.
    """
    rows = list(_rows(diagnosis))
    sections = max(cell_len(row.section) for row in rows)
    names = max(cell_len(row.name) for row in rows)
    indent = sections + 2 + names + 2 + 2
    section = ""
    for row in rows:
        if section and row.section != section:
            yield Text()
        sign, style = _MARKS[row.mark]
        shown = row.section if row.section != section else ""
        section = row.section
        head = Text.assemble(
            (f"{shown:{sections}}  ", "bold cyan"), (f"{row.name:{names}}  ", "bold"), (f"{sign} ", style)
        )
        text = Text(printable(row.text), style="dim" if row.mark == "absent" else "")
        for number, line in enumerate(text.wrap(console, max(console.width - indent, _LEAST_CELLS))):
            line.rstrip()
            yield Text.assemble(head if number == 0 else " " * indent, line)
        for command in row.commands:
            yield Text.assemble(" " * min(indent, max(0, console.width - len(command))), (printable(command), "yellow"))


def _rows(diagnosis: Diagnosis) -> Iterator[_Row]:
    yield from _machine_rows(diagnosis)
    yield from _package_rows(diagnosis)
    driver = diagnosis.driver
    version = f"CUDA {driver.version}" if driver.version else ""
    text = "; ".join(filter(None, (version, driver.problem)))
    yield _Row("NVIDIA", "driver", "absent" if driver.problem else "yes", text)
    for number, gpu in enumerate(driver.gpus):
        facts = f"{gpu.name}, compute capability {gpu.compute_capability}, {_gib(gpu.memory_bytes)} of memory"
        yield _Row("NVIDIA", f"GPU {number}", "yes", facts)
    yield from _provider_rows(diagnosis)
    yield from _engine_rows(diagnosis.engine_libraries)
    yield from _decoding_rows(diagnosis.decoding)
    for breakage in diagnosis.breakages:
        yield _Row("broken", "", "no", breakage.text, breakage.commands)
    for device in diagnosis.devices:
        yield _Row("--device", device.value, "yes" if device.works else "no", device.text, device.commands)


def _machine_rows(diagnosis: Diagnosis) -> Iterator[_Row]:
    machine = diagnosis.machine
    python = f"Python {diagnosis.python}, {diagnosis.platform}, tallformer {diagnosis.version}"
    yield _Row("machine", "system", "fact", python)
    yield _Row("machine", "processor", "fact", ", ".join((machine.processor, *machine.processor_features)))
    limit = "" if machine.core_limit is None else f", limited to the time of {machine.core_limit:g}"
    yield _Row("machine", "cores", "fact", f"{machine.cores}{limit}")
    free = "" if machine.free_memory_bytes is None else f", {_gib(machine.free_memory_bytes)} free"
    yield _Row("machine", "memory", "fact", f"{_gib(machine.memory_bytes)}{free}")
    for folder in machine.folders:
        yield _Row("machine", "disk", "fact", _folder_text(folder))


def _folder_text(folder: Folder) -> str:
    return f"{_gib(folder.free_bytes)} free for {folder.use}, in {folder.path}"


def _package_rows(diagnosis: Diagnosis) -> Iterator[_Row]:
    if not diagnosis.parts:
        yield _Row("packages", "base", "no", "not known, as tallformer itself is not installed", ("pip install .",))
    for part in diagnosis.parts:
        installed = [
            f"{package.name} {package.version}{f' (for {_built_for(package.build)})' if package.build else ''}"
            for package in diagnosis.packages
            if part.name in package.parts and package.version is not None
        ]
        mark: _Mark = "yes" if part.is_complete else "no" if part.name == "base" else "absent"
        text = "; ".join(filter(None, (", ".join(installed), part.remark)))
        yield _Row("packages", part.name, mark, text, part.commands)


def _built_for(build: str) -> str:
    return "the CPU" if build == "cpu" else f"CUDA {build}"


def _provider_rows(diagnosis: Diagnosis) -> Iterator[_Row]:
    if diagnosis.onnxruntime is None:
        yield _Row("ONNX Runtime", "version", "no", str(diagnosis.providers[0].problem))
        return
    yield _Row("ONNX Runtime", "version", "fact", diagnosis.onnxruntime)
    others = [provider.name for provider in diagnosis.providers if provider.works is None and provider.is_built_in]
    for provider in diagnosis.providers:
        if provider.name not in others:
            yield _provider_row(provider)
    if others:
        yield _Row("ONNX Runtime", "others", "absent", f"{', '.join(others)}: not used by tallformer")


def _provider_row(provider: Provider) -> _Row:
    if provider.works:
        return _Row("ONNX Runtime", provider.name, "yes", "ran a graph, with the right numbers")
    if not provider.is_built_in:
        return _Row("ONNX Runtime", provider.name, "absent", str(provider.problem))
    return _Row("ONNX Runtime", provider.name, "no", f"built in, and does not run: {provider.problem}")


def _engine_rows(libraries: Sequence[EngineLibrary]) -> Iterator[_Row]:
    for library in libraries:
        if library.version is None:
            mark: _Mark = "absent" if library.problem == "not installed" else "no"
            yield _Row("TensorRT", library.name, mark, str(library.problem))
        else:
            also = f"; builds without a GPU for {', '.join(library.builds_for)}" if library.builds_for else ""
            yield _Row("TensorRT", library.name, "yes", f"{library.version}{also}")


def _decoding_rows(decoding: Decoding) -> Iterator[_Row]:
    if decoding.problem is not None:
        yield _Row("FFmpeg", "version", "no", decoding.problem)
        return
    libraries = ", ".join(f"{name} {version}" for name, version in decoding.libraries.items())
    yield _Row("FFmpeg", "version", "fact", f"{decoding.ffmpeg or 'not known'}: {libraries}")
    yield _Row("FFmpeg", "CPU", "yes", "decodes unless --hwaccel names a device, or auto finds one")
    for kind in decoding.hardware:
        codecs = sorted(kind.codecs, key=lambda codec: (codec not in _FIRST_CODECS, codec))
        if not kind.is_usable and kind.opens is not None:
            yield _Row("FFmpeg", kind.name, "absent", "built in, and not used by tallformer")
        elif kind.opens:
            yield _Row("FFmpeg", kind.name, "yes", f"opens, for --hwaccel {kind.name}: {', '.join(codecs)}")
        elif kind.opens is False:
            built_in = f"{counted(len(codecs), 'codec')} built in for --hwaccel {kind.name}"
            yield _Row("FFmpeg", kind.name, "absent", f"{kind.problem} ({built_in})")


def _gib(count: int | None) -> str:
    return "not known" if count is None else f"{count / 2**30:.1f} GiB"


def _device_values() -> tuple[str, ...]:
    """Values of `detect --device`, from the signature of `detect`."""
    from tallformer_infer.commands.detect import detect

    return get_args(get_type_hints(detect)["device"])
