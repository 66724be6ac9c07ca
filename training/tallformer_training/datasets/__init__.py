"""The user's videos and annotations, checked before anything is trained, and read clip by clip.

annotations  files of annotated segments, as they stand there
files        which file on the disk belongs to which video
labelled     both together, checked: what training works with
frames       clips of frames, from a cache on the disk or decoded each time
truth        the segments that a window learns from
suggestion   a recipe that fits the lengths of annotated segments
"""

from tallformer_training.datasets.annotations import AnnotatedSegment, AnnotatedVideo, Annotations, read_annotations
from tallformer_training.datasets.findings import Findings
from tallformer_training.datasets.frame_cache import FrameCache
from tallformer_training.datasets.frames import DecodedFrames, FrameSource
from tallformer_training.datasets.labelled import DatasetRequest, LabelledVideo, VideoSet, read_video_set
from tallformer_training.datasets.truth import WindowTruth, crop_truth

__all__ = [
    "AnnotatedSegment",
    "AnnotatedVideo",
    "Annotations",
    "DatasetRequest",
    "DecodedFrames",
    "Findings",
    "FrameCache",
    "FrameSource",
    "LabelledVideo",
    "VideoSet",
    "WindowTruth",
    "crop_truth",
    "read_annotations",
    "read_video_set",
]
