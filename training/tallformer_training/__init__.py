"""The model in torch, its memory, training, and the import of other people's checkpoints."""
