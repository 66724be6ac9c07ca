"""Frozen, typed settings, validated at birth. JSON only at the edge (`reading`)."""

from tallformer_infer.config.calibration import (
    ALL_ACTIONS,
    CALIBRATION_VERSION,
    NAMED_CLASSES,
    RAW_SCORES,
    CalibratedClass,
    Calibration,
    Cut,
    PointSummary,
    ScoreCurve,
)
from tallformer_infer.config.encoder import AnyEncoderConfig, BackboneConfig, I3dConfig
from tallformer_infer.config.model import (
    AnyHeadConfig,
    ContrastHeadConfig,
    HeadConfig,
    ModelConfig,
    PointHeadConfig,
    PyramidConfig,
    RefinedHeadConfig,
    TcmConfig,
)
from tallformer_infer.config.parity import (
    PARITY_VERSION,
    Difference,
    MatchedActions,
    ParityReport,
    ParitySample,
)
from tallformer_infer.config.presets import RECIPES, preset
from tallformer_infer.config.reading import from_json, read_recipe, recipe_from_json, to_json
from tallformer_infer.config.recipe import (
    CandidateConfig,
    Recipe,
    SamplingConfig,
    SuppressConfig,
    WindowConfig,
)

__all__ = [
    "ALL_ACTIONS",
    "CALIBRATION_VERSION",
    "NAMED_CLASSES",
    "PARITY_VERSION",
    "RAW_SCORES",
    "RECIPES",
    "AnyEncoderConfig",
    "AnyHeadConfig",
    "BackboneConfig",
    "CalibratedClass",
    "Calibration",
    "CandidateConfig",
    "ContrastHeadConfig",
    "Cut",
    "Difference",
    "HeadConfig",
    "I3dConfig",
    "MatchedActions",
    "ModelConfig",
    "ParityReport",
    "ParitySample",
    "PointHeadConfig",
    "PointSummary",
    "PyramidConfig",
    "Recipe",
    "RefinedHeadConfig",
    "SamplingConfig",
    "ScoreCurve",
    "SuppressConfig",
    "TcmConfig",
    "WindowConfig",
    "from_json",
    "preset",
    "read_recipe",
    "recipe_from_json",
    "to_json",
]
