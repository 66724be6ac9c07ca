"""The model in torch, its memory, training, and the import of third-party checkpoints."""

import tallformer_infer  # noqa: F401 (disables the telemetry of libraries imported later)
