"""Read a bundle: its description, and its graphs, from a folder or a .zip.

Nothing in a bundle is executable Python, nothing is unpickled, and every file is hash-checked. What a graph may hold is
in `checks`.

Note [the hash of the description]
    `bundle.json` holds the hashes of the graphs, and, as `description_sha256`, one of its own values. Older ones, and
    those changed by hand, may have none.

Note [sizes of files]
    A .zip of a megabyte can decompress to a terabyte, and a name in a folder can be an endless device. Every read
    therefore has a size limit, and only regular files are read. Members are read one by one, never extracted to disk,
    and a .zip inside a .zip is an ordinary file. A duplicate name in a .zip is refused, as programs differ in which one
    they read. So are bzip2 and LZMA, which can need gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tallformer_infer.bundle.checks import excess, refusal
from tallformer_infer.bundle.onnx_files import metadata, with_input_sizes
from tallformer_infer.config import (
    CALIBRATION_VERSION,
    PARITY_VERSION,
    Calibration,
    ParityReport,
    Recipe,
    from_json,
    to_json,
)
from tallformer_infer.errors import BundleError, ConfigError

SCHEMA_VERSION = 1
DESCRIPTION = "bundle.json"
DEFAULT_MODEL = "kinetics400"
SUPPRESS_SETTINGS = "tallformer.suppress"
"""Key in the metadata of graph 3: the settings it was exported with, as JSON."""

GraphName = Literal["encoder", "localizer", "suppress"]
GRAPHS: tuple[GraphName, ...] = ("encoder", "localizer", "suppress")

_OWN_SHA256 = "description_sha256"
_DESCRIPTION_BYTES = 2**24
_OTHER_BYTES = 2**28
"""Maximum size of bundle.json, and of files next to the graphs, in bytes; graphs declare their size."""
_BUNDLED = Path(__file__).parent.parent / "bundles"
MOST_BYTES = 2**31
"""Maximum size of any file, in bytes: the limit of a protocol buffer, such as a graph."""
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError)
"""Errors that `zipfile` raises for a damaged .zip, or another kind of file."""


Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-static"]
"""`int8` quantises inputs dynamically, for CPUs; `int8-static` has scales from a sample, for TensorRT."""

Footage = Literal["real", "generated"]
"""`generated`: videos of `tallformer_training.synthetic`; such a model does not work on real footage."""
WeightStorage = Literal["fp32", "fp16", "int8"]
"""Storage format of weights in a graph that computes in float32."""


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """One ONNX graph of a bundle."""

    file: str
    """Name of the file inside the bundle."""
    sha256: str
    """Hash of the file."""
    precision: Precision
    """Format of its linear layers; inputs and outputs do not depend on it."""
    inputs: dict[str, tuple[int | str, ...]]
    """Shape of each input; a name stands for any number."""
    outputs: dict[str, tuple[int | str, ...]]
    """Shape of each output."""
    size_bytes: int | None = None
    """Size of the file; None in bundles of earlier versions."""


@dataclass(frozen=True, kw_only=True)
class BundleDescription:
    """Content of `bundle.json`."""

    schema_version: int
    """Version of the schema."""
    name: str
    """Name of the model."""
    trained: bool
    """False if the weights are random and the actions mean nothing."""
    licence: str
    """Licence of the weights."""
    recipe: Recipe
    """All other settings that affect results."""
    graphs: dict[str, GraphInfo]
    """`encoder`, `localizer` and, unless the suppression has no graph, `suppress`."""
    graphs_from: str | None = None
    """Installed model that provides the graph files, so that two settings share one set of weights; None: this one."""
    intended_use: str | None = None
    """Intended use and limits of the model, in one or two sentences; shown wherever the model is used."""
    footage: Footage | None = None
    """Kind of video the model was trained on; None: not stated."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Checkpoint hash, training data, tool versions."""
    calibration: Calibration | None = None
    """Operating points, if the model is calibrated."""
    parity: ParityReport | None = None
    """How far the graphs are from torch, as measured by the export."""

    def __post_init__(self) -> None:
        if self.calibration is not None and set(self.calibration.classes) != set(self.recipe.classes):
            raise ConfigError(
                f"calibration is for {', '.join(self.calibration.classes)}; "
                f"expected the classes of the recipe: {', '.join(self.recipe.classes)}"
            )

    def as_json(self) -> dict[str, Any]:
        """Content of `bundle.json`, without keys for absent values. See Note [the hash of the description]."""
        value = {key: item for key, item in to_json(self).items() if item is not None}
        return {**value, _OWN_SHA256: _values_sha256(value)}


@dataclass(frozen=True)
class Bundle:
    """A model, ready for a runtime to load.

    Examples:
        >>> bundle = Bundle.load("demo")
        >>> bundle.name, len(bundle.recipe.classes), bundle.footage
        ('demo', 8, 'generated')
    """

    path: Path
    """Folder or .zip file."""
    description: BundleDescription
    """Content of `bundle.json`."""
    sha256: str
    """Hash of `bundle.json`, which contains the hashes of all other files."""

    @staticmethod
    def load(source: str | Path | None = None) -> Bundle:
        """Read a model's description, see `load_bundle`.

        Args:
            source: A folder, a .zip file, or the name of a bundled model; None is the default model.

        Raises:
            BundleError: There is none, or it is damaged or of another version.
        """
        return load_bundle(source)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.description.name

    @property
    def trained(self) -> bool:
        """False if the weights are random and the actions mean nothing."""
        return self.description.trained

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return self.description.licence

    @property
    def intended_use(self) -> str | None:
        """Intended use and limits of the model; None if not stated."""
        return self.description.intended_use

    @property
    def footage(self) -> Footage | None:
        """Kind of video the model was trained on; None if not stated."""
        return self.description.footage

    @property
    def recipe(self) -> Recipe:
        """All settings besides the weights that affect results."""
        return self.description.recipe

    @property
    def graphs(self) -> Mapping[str, GraphInfo]:
        """The graphs by name."""
        return self.description.graphs

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Checkpoint hash, training data, tool versions."""
        return self.description.provenance

    @property
    def calibration(self) -> Calibration | None:
        """Operating points, if the model is calibrated."""
        return self.description.calibration

    @property
    def parity(self) -> ParityReport | None:
        """How far the graphs are from torch, as measured by the export."""
        return self.description.parity

    @property
    def is_bundled(self) -> bool:
        """Whether it is installed with the package."""
        return self.path.resolve().is_relative_to(_BUNDLED.resolve())

    def other_files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file next to `bundle.json`, including graphs.

        Raises:
            BundleError: A graph is missing or its hash differs, or a file cannot be read.
        """
        graphs = {self.graphs[name].file: name for name in GRAPHS if name in self.graphs}
        for name in files_beside(self.path, DESCRIPTION):
            if name not in graphs:
                yield name, read_member(self.path, name, most_bytes=_OTHER_BYTES)
        for name, graph in graphs.items():
            yield name, self._graph_file(graph)

    def read_graph(self, name: GraphName) -> bytes:
        """The ONNX file of a graph, with sizes from the description where the file leaves those of inputs open.

        Raises:
            BundleError: The graph is missing, its hash differs, or its content is refused, see `checks`.
        """
        content = self._graph_file(name)
        info = self.graphs[name]
        try:
            content = with_input_sizes(content, info.inputs)
        except BundleError as error:
            raise BundleError(f"{self.path}: {info.file}: {error}") from error
        if name != "suppress" and not self.is_bundled:  # graph 3 has sizes that depend on data
            problem = excess(content, [*info.inputs.values(), *info.outputs.values()])
            if problem is not None:
                raise BundleError(f"{self.path}: {info.file} {problem}")
        return content

    def _graph_file(self, name: GraphName) -> bytes:
        """The file of a graph, unchanged; the bytes that are checked are the bytes returned."""
        info = self.graphs.get(name)
        if info is None:
            raise BundleError(f"{self.path}: bundle has no graph {name!r}; it has {', '.join(self.graphs)}")
        folder = self.path if self.description.graphs_from is None else _installed(self.description.graphs_from)
        content = read_member(folder, info.file, most_bytes=MOST_BYTES if info.size_bytes is None else info.size_bytes)
        found = hashlib.sha256(content).hexdigest()
        if found != info.sha256:
            raise BundleError(
                f"{folder}: {info.file} has sha256 {found[:12]}…, bundle.json says {info.sha256[:12]}…: "
                "the file was changed or damaged; fetch or export the bundle again"
            )
        if problem := refusal(content, name):
            raise BundleError(f"{folder}: {info.file} {problem}")
        return content

    def graph_metadata(self, name: GraphName) -> dict[str, str]:
        """Metadata of the ONNX file of a graph; raises as `read_graph` does."""
        return metadata(self.read_graph(name))


def bundled_models() -> dict[str, Path]:
    """Models that are installed with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(_BUNDLED.glob(f"*/{DESCRIPTION}"))}


def _installed(name: str) -> Path:
    """Folder of an installed model."""
    models = bundled_models()
    if name not in models:
        raise BundleError(f"graphs_from: {name}: is not installed; there are {', '.join(models)}")
    return models[name]


def load_bundle(source: str | Path | None = None) -> Bundle:
    """Read a bundle's description. Graphs are read, and checked, by `Bundle.read_graph`.

    Args:
        source: A folder, a .zip file, or the name of a bundled model; None is the default model.

    Raises:
        BundleError: There is none, or it is damaged or of another version.
    """
    path = _locate(DEFAULT_MODEL if source is None else source)
    content = read_member(path, DESCRIPTION, most_bytes=_DESCRIPTION_BYTES)
    return Bundle(path, _parse(content, path), hashlib.sha256(content).hexdigest())


def _locate(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir() or path.is_file():
        return path
    bundled = bundled_models()
    if str(source) in bundled:
        return bundled[str(source)]
    raise BundleError(
        f"{source}: no such model; expected a bundle folder, a .zip, or one of the bundled: {', '.join(bundled)}"
    )


def _parse(content: bytes, path: Path) -> BundleDescription:
    try:
        value = json.loads(content)
        version = value["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: {DESCRIPTION} is not a bundle description: {error}") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: bundle has schema version {version}, this tallformer reads {SCHEMA_VERSION}: "
            f"{DESCRIPTION} is of another tallformer; update it, or export the bundle again"
        )
    _check_section_version("calibration", value, CALIBRATION_VERSION, path)
    _check_section_version("parity", value, PARITY_VERSION, path)
    own_sha256 = value.pop(_OWN_SHA256, None)
    try:
        description = from_json(BundleDescription, value, where="bundle")
    except ConfigError as error:
        raise BundleError(f"{path}: {DESCRIPTION}: {error}") from error
    if "suppress" in description.graphs and description.recipe.suppress.method.startswith("soft"):
        raise BundleError(
            f"{path}: {DESCRIPTION}: method={description.recipe.suppress.method} has no graph, yet there is one"
        )
    for name, graph in description.graphs.items():
        if name not in GRAPHS or Path(graph.file).name != graph.file or graph.file in ("", ".", ".."):
            raise BundleError(f"{path}: {DESCRIPTION}: graph {name!r} is {graph.file!r}: expected a plain file name")
    if own_sha256 is not None and own_sha256 != _values_sha256(value):
        raise BundleError(
            f"{path}: {DESCRIPTION} was changed or damaged: its values do not have the hash {_OWN_SHA256}; fetch or "
            f"export the bundle again, or, if the change is yours, remove {_OWN_SHA256} from it"
        )
    return description


def _values_sha256(value: dict[str, Any]) -> str:
    """Hash of JSON values, independent of their formatting."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _check_section_version(name: str, value: dict[str, Any], expected: int, path: Path) -> None:
    """Check the version of a section before its keys, which differ between versions."""
    section = value.get(name)
    version = section.get("version") if isinstance(section, dict) else expected
    if version != expected:
        raise BundleError(
            f"{path}: {name} has version {version}, this tallformer reads {expected}; "
            f'update tallformer, or remove "{name}" from {DESCRIPTION} and make it again'
        )


def read_member(path: Path, name: str, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Content of one file.

    Args:
        path: A folder or a .zip.
        name: Name of a file at its top level.
        most_bytes: Maximum size, see Note [sizes of files].

    Raises:
        BundleError: The file is missing, too large, or cannot be read.
    """
    try:
        content = _read_file(path / name, most_bytes) if path.is_dir() else _read_zipped(path, name, most_bytes)
    except (FileNotFoundError, KeyError):
        raise BundleError(f"{path}: bundle has no {name}") from None
    except _ZIP_DAMAGE as error:
        reason = str(error) or f"{name} ends too early"
        raise BundleError(f"{path}: expected a bundle folder or a readable .zip of one: {reason}") from error
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    if len(content) > most_bytes:
        raise BundleError(f"{path}: {name} is larger than {most_bytes:,} bytes, which is the most that it may have")
    return content


def _read_file(file: Path, most_bytes: int) -> bytes:
    """Up to one byte more than allowed."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # `open` would block on a pipe
    descriptor = os.open(file, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{file.name} is not a regular file")
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(most_bytes + 1)


def _read_zipped(path: Path, name: str, most_bytes: int) -> bytes:
    """Up to one byte more than allowed."""
    with zipfile.ZipFile(path) as archive:
        member = _zip_member(archive, name)
        if archive.namelist().count(member) > 1:
            raise zipfile.BadZipFile(f"it has two files named {member}")
        if archive.getinfo(member).compress_type not in _PACKINGS:
            raise zipfile.BadZipFile(f"{member} is packed by another method than Deflate")
        with archive.open(member) as opened:
            return opened.read(most_bytes + 1)


def files_beside(path: Path, description: str) -> list[str]:
    """Names of the files that lie beside the file `description`, sorted, without hidden ones.

    Raises:
        BundleError: The folder or .zip cannot be read.
    """
    try:
        if path.is_dir():
            names = [file.name for file in path.iterdir() if file.is_file()]
        else:
            with zipfile.ZipFile(path) as archive:
                folder = _zip_member(archive, description).removesuffix(description)
                names = [member.removeprefix(folder) for member in archive.namelist() if member.startswith(folder)]
    except (OSError, *_ZIP_DAMAGE) as error:
        raise BundleError(f"{path}: {error}") from error
    return sorted(
        name for name in names if Path(name).name == name != description and name and not name.startswith(".")
    )


def _zip_member(archive: zipfile.ZipFile, name: str) -> str:
    """The member at the top of the archive, or inside its only folder, as file managers zip a folder."""
    names = archive.namelist()
    if name in names:
        return name
    folders = {member.split("/", 1)[0] for member in names}
    return f"{folders.pop()}/{name}" if len(folders) == 1 else name
