"""At which rate the frames of a video are taken."""

from __future__ import annotations

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media.graph import exact_rate

SLOWEST_FPS = 0.01
"""Of all recipes; a whole video of 768 frames may have 21 hours."""


def video_rate(sampling: SamplingConfig, path: str, *, source_fps: float | None, covered_s: float | None) -> float:
    """Frames per second that are taken of a video.

    Args:
        sampling: With `most_frames`, the video's own rate is kept, or lowered so far that `covered_s` have no more.
        path: For messages.
        source_fps: The video's own rate, where it is known.
        covered_s: Seconds for which `most_frames` are taken: the length of the video, or of a window; None where it is
            not known.

    Raises:
        MediaError: The whole video must have `most_frames`, and its length is not known or too great.
    """
    if sampling.most_frames is None:
        return sampling.sample_fps
    own_fps = source_fps or sampling.sample_fps
    if covered_s is None:
        raise MediaError(
            f"{path}: does not tell how long it is, as this model must know, which sees whole videos; "
            "give it windows of some seconds (--windows 60), or put the video into another file"
        )
    if own_fps * covered_s < sampling.most_frames + 0.5:
        return float(exact_rate(own_fps))
    rate_fps = float(exact_rate(sampling.most_frames / covered_s))
    if rate_fps < SLOWEST_FPS:
        raise MediaError(
            f"{path}: {covered_s:.0f} s are too long for {sampling.most_frames} frames; "
            "give it windows of some seconds (--windows 600)"
        )
    return rate_fps
