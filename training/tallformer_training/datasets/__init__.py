"""The user's videos and annotations, checked before anything is trained, and read clip by clip.

labelled     both together, checked: what training works with
frames       clips of frames, from a cache on the disk or decoded each time
truth        the segments that a window learns from
suggestion   a recipe that fits the lengths of annotated segments
"""

from tallformer_training.datasets.frame_cache import FrameCache
from tallformer_training.datasets.frames import DecodedFrames, FrameSource
from tallformer_training.datasets.labelled import DatasetRequest, TrainingVideo, VideoSet, read_video_set
from tallformer_training.datasets.truth import WindowTruth, crop_truth

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
