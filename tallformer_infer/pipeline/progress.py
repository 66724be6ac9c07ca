"""How far a video is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a video is."""

    position_s: float
    """Video time that is done, from the first frame, in seconds."""
    duration_s: float | None
    """Length of the video as its header says, in seconds; None where it does not."""
    speed: float
    """Seconds of video per second of wall time, since the start."""


OnProgress = Callable[[Progress], None]
