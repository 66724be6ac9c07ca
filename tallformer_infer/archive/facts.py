"""What is known of a video besides its features and candidates, and is stored with both."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tallformer_infer.config import from_json, to_json
from tallformer_infer.structures import VideoInfo


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What reading a video from end to end told."""

    video: VideoInfo
    """The file."""
    sample_fps: float
    """Rate at which frames were taken, in frames per second."""
    frame_count: int
    """Frames taken."""
    decode_errors: int
    """Places that are damaged or left out."""
    missing_s: float
    """What the header promises and the file does not hold at its end, in seconds."""
    notes: tuple[str, ...] = ()
    """What else there is to know of it, one line each."""
    runtime: str
    """Name and version of what ran the encoder."""
    device: str
    """`cpu` or `cuda`; of Intel `gpu` or `npu`."""
    precision: str | None = None
    """What the encoder computed in; None: that of its graph."""
    clips: int
    """Clips that it was cut into."""
    clips_reused: int
    """Of these, those that share the features of the clip before."""

    def encoded(self) -> bytes:
        """As JSON."""
        return json.dumps(to_json(self)).encode()

    @staticmethod
    def decoded(content: bytes) -> VideoFacts:
        """The inverse of `encoded`.

        Raises:
            ConfigError, ValueError: It is something else.
        """
        return from_json(VideoFacts, json.loads(content), where="facts")
