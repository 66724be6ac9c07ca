"""The detector in torch, one file per part, named after the parts of the paper.

Source: TALLFormer (arXiv 2204.01680); every number is that of its official code, commit 5519140, Apache-2.0.
"""

from tallformer_training.model.contrast_head import ContrastOutputs
from tallformer_training.model.detector import Detector, Outputs
from tallformer_training.model.head import HeadOutputs, Segments
from tallformer_training.model.point_head import PointOutputs
from tallformer_training.model.refined_head import Proposals, RefinedOutputs

__all__ = [
    "ContrastOutputs",
    "Detector",
    "HeadOutputs",
    "Outputs",
    "PointOutputs",
    "Proposals",
    "RefinedOutputs",
    "Segments",
]
