"""Evaluation of predictions against truth: NumPy only, every benchmark's own rules."""

from tallformer_infer.evaluation.alignment import VideoReport, require_common_videos
from tallformer_infer.evaluation.annotations import Predictions, Truth, read_predictions, read_truth
from tallformer_infer.evaluation.calibration import CalibrationReport, calibrate
from tallformer_infer.evaluation.class_scores import ClassScores, read_class_scores
from tallformer_infer.evaluation.error_kinds import ErrorKinds
from tallformer_infer.evaluation.operating_point import OperatingPoint
from tallformer_infer.evaluation.protocols import Protocol, ProtocolName, protocol_named
from tallformer_infer.evaluation.scoring import ClassScore, Curve, Evaluation, evaluate

__all__ = [
    "CalibrationReport",
    "ClassScore",
    "ClassScores",
    "Curve",
    "ErrorKinds",
    "Evaluation",
    "OperatingPoint",
    "Predictions",
    "Protocol",
    "ProtocolName",
    "Truth",
    "VideoReport",
    "calibrate",
    "evaluate",
    "protocol_named",
    "read_class_scores",
    "read_predictions",
    "read_truth",
    "require_common_videos",
]
