"""What is kept beside an engine: what it was made from and for, and how to tell that it is still the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from tallformer_infer.bundle import Bundle
from tallformer_infer.config import from_json, to_json
from tallformer_infer.errors import ConfigError, EngineError
from tallformer_infer.runtime.tensorrt.keys import EngineKey, platform_name
from tallformer_infer.runtime.tensorrt.library import Library
from tallformer_infer.runtime.tensorrt.seal import is_sealed, seal
from tallformer_infer.runtime.tensorrt.targets import runs_on

RECORD_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The JSON file beside an engine."""

    version: int
    """Version of this form."""
    key: EngineKey
    """What it was made from and for."""
    engine_sha256: str
    """Hash of the engine."""
    engine_bytes: int
    """Its size."""
    built_at: str
    """When it was done, UTC, ISO 8601."""
    build_s: float
    """How long it took, in seconds."""
    built_on: str | None
    """GPU of the machine that built it; None: built without one."""
    seal: str
    """Mark of the user who built it, on all of the above, see Note [an engine is a program]."""

    @property
    def is_own(self) -> bool:
        """Whether this user built it, or accepted it."""
        return is_sealed(self._sealed(), self.seal)

    def sealed(self) -> EngineRecord:
        """The same with this user's mark."""
        return dataclasses.replace(self, seal=seal(self._sealed()))

    def content(self) -> bytes:
        """The file."""
        return f"{json.dumps(to_json(self), indent=1)}\n".encode()

    def _sealed(self) -> bytes:
        facts = {name: value for name, value in to_json(self).items() if name != "seal"}
        return json.dumps(facts, sort_keys=True).encode()


def read_record(content: bytes) -> EngineRecord:
    """A record from its file.

    Raises:
        EngineError: It is none, or of another version.
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
    """Why an engine does not fit, told from what it was made for; None where it does.

    Args:
        record: Of the engine.
        bundle: Whose graph it should be.
        library: That would load it; None leaves this out.
        capability: Compute capability of the GPU that would run it; None leaves this out.
    """
    key = record.key
    info = bundle.graphs.get(key.graph)
    if info is None or info.sha256 != key.graph_sha256:
        return f"stale: made from another {key.graph} graph than the bundle's"
    if key.platform != platform_name():
        return f"made for {key.platform}, this is {platform_name()}"
    if library is not None and (key.library, key.library_version) != (library.flavour, library.version):
        return f"made with {key.library} {key.library_version}, here is {library}"
    if capability is not None and not runs_on(key.target, capability):
        return f"made for {key.target}, the GPU here is sm{capability}"
    if not record.is_own:
        return "not built by you on this machine, and engines hold machine code: `tallformer engine accept` takes it"
    return None


def sha256_of(content: bytes) -> str:
    """Hash of an engine."""
    return hashlib.sha256(content).hexdigest()
