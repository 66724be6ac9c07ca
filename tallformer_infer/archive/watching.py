"""What a run tells while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tallformer_infer.archive.planning import Plan
from tallformer_infer.archive.rows import FailureKind
from tallformer_infer.archive.tasks import Alive
from tallformer_infer.structures import Result


@dataclass
class Totals:
    """How far a run is."""

    planned: int = 0
    """Videos that were not done when it began."""
    planned_bytes: float = 0.0
    """Size of those whose size is known."""
    done: int = 0
    """Videos that are done now."""
    done_bytes: float = 0.0
    """Size of those that are done or failed now."""
    failed: int = 0
    """Videos that failed for good."""
    retried: int = 0
    """Attempts that failed and were not the last."""
    ignored: int = 0
    """Files that turned out not to be videos."""
    copied: int = 0
    """Of those done, the ones with the content of another."""
    incomplete: int = 0
    """Of those done, the ones that are short or damaged."""
    actions: int = 0
    """Actions found."""
    video_s: float = 0.0
    """Length of the videos that are done, in seconds."""
    wall_s: float = 0.0
    """Time since the run began, in seconds."""
    clips_encoded: int = 0
    """Clips that went through the encoder."""


class Watcher(Protocol):
    """Told what happens, in the order in which it happens, in one thread."""

    def planned(self, plan: Plan, totals: Totals, *, workers: int | None) -> None:
        """It is known what is to be done; None workers: as many as a cluster has room for."""

    def started(self, slot: int, path: str, place: str) -> None:
        """A worker begins a video."""

    def alive(self, slot: int, path: str, alive: Alive, totals: Totals) -> None:
        """A worker is so far."""

    def done(self, path: str, result: Result, remarks: tuple[str, ...], totals: Totals) -> None:
        """A video is done."""

    def failed(self, path: str, kind: FailureKind, error: str, *, again: bool) -> None:
        """An attempt failed; `again` says that there will be another."""

    def freed(self, slot: int) -> None:
        """A worker has nothing to do."""
