"""Suppression of overlapping candidates, in NumPy: hard, weighted (NMW) and soft.

Candidates are pairs of a segment and a class, one row each. Overlap is measured in frames, classes never mix, and of
equal scores the earlier row goes first.
"""

from tallformer_infer.nms.greedy import nms, nmw, pairs_above, tiou
from tallformer_infer.nms.soft import soft_nms, soft_nms_activitynet
from tallformer_infer.nms.video import proposals_with_classes, reference_actions, suppress, without_class

__all__ = [
    "nms",
    "nmw",
    "pairs_above",
    "proposals_with_classes",
    "reference_actions",
    "soft_nms",
    "soft_nms_activitynet",
    "suppress",
    "tiou",
    "without_class",
]
