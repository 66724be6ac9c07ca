"""Generate untrimmed videos with exact ground truth from a seed; their actions differ only by motion over time.

`planning` writes a `script` of `actions`, `render` draws its frames with `looks`, `dataset` writes them as h264 with
their ground truth. Needs only NumPy and PyAV, not torch.
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
