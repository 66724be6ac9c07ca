"""Engines on the disk: in the folder `engines` of a bundle, or in the user's cache if that folder cannot be written.

Each engine is three files of one name: `.engine`, `.json` (the record, written last: without it there is no engine) and
`.log`.

Note [an engine is a program]
    An engine holds machine code, and TensorRT checks nothing when it loads one. Bundles are shared, and nothing else in
    a bundle is executable: an engine must not be loaded only because it is there and its name fits. So each engine
    built here is sealed with a secret that only this user can read, and an engine without this user's seal is refused
    until `tallformer engine accept` seals it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.config import from_json, to_json
from tallformer_infer.errors import ConfigError, EngineError, OutputError
from tallformer_infer.files import user_cache_folder, write_whole, writing
from tallformer_infer.results import check_destination
from tallformer_infer.runtime.tensorrt.keys import EngineKey, Gpu, Library, input_sizes, platform_name, runs_on

_FOLDER = "engines"
_ENGINE, _RECORD, _LOG = ".engine", ".json", ".log"

RECORD_VERSION = 2

_SEAL_KEY = "engine-seal.key"
_SEAL_KEY_BYTES = 32


@dataclass(frozen=True)
class StoredEngine:
    """An engine on disk, possibly damaged or incomplete."""

    path: Path
    """File of the engine; it may be missing."""
    record: EngineRecord | None
    """Its record; None if it cannot be read."""
    damage: str | None
    """Why the record cannot be read; None if it can."""

    @property
    def log(self) -> Path:
        """File of TensorRT's messages during the build."""
        return self.path.with_suffix(_LOG)

    def read(self) -> bytes:
        """Read the engine, and check its hash.

        Raises:
            EngineError: It is missing, or was changed after it was built.
        """
        if self.record is None:
            raise EngineError(f"{self.path.with_suffix(_RECORD)}: {self.damage}")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self.path}: {error.strerror or error}") from error
        if hashlib.sha256(content).hexdigest() != self.record.engine_sha256:
            raise EngineError(f"{self.path}: was changed or damaged after it was built; build it again with --force")
        return content


def engine_folders(bundle: Bundle) -> tuple[Path, ...]:
    """Folders where a bundle's engines may be, in order of preference."""
    own = (bundle.path / _FOLDER,) if bundle.path.is_dir() and not bundle.is_bundled else ()
    return (*own, user_cache_folder() / _FOLDER)


def folder_to_write(bundle: Bundle) -> Path:
    """The first of `engine_folders` that can be written; it is created.

    Raises:
        OutputError: None can.
    """
    *first, last = engine_folders(bundle)
    for folder in first:
        with contextlib.suppress(OutputError, OSError):
            return _make(folder)
    with writing(last):
        return _make(last)


def stored_engines(bundle: Bundle) -> list[StoredEngine]:
    """All engines of a bundle, fitting or not, by name. Engines of other bundles in the cache are left out."""
    hashes = {graph.sha256 for graph in bundle.graphs.values()}
    *own, cache = engine_folders(bundle)
    found = [stored for folder in own for stored in _stored(folder)]
    return [
        *found,
        *(stored for stored in _stored(cache) if stored.record and stored.record.key.graph_sha256 in hashes),
    ]


def find_engine(bundle: Bundle, graph: GraphName, library: Library, gpu: Gpu) -> StoredEngine:
    """Find the engine to run a graph with here: the last built of those that fit.

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
    """A usable engine with exactly this key, or None."""
    for stored in stored_engines(bundle):
        if stored.record is not None and stored.record.key == key and stored.record.is_own:
            with contextlib.suppress(EngineError):
                stored.read()
                return stored
    return None


def write_engine(folder: Path, key: EngineKey, content: bytes, *, build_s: float, built_on: str | None) -> StoredEngine:
    """Store a new engine, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / f"{key.stem}{_ENGINE}"
    record = EngineRecord(
        version=RECORD_VERSION,
        key=key,
        engine_sha256=hashlib.sha256(content).hexdigest(),
        engine_bytes=len(content),
        built_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        build_s=round(build_s, 2),
        built_on=built_on,
        seal="",
    ).sealed()
    with writing(path):
        path.with_suffix(_RECORD).unlink(missing_ok=True)
        try:
            write_whole(path, content)
            write_whole(path.with_suffix(_RECORD), record.content())
        except BaseException:  # Ctrl-C too
            path.unlink(missing_ok=True)
            raise
    return StoredEngine(path, record, None)


def write_log(folder: Path, key: EngineKey, text: str) -> Path:
    """Store TensorRT's messages, also those of a failed build.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / f"{key.stem}{_LOG}"
    with writing(path):
        write_whole(path, text.encode(errors="replace"))
    return path


def read_timing_cache(key: EngineKey) -> bytes | None:
    """Timings of earlier builds for the same GPU and library; None if there are none."""
    try:
        return _timing_file(key).read_bytes()
    except OSError:
        return None


def write_timing_cache(key: EngineKey, content: bytes) -> None:
    """Store the timings of a build in the user's cache: they serve all models and are never shared.

    Raises:
        OutputError: It cannot be written.
    """
    path = _timing_file(key)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def accept_engine(stored: StoredEngine) -> StoredEngine:
    """Seal an engine that somebody else built, see Note [an engine is a program].

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


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The JSON file beside an engine."""

    version: int
    """Version of the record's format."""
    key: EngineKey
    """What it was made from and for."""
    engine_sha256: str
    """Hash of the engine."""
    engine_bytes: int
    """Its size."""
    built_at: str
    """End of the build, UTC, ISO 8601."""
    build_s: float
    """Duration of the build, in seconds."""
    built_on: str | None
    """GPU of the machine that built it; None if it had none."""
    seal: str
    """Seal of the user who built it over all of the above, see Note [an engine is a program]."""

    @property
    def is_own(self) -> bool:
        """Whether this user built or accepted it."""
        return is_sealed(self._sealed(), self.seal)

    def sealed(self) -> EngineRecord:
        """A copy with this user's seal."""
        return dataclasses.replace(self, seal=seal(self._sealed()))

    def content(self) -> bytes:
        """The file."""
        return f"{json.dumps(to_json(self), indent=1)}\n".encode()

    def _sealed(self) -> bytes:
        facts = {name: value for name, value in to_json(self).items() if name != "seal"}
        return json.dumps(facts, sort_keys=True).encode()


def read_record(content: bytes) -> EngineRecord:
    """Parse a record.

    Raises:
        EngineError: It is not a record, or of another version.
    """
    try:
        value = json.loads(content)
        version = value["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError("is not the record of an engine") from error
    if version != RECORD_VERSION:
        raise EngineError(f"is a record of version {version}, this tallformer reads {RECORD_VERSION}")
    try:
        return from_json(EngineRecord, value, where="engine")
    except ConfigError as error:
        raise EngineError(str(error)) from error


def misfit(record: EngineRecord, bundle: Bundle, library: Library | None, capability: int | None) -> str | None:
    """Why an engine does not fit, by its record; None if it fits.

    Args:
        record: Of the engine.
        bundle: The bundle it should be built from.
        library: Library to load it with; None skips this check.
        capability: Compute capability of the GPU to run it on; None skips this check.
    """
    key = record.key
    info = bundle.graphs.get(key.graph)
    if info is None or info.sha256 != key.graph_sha256:
        return f"stale: made from another {key.graph} graph than the bundle's"
    if key.input_sizes != input_sizes(info):
        return f"made for inputs of {key.input_sizes}, the bundle's are {input_sizes(info)}"
    reason = _misfit_here(key, library, capability)
    if reason is None and not record.is_own:
        return "not built by you on this machine, and engines hold machine code: `tallformer engine accept` accepts it"
    return reason


def _misfit_here(key: EngineKey, library: Library | None, capability: int | None) -> str | None:
    if key.platform != platform_name():
        return f"made for {key.platform}, this is {platform_name()}"
    if library is not None and (key.library, key.library_version) != (library.flavour, library.version):
        return f"made with {key.library} {key.library_version}, here is {library}"
    if capability is not None and not runs_on(key.target, capability):
        return f"made for {key.target}, the GPU here is sm{capability}"
    return None


def seal(content: bytes) -> str:
    """This user's seal on `content`; the secret is created if there is none.

    Raises:
        OutputError: The secret cannot be kept.
    """
    return hmac.new(_seal_key() or _make_seal_key(), content, hashlib.sha256).hexdigest()


def is_sealed(content: bytes, mark: str) -> bool:
    """Whether `mark` is this user's seal on `content`."""
    secret = _seal_key()
    return secret is not None and hmac.compare_digest(
        hmac.new(secret, content, hashlib.sha256).hexdigest().encode(), mark.encode()
    )


def _seal_key() -> bytes | None:
    try:
        content = _seal_key_file().read_bytes()
    except OSError:
        return None
    return content if len(content) == _SEAL_KEY_BYTES else None


def _make_seal_key() -> bytes:
    """Create the secret in a temporary file and link it, so that two programs at once end up with the same one."""
    file = _seal_key_file()
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(6)}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(_SEAL_KEY_BYTES))
        if file.exists() and _seal_key() is None:
            file.unlink()  # damaged: its seals can no longer be verified
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    made = _seal_key()
    if made is None:
        raise OutputError(f"{file}: cannot be read again")
    return made


def _seal_key_file() -> Path:
    return user_cache_folder() / _SEAL_KEY
