"""The long memory: features of every clip of every training video, used for clips that are not encoded.

    builder   encode a data set once  ->  an immutable memory
    bank      read rows with their age; join encoded and remembered clips to the features of a window
    run       the copy that one training run writes to, from several processes, and its snapshots
    sampling  choose the clips of a window to encode

Source: TALLFormer (arXiv 2204.01680), section 3.3.
"""

from tallformer_training.memory.bank import Manifest, Memory, Rows, Staleness, encoder_fingerprint, staleness
from tallformer_training.memory.builder import MemoryBuilder
from tallformer_training.memory.run import RunMemory
from tallformer_training.memory.sampling import ClipSampler, Sampling, encoded_count

__all__ = [
    "ClipSampler",
    "Manifest",
    "Memory",
    "MemoryBuilder",
    "Rows",
    "RunMemory",
    "Sampling",
    "Staleness",
    "encoded_count",
    "encoder_fingerprint",
    "staleness",
]
