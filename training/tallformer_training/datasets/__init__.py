"""The user's videos and annotations, checked before training starts, and read clip by clip.

labelled     videos with annotations, checked, and the segments of a window
frames       clips of frames, from a cache on disk or decoded on demand
suggestion   a recipe for the lengths of annotated segments
"""

from tallformer_training.datasets.frames import DecodedFrames, FrameCache, FrameSource
from tallformer_training.datasets.labelled import (
    DatasetRequest,
    TrainingVideo,
    VideoSet,
    WindowTruth,
    crop_truth,
    read_video_set,
)

__all__ = [
    "DatasetRequest",
    "DecodedFrames",
    "FrameCache",
    "FrameSource",
    "TrainingVideo",
    "VideoSet",
    "WindowTruth",
    "crop_truth",
    "read_video_set",
]
