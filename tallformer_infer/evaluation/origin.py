"""What predictions say about how they were made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.files import read_json_object


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Of predictions that `tallformer detect` wrote, in either dialect."""

    bundle_sha256: str
    """Hash of the `bundle.json` of the model."""
    operating_point: str | None
    """Point that decided which actions were kept; None where scores are the model's own."""
    filters: tuple[str, ...]
    """Options that left actions out: `--threshold`, `--top-k`, `--classes`."""


def origin_of(document: dict[str, Any]) -> Origin | None:
    """How the predictions of a document were made; None where it does not say."""
    run = document.get("external_data", document)
    settings = run.get("settings") if isinstance(run, dict) else None
    if not isinstance(settings, dict) or not isinstance(run.get("bundle_sha256"), str):
        return None
    filters = [
        f"--{key.replace('_', '-')}" for key in ("threshold", "top_k", "classes") if settings.get(key) is not None
    ]
    point = settings.get("operating_point")
    return Origin(
        bundle_sha256=run["bundle_sha256"],
        operating_point=point if isinstance(point, str) else None,
        filters=tuple(filters),
    )


def read_origin(path: Path) -> Origin | None:
    """How the predictions of a file were made; None where it does not say, or is no JSON object."""
    try:
        return origin_of(read_json_object(path))
    except AnnotationError:
        return None
