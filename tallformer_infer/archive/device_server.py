"""A process that owns a device and encodes clips of several videos together, and the runtime that uses it.

Note [one device, many decoders]
    A GPU encodes clips many times as fast as a core decodes them, and needs several at once; a short video has few.
    Workers therefore decode and submit their clips, and all pending clips, of any videos, are encoded as one batch.
    Pixels are passed in shared memory, features through a socket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import mmap
import multiprocessing
import os
import queue
import secrets
import signal
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.archive.processes import signals_held_back
from tallformer_infer.archive.stages import encoder_precision
from tallformer_infer.archive.tasks import LabelSettings, ServerAddress
from tallformer_infer.bundle import load_bundle
from tallformer_infer.errors import DeviceError, TallformerError
from tallformer_infer.runtime import (
    Cancellation,
    Device,
    ProposingRuntime,
    RunsOn,
    Runtime,
    WindowBatch,
    load_runtime,
)
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.structures import Candidates, Proposals

_MOST_CLIPS = 64
_GPUS = Path("/proc/driver/nvidia/gpus")
_START_S, _BUILD_S = 300.0, 3600.0
"""Timeout for loading the model; `onnx-tensorrt` builds engines for a model that is new to this GPU."""


@dataclass(frozen=True)
class _Request:
    """A request of a worker."""

    what: str
    arguments: tuple[Any, ...]
    pixels: NDArray[np.uint8] | None
    reply: queue.SimpleQueue[Any]


class DeviceServer:
    """One server process, from the driver's side."""

    def __init__(self, settings: LabelSettings, *, gpu: int | None = None) -> None:
        """Start the process and wait until the model is loaded.

        Args:
            settings: Model and device.
            gpu: Index of the GPU; None leaves it to CUDA.

        Raises:
            DeviceError: It could not be started; the message gives the reason.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        key = secrets.token_bytes(32)
        self._process = context.Process(
            target=_serve, args=(theirs, settings, key, gpu), name="tallformer-device", daemon=True
        )
        with signals_held_back():
            self._process.start()
        theirs.close()
        self._connection = ours
        try:
            wait_s = _BUILD_S if settings.device == "onnx-tensorrt" else _START_S
            answer = ours.recv() if ours.poll(wait_s) else f"the model is not loaded after {wait_s / 60:.0f} minutes"
        except EOFError:
            answer = "the process of the device ended"
        if isinstance(answer, str):
            self.close()
            raise DeviceError(answer)
        address, self.device = answer
        self.address = ServerAddress(address, key)
        """Address for workers."""

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def start_servers(
    settings: LabelSettings, ending: contextlib.ExitStack, *, gpus: int | None, is_wanted: bool | None
) -> LabelSettings:
    """Start a server per GPU.

    Args:
        settings: Model and device.
        ending: Ends the servers.
        gpus: Number of GPUs to use; None: all.
        is_wanted: None: only if the model runs on a GPU.

    Returns:
        The settings, with the servers if there are any.

    Raises:
        DeviceError: A server could not be started.
    """
    if is_wanted is False or (is_wanted is None and not _may_have_cuda(settings.device)):
        return settings
    servers: list[DeviceServer] = []
    for gpu in range(_count_gpus() if gpus is None else gpus):
        server = run_interruptibly(functools.partial(DeviceServer, settings, gpu=gpu))
        ending.callback(server.close)
        if server.device == "cpu" and not is_wanted:  # `auto` has found no GPU
            return settings
        servers.append(server)
    return dataclasses.replace(settings, servers=tuple(server.address for server in servers))


def _count_gpus() -> int:
    """Number of GPUs that CUDA may use, as reported by the driver; at least 1."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return max(len([name for name in chosen.split(",") if name.strip()]), 1)
    with contextlib.suppress(OSError):
        return max(len(list(_GPUS.iterdir())), 1)
    return 1


def _may_have_cuda(device: Device) -> bool:
    """Whether to try CUDA: it was requested, or ONNX Runtime was built with it."""
    if device != "auto":
        return device in ("cuda", "onnx-tensorrt", "tensorrt")
    import onnxruntime  # noqa: PLC0415 (not needed where the device is named)

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _serve(driver: Connection, settings: LabelSettings, key: bytes, gpu: int | None) -> None:
    """Serve until the driver ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:  # CUDA reads it on first use; no other setting is respected by all libraries
        os.environ["CUDA_VISIBLE_DEVICES"] = _nth_visible(gpu)
    try:
        bundle = load_bundle(settings.model)
        precision = encoder_precision(bundle, settings.precision)
        runtime = load_runtime(bundle, device=settings.device, threads=settings.threads, precision=precision)
    except TallformerError as error:
        driver.send(str(error))
        return
    requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
    listener = Listener(backlog=64, authkey=key)
    threading.Thread(target=_accept, args=(listener, requests), daemon=True).start()
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    driver.send((listener.address, runtime.device))
    _describe = (runtime.name, runtime.device, runtime.device_reason, runtime.clips_at_once, runtime.precision)
    while True:
        _answer(runtime, _gather(requests), _describe)


def _nth_visible(gpu: int) -> str:
    chosen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return chosen[gpu] if gpu < len(chosen) else str(gpu)


def _end_with(driver: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        driver.recv()
    os._exit(0)


def _accept(listener: Listener, requests: queue.SimpleQueue[_Request]) -> None:
    while True:
        with contextlib.suppress(Exception):  # a client without the key, or a worker that is already gone
            connection = listener.accept()
            threading.Thread(target=_converse, args=(connection, requests), daemon=True).start()


def _converse(connection: Connection, requests: queue.SimpleQueue[_Request]) -> None:
    """Forward a worker's requests, one at a time, until it ends."""
    reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
    shared: mmap.mmap | None = None
    with contextlib.suppress(EOFError, OSError), connection:
        while True:
            what, *arguments = connection.recv()
            if what == "memory":
                path, size = arguments
                with open(path, "r+b") as file:  # noqa: PTH123
                    shared = mmap.mmap(file.fileno(), size)
                connection.send(None)
                continue
            pixels = None
            if what == "encode":
                assert shared is not None, "memory comes first"
                shape = arguments.pop(0)
                pixels = np.frombuffer(shared, np.uint8, int(np.prod(shape))).reshape(shape)
            requests.put(_Request(what, tuple(arguments), pixels, reply))
            connection.send(reply.get())


def _gather(requests: queue.SimpleQueue[_Request]) -> list[_Request]:
    """The next request; an encoding request is batched with other pending ones, up to a limit of clips."""
    first = requests.get()
    gathered, clips = [first], 0 if first.pixels is None else len(first.pixels)
    while first.pixels is not None and clips < _MOST_CLIPS and not requests.empty():
        gathered.append(requests.get())
        pixels = gathered[-1].pixels
        if pixels is None:
            break
        clips += len(pixels)
    return gathered


def _answer(runtime: Runtime, requests: Sequence[_Request], described: tuple[Any, ...]) -> None:
    encoding = [request for request in requests if request.pixels is not None]
    try:
        if encoding:
            _encode(runtime, encoding)
    except Exception as error:
        for request in encoding:
            request.reply.put(f"{type(error).__name__}: {error}")
    for request in requests:
        if request.pixels is not None:
            continue
        try:
            request.reply.put(_computed(runtime, request, described))
        except Exception as error:
            request.reply.put(f"{type(error).__name__}: {error}")


def _computed(runtime: Runtime, request: _Request, described: tuple[Any, ...]) -> Any:
    match request.what:
        case "localize":
            return runtime.localize(*request.arguments)
        case "propose":
            if not isinstance(runtime, ProposingRuntime):
                raise DeviceError(f"{runtime.name} cannot return proposals without classes")
            return runtime.propose(*request.arguments)
        case _:
            return described


def _encode(runtime: Runtime, requests: Sequence[_Request]) -> None:
    pixels = np.concatenate([request.pixels for request in requests if request.pixels is not None])
    real_frames = np.concatenate([request.arguments[0] for request in requests])
    features = runtime.encode(pixels, real_frames)
    ends = np.cumsum([len(request.arguments[0]) for request in requests])
    for request, part in zip(requests, np.split(features, ends[:-1]), strict=True):
        request.reply.put(part)


_MEMORY = Path("/dev/shm")


class RemoteRuntime:
    """A runtime that forwards calls to a `DeviceServer`. One thread encodes clips, another localizes windows."""

    def __init__(self, server: ServerAddress) -> None:
        """Connect.

        Raises:
            DeviceError: The server is gone.
        """
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

    def localize(self, windows: WindowBatch) -> Candidates:
        """Windows of feature steps to candidates, see `Runtime.localize`."""
        candidates: Candidates = self._localizing.ask("localize", windows)
        return candidates

    def propose(self, window: WindowBatch) -> Proposals:
        """One window of feature steps to proposals, see `ProposingRuntime.propose`."""
        proposals: Proposals = self._localizing.ask("propose", window)
        return proposals

    def _share(self, size: int) -> mmap.mmap:
        """Memory shared with the server; its file is unlinked as soon as both have mapped it."""
        folder = str(_MEMORY) if _MEMORY.is_dir() else None
        with tempfile.NamedTemporaryFile(prefix="tallformer-", dir=folder) as file:
            file.truncate(size)
            shared = mmap.mmap(file.fileno(), size)
            self._encoding.ask("memory", file.name, size)
        return shared


class _Line:
    """A connection for one request at a time."""

    def __init__(self, server: ServerAddress) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = Client(server.address, authkey=server.key)
        except (OSError, EOFError) as error:
            raise DeviceError(f"the process of the device is gone: {error}") from error

    def ask(self, *question: Any) -> Any:
        """Send a request and wait for the response.

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
