"""How many workers a machine can take."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tallformer_infer.bundle import Bundle
from tallformer_infer.bundle_files import read_member
from tallformer_infer.cores import available_cores
from tallformer_infer.errors import BundleError

WORKER_BYTES = 300 << 20
"""Python, libraries, a decoder at 1080p and clips on their way; measured 140 MB with the demo model at 720p."""
GRAPH_FACTOR = 3
"""Memory of a loaded graph, as a multiple of its file: while it is loaded, file, weights and arrangements for the
processor exist at once."""
PART_OF_FREE_MEMORY = 0.8
_SHARED_COST = 1.15
"""Time of a video whose threads share the work, times the threads, against that of one thread; see `cpu_encoder`."""


def choose_workers(bundle: Bundle, *, videos: int, memory_bytes: int | None, workers: int | None) -> int:
    """How many workers to use: one per core; with fewer videos, or less memory, as many as share the cores best.

    Args:
        bundle: The model, which each worker loads.
        videos: How many were named, those that are done included.
        memory_bytes: Most memory of all workers together; None takes most of what is free.
        workers: What the user wants; None leaves it to the machine.

    Raises:
        BundleError: A graph is missing.
    """
    if workers is not None:
        return workers
    budget = memory_bytes if memory_bytes is not None else _free_memory_bytes()
    by_memory = max(budget // _worker_bytes(bundle), 1) if budget is not None else available_cores()
    return share_videos(available_cores(), videos=videos, most=by_memory)


def share_videos(cores: int, *, videos: int, most: int) -> int:
    """The number of workers, at most `most`: one per core, or else those that are done first.

    Twelve cores take eight videos in one round of eight workers that leave four cores idle, or in two rounds of four
    workers that have three threads each, which is faster.
    """

    def rounds(workers: int) -> float:
        threads = cores // workers
        return -(-videos // workers) / threads * (_SHARED_COST if threads > 1 else 1.0)

    most = max(min(cores, videos, most), 1)
    return most if most == cores else min(range(most, 0, -1), key=rounds)


def choose_threads(workers: int, threads: int | None) -> int | None:
    """Threads for each worker: all cores for one, else their share of them."""
    if threads is not None:
        return threads
    return None if workers == 1 else max(available_cores() // workers, 1)


def _worker_bytes(bundle: Bundle) -> int:
    graphs = 0
    for graph in bundle.graphs.values():
        path = bundle.path / graph.file
        graphs += path.stat().st_size if path.is_file() else len(_read(bundle, graph.file))
    return WORKER_BYTES + GRAPH_FACTOR * graphs


def _read(bundle: Bundle, name: str) -> bytes:
    try:
        return read_member(bundle.path, name)
    except BundleError:
        return b""  # said by whoever loads it


def _free_memory_bytes() -> int | None:
    """Memory that may be used, with regard to other programs and to a container's limit; None where nothing tells."""
    known = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        known.append(int(available) << 10)
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        known.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    return int(PART_OF_FREE_MEMORY * min(known)) if known else None
