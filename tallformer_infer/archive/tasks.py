"""What the driver and its workers say to each other. Everything here can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.archive.database import FailureKind
from tallformer_infer.devices import Device, RunPrecision
from tallformer_infer.media import ALLOWED_PROTOCOLS
from tallformer_infer.results import Selection
from tallformer_infer.structures import Layout, Result


@dataclass(frozen=True)
class ServerAddress:
    """Where a process listens that owns a device."""

    address: Any
    """A path or name, of the kind the system has."""
    key: bytes
    """What one must know to be heard."""


@dataclass(frozen=True)
class ScoreFile:
    """A file that says what whole videos show; what it says of a video comes with its task."""

    source: str
    """Its name, for people."""
    sha256: str
    """Hash of all that it says."""


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How videos are labelled; the same for all of a run."""

    model: str
    """Bundle, as a path."""
    bundle_sha256: str
    """Hash of its description, so that nobody changes it during a run."""
    device: Device
    """Where the model runs."""
    precision: RunPrecision | None = None
    """Of the encoder, on all machines of a run, as features are shared; None leaves it to the runtime."""
    threads: int | None
    """Threads of the model and of the codec, each; None takes one per core."""
    layout: Layout
    """How videos are laid out for the localizer."""
    selection: Selection
    """Which actions are kept."""
    static_tolerance: float
    """Clips that differ by less share features; 0: equal ones only."""
    store: Path | None
    """Folder for features and candidates; None keeps none."""
    longest_factor: float
    """A video that goes on for so many times the length that its header says is given up."""
    scores: ScoreFile | None = None
    """Classes are taken from there; None: the model gives them."""
    protocols: frozenset[str] = ALLOWED_PROTOCOLS
    """Of addresses that may be read."""
    public_hosts: frozenset[str] = frozenset()
    """Hosts that lists at addresses name: they must have public addresses."""
    servers: tuple[ServerAddress, ...] = ()
    """Processes that own a device, to be shared out among the workers; none: each has the model itself."""


@dataclass(frozen=True)
class IdentifyTask:
    """Find out what a source holds."""

    video_id: int
    """Row of the video."""
    source: str
    """Absolute path or address."""
    is_guess: bool
    """Nothing says that it is a video: look."""


@dataclass(frozen=True)
class LabelTask:
    """Find the actions of a video."""

    video_id: int
    """Row of the video."""
    source: str
    """Absolute path or address."""
    content: str
    """What it holds, as identified."""
    class_scores: Mapping[str, float] | None = None
    """What the whole video shows, by name, where `LabelSettings.scores` says so."""


Task = IdentifyTask | LabelTask


@dataclass(frozen=True)
class Alive:
    """The task goes on."""

    position_s: float = 0.0
    """Video time that is done, in seconds."""
    duration_s: float | None = None
    """Length as the header says, in seconds."""
    what: str = ""
    """Where it is, before the first clip: `loading`, `reading`."""


@dataclass(frozen=True)
class Identified:
    """What a source holds."""

    content: str
    """`sha256:…` of a file, `address:…` of an address."""
    size_bytes: int | None
    """Its size."""
    mtime_ns: int | None
    """Its time of change, in nanoseconds; None of an address."""


@dataclass(frozen=True)
class NotAVideo:
    """A guess was wrong."""

    reason: str
    """One line."""
    seen: Identified
    """What it is instead."""


@dataclass(frozen=True)
class Finished:
    """A video is done."""

    result: Result
    """Its actions, and how they were found."""
    remarks: tuple[str, ...]
    """What else there is to know, one line each."""
    clips_encoded: int
    """Clips that went through the encoder in this attempt."""


@dataclass(frozen=True)
class Failed:
    """An attempt failed."""

    kind: FailureKind
    """What kind of failure."""
    error: str
    """One line."""


@dataclass(frozen=True)
class Lost:
    """The machine of a worker went away, with no word on the video."""

    reason: str
    """One line."""


@dataclass(frozen=True)
class Broken:
    """No task can be done: the model or its device does not work."""

    error: str
    """One line."""


Outcome = Identified | NotAVideo | Finished | Failed | Lost | Broken
Event = Alive | Outcome
OnAlive = Callable[[Alive], None]
