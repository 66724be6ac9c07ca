"""Which proposals can be compared between torch and a graph, and boundary pooling in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from tallformer_export.graphs import LocalizerGraph, _to_onnx
from tallformer_export.parity import candidates_of, sure_proposals
from tallformer_infer.bundle.checks import refusal
from tallformer_training.model import Detector
from tallformer_training.model.refined_head import boundary_max_pool
from tests import anet_golden as g
from tests.small_detector import build
from tests.whole_video_set import WHOLE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_proposals_are_sure_where_the_official_rounding_margin_is_wide(golden: Path) -> None:
    stored = g.arrays(golden, "anet_tiny.npz")

    sure = sure_proposals(g.tiny_detector(golden), stored["feat"].astype(np.float32))

    margin = stored["round_margin"]
    assert not sure[margin < 9e-4].any()
    assert sure[margin > 6e-3].all()
    assert 0.9 < sure.mean() < 1


@pytest.fixture(scope="module")
def whole() -> Detector:
    return build(WHOLE).eval()


def test_candidates_of_a_graphs_proposals_are_those_that_it_gives(whole: Detector) -> None:
    graph = LocalizerGraph(whole).eval()
    graph.per_window = None
    features = torch.randn(2, 32, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = [value.numpy() for value in graph(features, torch.tensor([0, 64]), torch.tensor([256, 100]))]

    segments, scores, classes = candidates_of(whole, outputs[3:])

    np.testing.assert_array_equal(segments, outputs[0])
    np.testing.assert_allclose(scores, outputs[1], rtol=1e-6)
    np.testing.assert_array_equal(classes, outputs[2])


class Pooling(nn.Module):
    """Boundary pooling alone."""

    def forward(self, features: Tensor, ranges: Tensor) -> Tensor:
        return boundary_max_pool(features, ranges)


def test_boundary_pooling_in_onnx_runtime_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 48, generator=generator).relu()
    ranges = torch.randint(-5, 53, (2, 30, 4), generator=generator)
    model = _to_onnx(Pooling().eval(), {"features": features, "ranges": ranges}, ["pooled"], batch="windows")
    content = model.SerializeToString()
    assert refusal(content, "localizer") is None  # ScatterND, loops and sizes that depend on data are not allowed
    session = ort.InferenceSession(content)

    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        features = torch.randn(1 + seed % 3, 6, 48, generator=draw).relu()
        ranges = torch.randint(-5, 53, (1 + seed % 3, 30, 4), generator=draw)
        (found,) = session.run(None, {"features": features.numpy(), "ranges": ranges.numpy()})

        np.testing.assert_array_equal(found, boundary_max_pool(features, ranges))
