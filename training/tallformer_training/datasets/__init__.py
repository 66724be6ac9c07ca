"""The user's videos and annotations, checked before anything is trained, and read clip by clip.

labelled     both together, checked, and the segments that a window learns from
frames       clips of frames, from a cache on disk or decoded each time
suggestion   a recipe that fits the lengths of annotated segments
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
