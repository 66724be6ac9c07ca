"""Evaluation of predictions against truth: NumPy only, every benchmark's own rules."""

from tallformer_infer.evaluation.annotations import (
    ClassScores,
    Predictions,
    Truth,
    VideoReport,
    align,
    read_class_scores,
    read_origin,
    read_predictions,
    read_truth,
    require_common_videos,
)
from tallformer_infer.evaluation.calibration import ENOUGH_TRUTHS, CalibrationReport, calibrate, listed, points_for
from tallformer_infer.evaluation.matching import (
    SAME_TIOU,
    Pair,
    by_falling_score,
    match_greedily,
    overlapping_pairs,
    pair_up,
    rank,
)
from tallformer_infer.evaluation.plot import check_plot, save_plot
from tallformer_infer.evaluation.protocols import Protocol, ProtocolName, protocol_named
from tallformer_infer.evaluation.scoring import (
    ClassScore,
    Curve,
    ErrorKinds,
    Evaluation,
    OperatingPoint,
    curve,
    evaluate,
    evaluation_document,
)

__all__ = [
    "ENOUGH_TRUTHS",
    "SAME_TIOU",
    "CalibrationReport",
    "ClassScore",
    "ClassScores",
    "Curve",
    "ErrorKinds",
    "Evaluation",
    "OperatingPoint",
    "Pair",
    "Predictions",
    "Protocol",
    "ProtocolName",
    "Truth",
    "VideoReport",
    "align",
    "by_falling_score",
    "calibrate",
    "check_plot",
    "curve",
    "evaluate",
    "evaluation_document",
    "listed",
    "match_greedily",
    "overlapping_pairs",
    "pair_up",
    "points_for",
    "protocol_named",
    "rank",
    "read_class_scores",
    "read_origin",
    "read_predictions",
    "read_truth",
    "require_common_videos",
    "save_plot",
]
