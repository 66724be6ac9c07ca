"""The bundle: a model's graphs, recipe and provenance in one folder or .zip, with every file hash-checked."""

from __future__ import annotations

from tallformer_infer.bundle.reading import (
    DESCRIPTION,
    GRAPHS,
    SCHEMA_VERSION,
    SUPPRESS_SETTINGS,
    Bundle,
    BundleDescription,
    Footage,
    GraphInfo,
    GraphName,
    Precision,
    WeightStorage,
    bundled_models,
    load_bundle,
    read_member,
)

__all__ = [
    "DESCRIPTION",
    "GRAPHS",
    "SCHEMA_VERSION",
    "SUPPRESS_SETTINGS",
    "Bundle",
    "BundleDescription",
    "Footage",
    "GraphInfo",
    "GraphName",
    "Precision",
    "WeightStorage",
    "bundled_models",
    "load_bundle",
    "read_member",
]
