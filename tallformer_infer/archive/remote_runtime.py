"""A runtime in another process, see Note [one device, many decoders] in `device_server`."""

from __future__ import annotations

import mmap
import tempfile
import threading
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.archive.tasks import ServerAddress
from tallformer_infer.config import SuppressConfig
from tallformer_infer.errors import DeviceError
from tallformer_infer.nms import suppress
from tallformer_infer.runtime import Cancellation, RunsOn
from tallformer_infer.structures import Candidates, Proposals

_MEMORY = Path("/dev/shm")


class RemoteRuntime:
    """Asks a `DeviceServer`. Clips are encoded in one thread and windows localized in another."""

    def __init__(self, server: ServerAddress, config: SuppressConfig) -> None:
        """Connect.

        Raises:
            DeviceError: The server is gone.
        """
        self._config = config
        self._encoding, self._localizing = _Line(server), _Line(server)
        self._shared: mmap.mmap | None = None
        described = self._localizing.ask("describe")
        self.name: str = described[0]
        self.device: RunsOn = described[1]
        self.device_reason: str = described[2]
        self.clips_at_once: int = described[3]
        self.precision: str = described[4]
        self.clips_per_call = self.clips_at_once

    def encode(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation | None = None
    ) -> NDArray[np.float32]:
        """Clips to feature steps, see `Runtime.encode`."""
        with (cancellation or Cancellation()).stopping(lambda: None):
            if self._shared is None or len(self._shared) < clips.nbytes:
                self._shared = self._share(max(clips.nbytes, self.clips_at_once * clips[:1].nbytes))
            np.frombuffer(self._shared, np.uint8, clips.size)[:] = clips.reshape(-1)
            features: NDArray[np.float32] = self._encoding.ask("encode", clips.shape, real_frames)
            return features

    def localize(
        self, features: NDArray[np.float32], start_frames: NDArray[np.int64], real_frames: NDArray[np.int64]
    ) -> Candidates:
        """Windows of feature steps to candidates, see `Runtime.localize`."""
        candidates: Candidates = self._localizing.ask("localize", features, start_frames, real_frames)
        return candidates

    def propose(
        self, features: NDArray[np.float32], start_frames: NDArray[np.int64], real_frames: NDArray[np.int64]
    ) -> Proposals:
        """One window of feature steps to proposals, see `ProposingRuntime.propose`."""
        proposals: Proposals = self._localizing.ask("propose", features, start_frames, real_frames)
        return proposals

    def suppress(self, candidates: Candidates) -> Candidates:
        """Candidates of a whole video to its actions, see `Runtime.suppress`; here, as it needs no device."""
        return suppress(candidates, self._config)

    def _share(self, size: int) -> mmap.mmap:
        """Memory that the server has mapped, too. Its file has no name for longer than that takes."""
        folder = str(_MEMORY) if _MEMORY.is_dir() else None
        with tempfile.NamedTemporaryFile(prefix="tallformer-", dir=folder) as file:
            file.truncate(size)
            shared = mmap.mmap(file.fileno(), size)
            self._encoding.ask("memory", file.name, size)
        return shared


class _Line:
    """A connection on which one question is asked at a time."""

    def __init__(self, server: ServerAddress) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = Client(server.address, authkey=server.key)
        except (OSError, EOFError) as error:
            raise DeviceError(f"the process of the device is gone: {error}") from error

    def ask(self, *question: Any) -> Any:
        """Ask, and wait for the answer.

        Raises:
            DeviceError: The server is gone, or the device failed.
        """
        with self._lock:
            try:
                self._connection.send(question)
                answer = self._connection.recv()
            except (OSError, EOFError) as error:
                raise DeviceError(f"the process of the device is gone: {error or 'it ended'}") from error
        if isinstance(answer, str):
            raise DeviceError(f"the device failed: {answer}")
        return answer
