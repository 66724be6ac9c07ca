"""The bundle: a model's graphs, recipe and provenance in one folder or .zip, with every file hash-checked.

Nothing in a bundle is executable Python and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tallformer_infer.config import CALIBRATION_VERSION, Calibration, Recipe, from_json, to_json
from tallformer_infer.errors import BundleError, ConfigError

SCHEMA_VERSION = 1
DESCRIPTION = "bundle.json"
DEFAULT_MODEL = "demo"
SUPPRESS_SETTINGS = "tallformer.suppress"
"""Entry of graph 3's metadata: the settings it was made for, as JSON."""

GraphName = Literal["encoder", "localizer", "suppress"]
GRAPHS: tuple[GraphName, ...] = ("encoder", "localizer", "suppress")

_BUNDLED = Path(__file__).parent / "bundles"


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """One ONNX graph of a bundle."""

    file: str
    """Name of the file inside the bundle."""
    sha256: str
    """Hash of the file."""
    precision: Literal["fp32", "fp16"]
    """Type of its weights and arithmetic; inputs and outputs do not depend on it."""
    inputs: dict[str, tuple[int | str, ...]]
    """Shape of each input; a name stands for any number."""
    outputs: dict[str, tuple[int | str, ...]]
    """Shape of each output."""


@dataclass(frozen=True, kw_only=True)
class BundleDescription:
    """Content of `bundle.json`."""

    schema_version: int
    """Version of this form."""
    name: str
    """What users call the model."""
    trained: bool
    """False where the weights are random and the actions mean nothing."""
    licence: str
    """Licence of the weights."""
    recipe: Recipe
    """Everything else that decides the numbers."""
    graphs: dict[str, GraphInfo]
    """`encoder`, `localizer` and, unless the suppression has no graph, `suppress`."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Checkpoint hash, training data, tool versions, parity report."""
    calibration: Calibration | None = None
    """Operating points, where the model was calibrated."""

    def __post_init__(self) -> None:
        if self.calibration is not None and set(self.calibration.classes) != set(self.recipe.classes):
            raise ConfigError(
                f"calibration is for {', '.join(self.calibration.classes)}; "
                f"expected the classes of the recipe: {', '.join(self.recipe.classes)}"
            )

    def as_json(self) -> dict[str, Any]:
        """Content of `bundle.json`; what is not there has no key."""
        value: dict[str, Any] = to_json(self)
        return value if self.calibration is not None else {key: value[key] for key in value if key != "calibration"}


@dataclass(frozen=True)
class Bundle:
    """A model that is ready to be loaded by a runtime."""

    path: Path
    """Folder or .zip file."""
    description: BundleDescription
    """What it holds."""
    sha256: str
    """Hash of `bundle.json`, which holds the hashes of everything else."""

    @property
    def name(self) -> str:
        """What users call the model."""
        return self.description.name

    @property
    def trained(self) -> bool:
        """False where the weights are random and the actions mean nothing."""
        return self.description.trained

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return self.description.licence

    @property
    def recipe(self) -> Recipe:
        """Everything besides the weights that decides the numbers."""
        return self.description.recipe

    @property
    def graphs(self) -> Mapping[str, GraphInfo]:
        """The graphs by name."""
        return self.description.graphs

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Checkpoint hash, training data, tool versions, parity report."""
        return self.description.provenance

    @property
    def calibration(self) -> Calibration | None:
        """Operating points, where the model was calibrated."""
        return self.description.calibration

    @property
    def is_bundled(self) -> bool:
        """Whether it is installed with the package."""
        return self.path.resolve().is_relative_to(_BUNDLED.resolve())

    def other_files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file that lies beside `bundle.json`, graphs included.

        Raises:
            BundleError: A graph is not there or its hash differs, or a file cannot be read.
        """
        graphs = {self.graphs[name].file: name for name in GRAPHS if name in self.graphs}
        for name in _files_beside(self.path):
            yield name, self.read_graph(graphs.pop(name)) if name in graphs else _read_member(self.path, name)
        for missing in graphs.values():
            self.read_graph(missing)

    def read_graph(self, name: GraphName) -> bytes:
        """The ONNX file of a graph. What is checked is what is returned.

        Raises:
            BundleError: It is not there, or its hash differs.
        """
        info = self.graphs.get(name)
        if info is None:
            raise BundleError(f"{self.path}: bundle has no graph {name!r}; it has {', '.join(self.graphs)}")
        content = _read_member(self.path, info.file)
        found = hashlib.sha256(content).hexdigest()
        if found != info.sha256:
            raise BundleError(
                f"{self.path}: {info.file} has sha256 {found[:12]}…, bundle.json says {info.sha256[:12]}…: "
                "the file was changed or damaged; fetch or export the bundle again"
            )
        return content


def bundled_models() -> dict[str, Path]:
    """Models that are installed with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(_BUNDLED.glob(f"*/{DESCRIPTION}"))}


def load_bundle(source: str | Path | None = None) -> Bundle:
    """Read a bundle's description. Graphs are read, and checked, by `Bundle.read_graph`.

    Args:
        source: A folder, a .zip file, or the name of a bundled model; None is the default model.

    Raises:
        BundleError: There is none, or it is damaged or of another version.
    """
    path = _locate(DEFAULT_MODEL if source is None else source)
    content = _read_member(path, DESCRIPTION)
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
        raise BundleError(f"{path}: bundle has schema version {version}, this tallformer reads {SCHEMA_VERSION}")
    _check_calibration_version(value.get("calibration"), path)
    try:
        description = from_json(BundleDescription, value, where="bundle")
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from error
    if "suppress" in description.graphs and description.recipe.suppress.method.startswith("soft"):
        raise BundleError(f"{path}: method={description.recipe.suppress.method} has no graph, yet there is one")
    for name, graph in description.graphs.items():
        if name not in GRAPHS or Path(graph.file).name != graph.file or graph.file in ("", ".", ".."):
            raise BundleError(f"{path}: graph {name!r} with file {graph.file!r}: expected a plain file name")
    return description


def _check_calibration_version(section: object, path: Path) -> None:
    """Before its keys are read, of which another version has others."""
    version = section.get("version") if isinstance(section, dict) else CALIBRATION_VERSION
    if version != CALIBRATION_VERSION:
        raise BundleError(
            f"{path}: calibration has version {version}, this tallformer reads {CALIBRATION_VERSION}; "
            f'update tallformer, or remove "calibration" from {DESCRIPTION} and calibrate again'
        )


def _read_member(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(_zip_member(archive, name))
    except FileNotFoundError:
        raise BundleError(f"{path}: bundle has no {name}") from None
    except KeyError:
        raise BundleError(f"{path}: bundle has no {name}") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:  # what zipfile raises
        raise BundleError(f"{path}: expected a bundle folder or a readable .zip of one: {error}") from error
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error


def _files_beside(path: Path) -> list[str]:
    try:
        if path.is_dir():
            names = [file.name for file in path.iterdir() if file.is_file()]
        else:
            with zipfile.ZipFile(path) as archive:
                folder = _zip_member(archive, DESCRIPTION).removesuffix(DESCRIPTION)
                names = [member.removeprefix(folder) for member in archive.namelist() if member.startswith(folder)]
    except (OSError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: {error}") from error
    return sorted(
        name for name in names if Path(name).name == name != DESCRIPTION and name and not name.startswith(".")
    )


def _zip_member(archive: zipfile.ZipFile, name: str) -> str:
    """The member at the top of the archive, or inside its only folder, as file managers zip a folder."""
    names = archive.namelist()
    if name in names:
        return name
    folders = {member.split("/", 1)[0] for member in names}
    return f"{folders.pop()}/{name}" if len(folders) == 1 else name
