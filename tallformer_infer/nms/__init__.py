"""Suppression of overlapping candidates, in NumPy: hard, weighted (NMW) and soft.

Candidates are pairs of a segment and a class, one row each. Overlap is measured in frames, classes never mix, and of
equal scores the earlier row goes first.
"""

from tallformer_infer.nms.dispatch import suppress
from tallformer_infer.nms.greedy import nms, nmw
from tallformer_infer.nms.pairs import pairs_above
from tallformer_infer.nms.proposals import proposals_with_classes, reference_actions, without_class
from tallformer_infer.nms.soft import soft_nms, soft_nms_activitynet

__all__ = [
    "nms",
    "nmw",
    "pairs_above",
    "proposals_with_classes",
    "reference_actions",
    "soft_nms",
    "soft_nms_activitynet",
    "suppress",
    "without_class",
]
