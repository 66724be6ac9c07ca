"""The small detector as the official code would have saved it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tallformer_training.importing.naming import official_names
from tallformer_training.model.pyramid import sinusoids
from tests.small_detector import SMALL, build


def official() -> dict[str, Tensor]:
    """Its state dict by the official names, derived buffers included."""
    detector = build()
    state = detector.state_dict()
    names = official_names(SMALL.model, {**state, **dict(detector.named_buffers(remove_duplicate=False))})
    file = {names[name]: tensor for name, tensor in state.items()}
    for name, buffer in detector.named_buffers(remove_duplicate=False):
        if name.endswith("relative_position_index"):
            file[names[name]] = buffer
    for stage in range(2):
        for block in range(2):
            file[f"backbone.layers.{stage}.blocks.{block}.dummy_tensor"] = torch.ones(1)
    file["neck.2.pe.pe"] = sinusoids(5000, 32)[:, None]
    return file


def saved(tmp_path: Path, value: object, name: str = "official.pth") -> Path:
    """A file with that value in it."""
    torch.save(value, tmp_path / name)
    return tmp_path / name


def edited(**changes: Tensor | None) -> dict[str, Tensor]:
    """The official file with entries replaced, or taken out where None. Dots are written as `__`."""
    state = official()
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state
