"""Other people's checkpoints: detectors of TALLFormer and OpenTAD, Video Swin backbones from four projects, and I3D."""

from tallformer_training.importing.matching import import_checkpoint, match_checkpoint
from tallformer_training.importing.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint", "match_checkpoint"]
