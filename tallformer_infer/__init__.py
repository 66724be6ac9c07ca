"""What happens when in long video: `Detector.load().detect("video.mp4")`.

Nothing heavy is imported before it is used. The import has one effect, see Note [usage data of libraries] in `privacy`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tallformer_infer.privacy import send_nothing

if TYPE_CHECKING:
    from tallformer_infer.bundle import Bundle
    from tallformer_infer.errors import TallformerError
    from tallformer_infer.pipeline import Detector, Progress
    from tallformer_infer.structures import Action, Result

__version__ = "0.1.0"

send_nothing()

__all__ = ["Action", "Bundle", "Detector", "Progress", "Result", "TallformerError", "__version__"]

_HOMES = {
    "Action": "tallformer_infer.structures",
    "Bundle": "tallformer_infer.bundle",
    "Detector": "tallformer_infer.pipeline",
    "Progress": "tallformer_infer.pipeline",
    "Result": "tallformer_infer.structures",
    "TallformerError": "tallformer_infer.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tallformer_infer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
