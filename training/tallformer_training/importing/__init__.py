"""Import third-party checkpoints: TALLFormer and OpenTAD detectors, Video Swin backbones of four projects, and I3D."""

from tallformer_training.importing.matching import import_checkpoint, match_checkpoint
from tallformer_training.importing.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint", "match_checkpoint"]
