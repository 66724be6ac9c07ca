"""The long memory: features of every clip of every training video, read where a clip is not encoded.

    builder   encode a data set once  ->  an immutable memory
    bank      read rows of it, with their age; encoded and remembered clips -> the features of a window
    run       the copy that one training run writes to, from several processes, and snapshots of it
    sampling  which clips of a window are encoded, which are read

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
