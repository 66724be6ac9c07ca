"""Engines of a bundle as a table for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from tallformer_infer.bundle import Bundle
from tallformer_infer.config import to_json
from tallformer_infer.errors import DeviceError, EngineError, ExtraError
from tallformer_infer.runtime.tensorrt.library import Gpu, Library, load_library, require_gpu
from tallformer_infer.runtime.tensorrt.records import misfit
from tallformer_infer.runtime.tensorrt.store import StoredEngine, engine_folders, stored_engines
from tallformer_infer.text import printable

SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class EngineListing:
    """Engines, and what there is to run them."""

    bundle: Bundle
    """Whose."""
    library: Library | None
    """TensorRT that is installed here."""
    gpu: Gpu | None
    """GPU that is here."""
    missing: tuple[str, ...]
    """Why there is no library, or no GPU."""
    engines: tuple[tuple[StoredEngine, str | None], ...]
    """Each with why it is not used; None: it fits, as far as that can be told here."""


def look_at_engines(bundle: Bundle) -> EngineListing:
    """Find and check a bundle's engines; also where nothing could run them."""
    missing = []
    gpu = library = None
    try:
        gpu = require_gpu()
    except DeviceError as error:
        missing.append(str(error))
    try:
        library = load_library()
    except (ExtraError, DeviceError) as error:
        missing.append(str(error))
    engines = tuple((stored, _problem(stored, bundle, library, gpu)) for stored in stored_engines(bundle))
    return EngineListing(bundle, library, gpu, tuple(missing), engines)


def table_lines(listing: EngineListing) -> Iterator[Text]:
    """Three lines for each engine: what it is, where it is, and whether it is used."""
    for stored, problem in listing.engines:
        record = stored.record
        if record is None:
            yield Text(printable(stored.path.name), style="bold")
        else:
            key = record.key
            batch = key.batch.most if key.batch.least == key.batch.most else f"{key.batch.least} to {key.batch.most}"
            facts = (
                f"{key.precision}, batch {batch}, for {key.target}, {key.library} {key.library_version}, "
                f"{record.engine_bytes / 1e6:.1f} MB, built {record.built_at}"
            )
            yield Text.assemble((key.graph, "bold"), f"  {printable(facts)}")
        yield Text(f"  {printable(stored.path)}", style="dim")
        yield Text.assemble("  ", ("✗ ", "red") if problem else ("✓ ", "green"), printable(problem or "fits"))
    if not listing.engines:
        yield Text(f"no engines in {' or '.join(printable(folder) for folder in engine_folders(listing.bundle))}")
    for reason in listing.missing:
        yield Text(f"nothing runs here: {printable(reason)}", style="yellow")


def as_json(listing: EngineListing) -> dict[str, Any]:
    """Everything; names stay the same within a major `schema_version`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": str(listing.bundle.path),
        "library": None if listing.library is None else str(listing.library),
        "gpu": None if listing.gpu is None else str(listing.gpu),
        "missing": list(listing.missing),
        "engines": [
            {
                "path": str(stored.path),
                "log": str(stored.log),
                "fits": problem is None,
                "problem": problem,
                "record": None if stored.record is None else to_json(stored.record),
            }
            for stored, problem in listing.engines
        ],
    }


def _problem(stored: StoredEngine, bundle: Bundle, library: Library | None, gpu: Gpu | None) -> str | None:
    if stored.record is None:
        return stored.damage
    reason = misfit(stored.record, bundle, library, None if gpu is None else gpu.capability)
    if reason is not None:
        return reason
    try:
        stored.read()
    except EngineError as error:
        return str(error).removeprefix(f"{stored.path}: ")
    return None
