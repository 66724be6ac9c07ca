"""The detection pipeline: from a video to actions."""

from __future__ import annotations

from tallformer_infer.pipeline.candidates import check_takes_scores, scores_by_class
from tallformer_infer.pipeline.choices import at_point, choose_layout, choose_point, choose_selection, choose_windows
from tallformer_infer.pipeline.detector import Detector, StreamStep, VideoFeatures
from tallformer_infer.pipeline.encoding import ClipEncoder, EncodedClip, OtherVideoError
from tallformer_infer.pipeline.video_run import (
    NO_TIME,
    Choices,
    OnProgress,
    Progress,
    VideoCandidates,
    VideoFacts,
    VideoRun,
    conclude,
    find_actions,
)

__all__ = [
    "NO_TIME",
    "Choices",
    "ClipEncoder",
    "Detector",
    "EncodedClip",
    "OnProgress",
    "OtherVideoError",
    "Progress",
    "StreamStep",
    "VideoCandidates",
    "VideoFacts",
    "VideoFeatures",
    "VideoRun",
    "at_point",
    "check_takes_scores",
    "choose_layout",
    "choose_point",
    "choose_selection",
    "choose_windows",
    "conclude",
    "find_actions",
    "scores_by_class",
]
