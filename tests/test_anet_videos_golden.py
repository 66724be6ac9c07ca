"""The three fake ActivityNet videos give what the official test script wrote for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tallformer_infer.config import SuppressConfig, preset
from tallformer_infer.evaluation import read_class_scores
from tallformer_infer.nms import reference_actions, without_class
from tallformer_infer.structures import Proposals
from tallformer_training.augmentation import normalise
from tallformer_training.model import Detector, RefinedOutputs
from tests import anet_golden as g

pytestmark = pytest.mark.usefixtures("one_thread")

VIDEOS = ("v_full", "v_short", "v_long")
CLASSIFIERS = ("builtin", "cuhk", "gt")
SUPPRESS: SuppressConfig = preset("anet-swin-b").suppress


@pytest.fixture(scope="module")
def detector(golden: Path) -> Detector:
    return g.tiny_detector(golden)


@pytest.fixture(scope="module", params=VIDEOS)
def video(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def stored(golden: Path, video: str) -> dict[str, NDArray[Any]]:
    return g.arrays(golden, "anet_tiny_videos.npz", f"{video}/")


@pytest.fixture(scope="module")
def features(detector: Detector, stored: dict[str, NDArray[Any]]) -> torch.Tensor:
    sampling = detector.recipe.sampling
    pixels = g.middle_crop(stored["frames_rgb"])[:768]
    clips = torch.zeros(1, 3, 768, 32, 32)  # black before normalisation
    clips[0, :, : len(pixels)] = torch.from_numpy(pixels).permute(3, 0, 1, 2).float()
    with torch.no_grad():
        return detector.encode_halves(normalise(clips, torch.tensor([768]), sampling))


@pytest.fixture(scope="module")
def outputs(detector: Detector, features: torch.Tensor) -> RefinedOutputs:
    with torch.no_grad():
        found = detector.localize(features)
    assert isinstance(found, RefinedOutputs)
    return found


@pytest.fixture(scope="module")
def proposals(detector: Detector, outputs: RefinedOutputs) -> Proposals:
    found = detector.propose(outputs, torch.tensor([0]), torch.tensor([768]))
    return Proposals(*(part[0].numpy() for part in found))


def test_a_whole_video_gives_the_official_features_and_outputs(
    features: torch.Tensor, outputs: RefinedOutputs, stored: dict[str, NDArray[Any]]
) -> None:
    np.testing.assert_allclose(features, stored["backbone_feat"], **g.FEATURES)
    np.testing.assert_allclose(outputs.distances_frames, stored["loc"], **g.DISTANCES)
    np.testing.assert_allclose(outputs.logits, stored["conf"], **g.LOGITS)
    np.testing.assert_allclose(outputs.offsets, stored["prop_loc"], **g.LOGITS)
    np.testing.assert_allclose(outputs.refined_logits, stored["prop_conf"], **g.LOGITS)
    np.testing.assert_allclose(outputs.quality_logits, stored["center"][..., 0], **g.LOGITS)
    np.testing.assert_allclose(outputs.class_logits, stored["action_logits"], **g.LOGITS)


def test_proposals_are_those_that_the_official_suppression_got(golden: Path, video: str, proposals: Proposals) -> None:
    info = g.official_config(golden)["video_info"][video]
    official = g.arrays(golden, "anet_softnms.npz", f"{video}/")["softnms_in"]

    np.testing.assert_allclose(proposals.segments_frames / info["fps"], official[:, :2], atol=1e-3)
    np.testing.assert_allclose(proposals.scores, official[:, 2], atol=2e-5)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_detections_are_the_official_ones(
    golden: Path, tmp_path: Path, video: str, proposals: Proposals, classifier: str
) -> None:
    config = g.official_config(golden)
    info, names = config["video_info"][video], config["action_names"]
    scores = proposals.class_scores
    if classifier != "builtin":
        file = g.class_score_file(golden, tmp_path, classifier)
        given = read_class_scores(file).of(video)
        scores = np.array([-np.inf, *(given.get(name, 0.0) for name in names)], np.float32)

    found = reference_actions(without_class(proposals), scores, SUPPRESS, most_classes=2)

    seconds = np.clip(found.segments_frames / info["fps"], 0, info["duration"])
    rows = [
        (names[kind], *segment, score)
        for kind, segment, score in zip(found.classes, seconds.tolist(), found.scores.tolist(), strict=True)
        if segment[1] > segment[0]
    ]
    official = json.loads((golden / "anet_tiny_detections.json").read_text())[classifier]["results"]
    g.assert_same_actions(rows, official[video.removeprefix("v_")])
