"""Messages between the driver and its workers, all of which can be pickled, and what a run reports to a watcher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tallformer_infer.archive.database import FailureKind
from tallformer_infer.devices import Device, Hwaccel, RunPrecision
from tallformer_infer.media import ALLOWED_PROTOCOLS
from tallformer_infer.results import Selection
from tallformer_infer.structures import Layout, Result


@dataclass(frozen=True)
class ServerAddress:
    """Address of a process that owns a device."""

    address: Any
    """Path or name, depending on the system."""
    key: bytes
    """Key for the connection."""


@dataclass(frozen=True)
class ScoreFile:
    """A file of class scores per video; those of a video come with its task."""

    source: str
    """File name, for display."""
    sha256: str
    """Hash of its content."""


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Settings for labelling; the same for all videos of a run."""

    model: str
    """Path of the bundle."""
    bundle_sha256: str
    """Hash of its description: the bundle must not change during a run."""
    device: Device
    """Device of the model."""
    precision: RunPrecision | None = None
    """Encoder precision on all machines of a run, since features are shared; None: chosen by the runtime."""
    threads: int | None
    """Threads of the model, and of the codec; None: one per core."""
    hwaccel: Hwaccel = "none"
    """Video decoder; like the device, it does not affect hashes."""
    layout: Layout
    """Layout of windows."""
    selection: Selection
    """Which actions are kept."""
    static_tolerance: float
    """A clip that differs by less from the one before reuses its features; 0: only if equal."""
    store: Path | None
    """Folder for features and candidates; None: store none."""
    longest_factor: float
    """A video longer than this many times the duration in its header fails."""
    scores: ScoreFile | None = None
    """Class scores per video; None: the model's own."""
    protocols: frozenset[str] = ALLOWED_PROTOCOLS
    """Allowed URL protocols."""
    public_hosts: frozenset[str] = frozenset()
    """Hosts named by lists at URLs: they must have public addresses."""
    servers: tuple[ServerAddress, ...] = ()
    """Processes that own a device, distributed among the workers; empty: each worker loads the model."""


@dataclass(frozen=True)
class IdentifyTask:
    """Task: identify a source."""

    video_id: int
    """Row number of the video."""
    source: str
    """Absolute path or URL."""
    is_guess: bool
    """Whether to probe if it is a video, as it has no known suffix."""


@dataclass(frozen=True)
class LabelTask:
    """Task: find the actions of a video."""

    video_id: int
    """Row number of the video."""
    source: str
    """Absolute path or URL."""
    content: str
    """Content, as identified."""
    class_scores: Mapping[str, float] | None = None
    """Class scores of the video by class name, if `LabelSettings.scores` is set."""


Task = IdentifyTask | LabelTask


@dataclass(frozen=True)
class Alive:
    """Heartbeat of a task in progress."""

    position_s: float = 0.0
    """Position in the video, in seconds."""
    duration_s: float | None = None
    """Length in the header, in seconds."""
    what: str = ""
    """Step before the first clip: `loading`, `reading`."""


@dataclass(frozen=True)
class Identified:
    """Outcome: a source is identified."""

    content: str
    """`sha256:…` of a file, `address:…` of a URL."""
    size_bytes: int | None
    """File size."""
    mtime_ns: int | None
    """Modification time in nanoseconds; None for a URL."""


@dataclass(frozen=True)
class NotAVideo:
    """Outcome: a file is not a video."""

    reason: str
    """Reason, in one line."""
    seen: Identified
    """Size, time and content of the file."""


@dataclass(frozen=True)
class Finished:
    """Outcome: a video is done."""

    result: Result
    """Actions and provenance."""
    remarks: tuple[str, ...]
    """Remarks, one line each."""
    clips_encoded: int
    """Clips encoded in this attempt."""


@dataclass(frozen=True)
class Failed:
    """Outcome: an attempt failed."""

    kind: FailureKind
    """Kind of failure."""
    error: str
    """Reason, in one line."""


@dataclass(frozen=True)
class Lost:
    """Outcome: the machine of a worker is lost; nothing is known about the video."""

    reason: str
    """Reason, in one line."""


@dataclass(frozen=True)
class Broken:
    """Outcome: no task can be done, since the model or its device does not work."""

    error: str
    """Reason, in one line."""


Outcome = Identified | NotAVideo | Finished | Failed | Lost | Broken
Event = Alive | Outcome
OnAlive = Callable[[Alive], None]


@dataclass
class Totals:
    """Progress of a run."""

    planned: int = 0
    """Videos that were not done at the start."""
    planned_bytes: float = 0.0
    """Total size of those whose size is known."""
    done: int = 0
    """Videos done."""
    done_bytes: float = 0.0
    """Total size of those done or failed."""
    failed: int = 0
    """Videos that failed after all attempts."""
    retried: int = 0
    """Failed attempts that were repeated."""
    ignored: int = 0
    """Files that are not videos."""
    copied: int = 0
    """Videos done that have the content of another."""
    incomplete: int = 0
    """Videos done that are short or damaged."""
    actions: int = 0
    """Actions found."""
    video_s: float = 0.0
    """Total length of the videos done, in seconds."""
    wall_s: float = 0.0
    """Time since the start, in seconds."""
    clips_encoded: int = 0
    """Clips encoded."""


class Watcher(Protocol):
    """Receives the events of a run, in order and in one thread."""

    def started(self, slot: int, path: str, place: str) -> None:
        """A worker starts a video."""

    def alive(self, slot: int, path: str, alive: Alive, totals: Totals) -> None:
        """Progress of a worker."""

    def done(self, path: str, result: Result, remarks: tuple[str, ...], totals: Totals) -> None:
        """A video is done."""

    def failed(self, path: str, kind: FailureKind, error: str, *, again: bool) -> None:
        """An attempt failed; `again`: it will be repeated."""

    def freed(self, slot: int) -> None:
        """A worker is idle."""
