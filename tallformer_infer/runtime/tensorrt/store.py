"""Engines on the disk: in the folder `engines` of a bundle, or in the user's cache where it cannot be written.

Three files of one name: `.engine`, `.json` (the record, written last: without it there is no engine) and `.log`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.errors import EngineError, OutputError
from tallformer_infer.files import user_cache_folder, write_whole
from tallformer_infer.results import check_destination
from tallformer_infer.runtime.tensorrt.keys import EngineKey
from tallformer_infer.runtime.tensorrt.library import Gpu, Library
from tallformer_infer.runtime.tensorrt.records import RECORD_VERSION, EngineRecord, misfit, read_record, sha256_of

_FOLDER = "engines"
_ENGINE, _RECORD, _LOG = ".engine", ".json", ".log"


@dataclass(frozen=True)
class StoredEngine:
    """An engine, or what is left of one."""

    path: Path
    """The engine; it need not be there."""
    record: EngineRecord | None
    """What is known of it."""
    damage: str | None
    """Why nothing is."""

    @property
    def log(self) -> Path:
        """What TensorRT said while it was built."""
        return self.path.with_suffix(_LOG)

    def read(self) -> bytes:
        """The engine. What is checked is what is returned.

        Raises:
            EngineError: It is not there, or not as it was when it was built.
        """
        if self.record is None:
            raise EngineError(f"{self.path.with_suffix(_RECORD)}: {self.damage}")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self.path}: {error.strerror or error}") from error
        if sha256_of(content) != self.record.engine_sha256:
            raise EngineError(f"{self.path}: was changed or damaged after it was built; build it again with --force")
        return content


def engine_folders(bundle: Bundle) -> tuple[Path, ...]:
    """Folders where a bundle's engines may be, the first first."""
    own = (bundle.path / _FOLDER,) if bundle.path.is_dir() and not bundle.is_bundled else ()
    return (*own, user_cache_folder() / _FOLDER)


def folder_to_write(bundle: Bundle) -> Path:
    """The first of `engine_folders` that can be written; it is made.

    Raises:
        OutputError: None can.
    """
    *first, last = engine_folders(bundle)
    for folder in first:
        with contextlib.suppress(OutputError, OSError):
            return _make(folder)
    try:
        return _make(last)
    except OSError as error:
        raise OutputError(f"{last}: cannot be written: {error.strerror or error}") from error


def stored_engines(bundle: Bundle) -> list[StoredEngine]:
    """Engines of a bundle, whether they fit or not, by name. In the cache, those of other bundles are left out."""
    hashes = {graph.sha256 for graph in bundle.graphs.values()}
    *own, cache = engine_folders(bundle)
    found = [stored for folder in own for stored in _stored(folder)]
    return [
        *found,
        *(stored for stored in _stored(cache) if stored.record and stored.record.key.graph_sha256 in hashes),
    ]


def find_engine(bundle: Bundle, graph: GraphName, library: Library, gpu: Gpu) -> StoredEngine:
    """The engine of a graph to run here: of those that fit, the one that was built last.

    Raises:
        EngineError: None fits; the message says why, and how to build one.
    """
    reasons: list[str] = []
    fitting: list[tuple[str, StoredEngine]] = []
    for stored in stored_engines(bundle):
        if stored.record is None or stored.record.key.graph != graph:
            continue
        reason = misfit(stored.record, bundle, library, gpu.capability)
        if reason is None:
            fitting.append((stored.record.built_at, stored))
        elif reason not in reasons:
            reasons.append(reason)
    if fitting:
        return max(fitting, key=lambda pair: pair[0])[1]
    others = f" (there is one {'; one '.join(reasons)})" if reasons else ""
    raise EngineError(
        f"{bundle.path}: no engine of graph {graph} for {gpu} and {library}{others}: "
        f"tallformer engine build {bundle.name if bundle.is_bundled else bundle.path}"
    )


def stored_as(bundle: Bundle, key: EngineKey) -> StoredEngine | None:
    """The engine of exactly this key that can be used, if there is one."""
    for stored in stored_engines(bundle):
        if stored.record is not None and stored.record.key == key and stored.record.is_own:
            with contextlib.suppress(EngineError):
                stored.read()
                return stored
    return None


def write_engine(folder: Path, key: EngineKey, content: bytes, *, build_s: float, built_on: str | None) -> StoredEngine:
    """Keep an engine that was just built. Whatever stops this leaves the whole of it, or no engine.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / f"{key.stem}{_ENGINE}"
    record = EngineRecord(
        version=RECORD_VERSION,
        key=key,
        engine_sha256=sha256_of(content),
        engine_bytes=len(content),
        built_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        build_s=round(build_s, 2),
        built_on=built_on,
        seal="",
    ).sealed()
    try:
        path.with_suffix(_RECORD).unlink(missing_ok=True)
        try:
            write_whole(path, content)
            write_whole(path.with_suffix(_RECORD), record.content())
        except BaseException:  # Ctrl-C too
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return StoredEngine(path, record, None)


def write_log(folder: Path, key: EngineKey, text: str) -> Path:
    """Keep what TensorRT said, also of a build that failed.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / f"{key.stem}{_LOG}"
    try:
        write_whole(path, text.encode(errors="replace"))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def read_timing_cache(key: EngineKey) -> bytes | None:
    """What earlier builds for the same GPU and library measured; None where there is none."""
    try:
        return _timing_file(key).read_bytes()
    except OSError:
        return None


def write_timing_cache(key: EngineKey, content: bytes) -> None:
    """Keep what a build measured: in the user's cache, as it serves all models and is never passed on.

    Raises:
        OutputError: It cannot be written.
    """
    path = _timing_file(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def accept_engine(stored: StoredEngine) -> StoredEngine:
    """Seal an engine that someone else built, see Note [an engine is a program].

    Raises:
        EngineError: It is damaged.
        OutputError: The record cannot be written.
    """
    stored.read()
    assert stored.record is not None
    record = stored.record.sealed()
    try:
        write_whole(stored.path.with_suffix(_RECORD), record.content())
    except OSError as error:
        raise OutputError(f"{stored.path}: cannot be accepted: {error.strerror or error}") from error
    return dataclasses.replace(stored, record=record)


def _stored(folder: Path) -> Iterator[StoredEngine]:
    try:
        files = sorted(folder.glob(f"*{_RECORD}"))
    except OSError:
        return
    for file in files:
        path = file.with_suffix(_ENGINE)
        try:
            record = read_record(file.read_bytes())
        except (OSError, EngineError) as error:
            yield StoredEngine(path, None, str(error))
            continue
        if record.key.stem == path.stem:
            yield StoredEngine(path, record, None)
        else:
            yield StoredEngine(path, None, "is the record of another engine than its name says")


def _timing_file(key: EngineKey) -> Path:
    name = f"timing_{key.target}_{key.library}-{key.library_version}_{key.platform}.cache"
    return user_cache_folder() / _FOLDER / name


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: cannot be written")
    check_destination(folder / f"engine{_RECORD}")
    return folder
