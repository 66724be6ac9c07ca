"""What a source holds, so that it is known again wherever it lies and whatever it is called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from tallformer_infer.archive.tasks import Alive, Identified, NotAVideo
from tallformer_infer.errors import MediaError
from tallformer_infer.media import probe
from tallformer_infer.media.addresses import ALLOWED_PROTOCOLS, host_of, is_address
from tallformer_infer.media.remote import version_of_address

_HASHED_AT_ONCE = 1 << 24


def identify(
    source: str,
    *,
    is_guess: bool,
    on_alive: Callable[[Alive], None],
    protocols: Collection[str] = ALLOWED_PROTOCOLS,
    public_hosts: Collection[str] = (),
) -> Identified | NotAVideo:
    """Find out what a source holds: of a file its hash, of an address what its server says of its version.

    Args:
        source: Absolute path, or address.
        is_guess: Nothing says that it is a video: look.
        on_alive: Called now and then.
        protocols: Of addresses that may be used.
        public_hosts: Hosts that must have public addresses.

    Raises:
        MediaError: It cannot be read, or is not a file.
    """
    if is_address(source):
        version, size_bytes = version_of_address(source, protocols, only_public=host_of(source) in public_hosts)
        return Identified(f"address:{hashlib.sha256(version.encode()).hexdigest()}", size_bytes, None)
    if is_guess:
        try:
            probe(Path(source))
        except MediaError as error:
            status = os.stat(source)  # noqa: PTH116 - a name is taken as it is
            return NotAVideo(str(error), Identified("", status.st_size, status.st_mtime_ns))
    return _identify_file(source, on_alive)


def _identify_file(source: str, on_alive: Callable[[Alive], None]) -> Identified:
    """Hash a file. Size and time are those from before, so that a file that is being written is looked at again."""
    if not os.path.isfile(source):  # noqa: PTH113 - a name is taken as it is
        raise MediaError(f"{source}: {'not a regular file' if os.path.exists(source) else 'no such video'}")  # noqa: PTH110
    digest = hashlib.sha256()
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - a name is taken as it is
            status = os.fstat(file.fileno())
            while block := file.read(_HASHED_AT_ONCE):
                digest.update(block)
                on_alive(Alive(what="reading"))
    except OSError as error:
        raise MediaError(f"{source}: cannot be read: {error.strerror or error}") from error
    return Identified(f"sha256:{digest.hexdigest()}", status.st_size, status.st_mtime_ns)
