"""Untrimmed videos made from a seed, in which only motion over time tells the actions apart, with exact truth.

`planning` writes a `script` of what happens when (`timing`, `actions`), `render` turns it into frames (`looks`),
`dataset` writes them as h264 with their truth beside them.
Needs NumPy and PyAV only, no torch.
"""

from tallformer_training.synthetic.actions import CLASSES
from tallformer_training.synthetic.dataset import SetSpec, make_dataset, truth_of, write_video
from tallformer_training.synthetic.planning import write_script
from tallformer_training.synthetic.render import render_frames
from tallformer_training.synthetic.script import Script, VideoSpec

__all__ = [
    "CLASSES",
    "Script",
    "SetSpec",
    "VideoSpec",
    "make_dataset",
    "render_frames",
    "truth_of",
    "write_script",
    "write_video",
]
