"""Result files at an address: s3://, gs://, az://, and what else fsspec writes to where the user allows it.

Note [whole at an address]
    Where a protocol can rename (sftp, ftp, smb, hdfs, a mounted disk), a file is written under another name beside its
    own and renamed. Object stores cannot, and need not: an object is there when its upload is complete, and not before.

Note [an address that does not answer]
    A try may take minutes, and the driver hears no worker meanwhile. After three failures in a row files are refused
    without a try, for 30 s or ten times as long as the last try took. What was refused is in the database.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from tallformer_infer.archive.naming import place_in
from tallformer_infer.archive.places import RESULTS, NotTriedError
from tallformer_infer.errors import MediaError, OutputError
from tallformer_infer.media.addresses import ALLOWED_PROTOCOLS
from tallformer_infer.media.remote import file_system

T = TypeVar("T")

_FAILURES_IN_A_ROW = 3
_LEAST_QUIET_S = 30.0
_QUIET_FACTOR = 10.0
_TEMPORARY = re.compile(r"/\.tallformer-[0-9a-f]{12}\.tmp$")


class RemotePlace:
    """An address with a folder of results, and files beside it."""

    folder = None

    def __init__(self, address: str, protocols: Collection[str] = ALLOWED_PROTOCOLS) -> None:
        """Connect, and see what is there.

        Args:
            address: Where files go.
            protocols: Of addresses that may be used.

        Raises:
            OutputError: It cannot be reached, or fsspec is not installed.
        """
        self.address = address.rstrip("/")
        """As the user named it."""
        self._protocols = protocols
        self._system: Any = None
        self._root = ""
        self._one_at_a_time = threading.Lock()
        self._failures = 0
        self._quiet_until_s = 0.0
        self._names = set(self._do("", self._list))

    def write(self, name: str, content: bytes) -> None:
        """See `ResultPlace`."""
        self._put(f"{RESULTS}/{name}", lambda system, path: system.pipe_file(path, content))

    def has(self, name: str) -> bool:
        """Whether there was a file of this name at the beginning, or is now."""
        return f"{RESULTS}/{name}" in self._names

    def try_again(self) -> None:
        """See `ResultPlace`."""
        self._quiet_until_s = 0.0

    def has_beside(self, name: str) -> bool:
        """Whether there is a file of this name beside the results."""
        return name in self._names

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this machine to a name beside the results, whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        self._put(name, lambda system, path: system.put_file(str(file), path))

    def download(self, name: str, file: Path) -> None:
        """Copy what lies beside the results to a file of this machine, which is replaced whole.

        Raises:
            OutputError: It cannot be read.
        """
        temporary = file.with_name(f"{file.name}-{secrets.token_hex(6)}.tmp")
        try:
            self._do(name, lambda system: system.get_file(self._path(name), str(temporary)), verb="read")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def _list(self, system: Any) -> list[str]:
        system.invalidate_cache()
        found: list[str] = []
        if system.exists(self._root):
            found += system.ls(self._root, detail=False)
        if system.exists(self._path(RESULTS)):
            found += system.find(self._path(RESULTS))
        for path in found:
            if _TEMPORARY.search(path):  # of a run that was cut off
                with contextlib.suppress(Exception):
                    system.rm_file(path)
        return [path.removeprefix(self._root).lstrip("/") for path in found]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, name: str, put: Callable[[Any, str], object]) -> None:
        """See Note [whole at an address]."""
        if time.monotonic() < self._quiet_until_s:
            raise NotTriedError(f"{self.address}/{name}: cannot be written: the address did not answer a moment ago")
        self._do(name, lambda system: self._put_whole(system, name, put))
        self._names.add(name)

    def _put_whole(self, system: Any, name: str, put: Callable[[Any, str], object]) -> None:
        if not _can_rename(system):
            put(system, self._path(name))
            return
        if _is_local(system):  # a link in it may lead elsewhere
            place_in(Path(self._root), name)
        folder = self._path(name).rpartition("/")[0]
        _make_folder(system, folder)
        temporary = f"{folder}/.tallformer-{secrets.token_hex(6)}.tmp"
        try:
            put(system, temporary)
            _rename(system, temporary, self._path(name))
        except Exception:  # after Ctrl-C there is no time; the next run removes it
            with contextlib.suppress(Exception):
                system.rm_file(temporary)
            raise

    def _do(self, name: str, work: Callable[[Any], T], *, verb: str = "written") -> T:
        """Do what needs the address, connected anew after a failure, and translate what goes wrong."""
        began_s = time.monotonic()
        try:
            with self._alone():
                done = work(self._connected())
        except OutputError:
            raise
        except Exception as error:  # every protocol has its own errors
            self._note_failure(time.monotonic() - began_s)
            reason = " ".join(str(error).split()) or type(error).__name__
            place, what = (f"{self.address}/{name}", verb) if name else (self.address, "reached")
            raise OutputError(f"{place}: cannot be {what}: {reason}") from error
        self._failures = 0
        return done

    def _connected(self) -> Any:
        system = self._system
        if system is None:
            try:
                system, root = file_system(self.address, self._protocols)
            except MediaError as error:
                raise ConnectionError(str(error).removeprefix(f"{self.address}: ")) from error
            self._system, self._root = system, root.rstrip("/")
        return system

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        """Protocols with one connection do one thing at a time."""
        system = self._system
        is_parallel = system is not None and (system.async_impl or _is_local(system))
        return contextlib.nullcontext() if is_parallel else self._one_at_a_time

    def _note_failure(self, took_s: float) -> None:
        self._system = None
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            self._quiet_until_s = time.monotonic() + max(_LEAST_QUIET_S, _QUIET_FACTOR * took_s)


def _make_folder(system: Any, folder: str) -> None:
    try:
        system.makedirs(folder, exist_ok=True)
    except Exception:
        system.invalidate_cache()
        if not system.isdir(folder):  # else somebody was quicker
            raise


def _rename(system: Any, temporary: str, path: str) -> None:
    try:
        system.mv(temporary, path)
    except Exception:
        if not system.exists(path):
            raise
        system.rm_file(path)  # some servers refuse to replace a file: for a moment there is none
        system.mv(temporary, path)


def _is_local(system: Any) -> bool:
    return "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _can_rename(system: Any) -> bool:
    """Whether the protocol does it itself; by default fsspec copies and removes."""
    from fsspec.spec import AbstractFileSystem  # noqa: PLC0415 (an extra)

    return type(system).mv is not AbstractFileSystem.mv
