"""The model in torch, its memory, training, and the import of other people's checkpoints."""

import tallformer_infer  # noqa: F401 (switches off the usage data of libraries that are imported later)
