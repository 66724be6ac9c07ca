"""The model exports to ONNX as the runtimes need it: static sizes, a free batch, no odd operators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tallformer_infer.config import SamplingConfig
from tests.small_detector import SMALL, build, numbers

onnx = pytest.importorskip("onnx", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

UNWANTED = {"ScatterND", "If", "Loop", "Scan", "Einsum", "Resize", "NonZero"}


class Encode(nn.Module):
    """What graph 1 runs."""

    def __init__(self, **backbone: Any) -> None:
        super().__init__()
        # 24 px: maps of 6 x 6 and 3 x 3 in windows of 3 x 3, and 8 steps in windows of 4, so nothing is padded.
        model = replace(SMALL.model, backbone=replace(SMALL.model.backbone, **backbone))
        self.detector = build(replace(SMALL, model=model, sampling=SamplingConfig(resize="none", crop_px=24)))

    def forward(self, clips: Tensor) -> Tensor:
        return self.detector.encode(clips)


class Localize(nn.Module):
    """What graph 2 runs."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = build()

    def forward(self, features: Tensor, start: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.detector.decode(self.detector.localize(features), start, real))


def export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> set[str]:
    """Export with a free batch and return the kinds of nodes."""
    torch.onnx.export(
        module.eval(),
        inputs,
        path,
        dynamo=True,
        opset_version=20,
        dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in inputs),
        verbose=False,
    )
    graph = onnx.load(path).graph
    for value, tensor in zip(graph.input, inputs, strict=True):
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert sizes == [0, *tensor.shape[1:]], f"{value.name}: a size froze or came free"
    return {node.op_type for node in graph.node}


@pytest.mark.parametrize("backbone", [{}, {"stem": "motion", "pooling": "max"}])
def test_the_encoder_exports_without_padding_and_equals_torch(tmp_path: Path, backbone: dict[str, Any]) -> None:
    module = Encode(**backbone)

    kinds = export(module, (numbers(2, 3, 16, 24, 24),), tmp_path / "encoder.onnx")

    assert not kinds & UNWANTED
    assert "Pad" not in kinds
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        clips = numbers(batch, 3, 16, 24, 24, seed=batch)
        (result,) = session.run(None, {session.get_inputs()[0].name: clips.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(result, module(clips), rtol=1e-4, atol=1e-5)


def test_the_localizer_exports_and_equals_torch(tmp_path: Path) -> None:
    module = Localize()
    steps = SMALL.window_steps
    inputs = (numbers(2, 32, steps), torch.tensor([0, 40]), torch.tensor([64, 50]))

    kinds = export(module, inputs, tmp_path / "localizer.onnx")

    assert not kinds & UNWANTED
    session = onnxruntime.InferenceSession(tmp_path / "localizer.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for batch in (1, 3):
        values = (numbers(batch, 32, steps, seed=batch), torch.arange(batch) * 40, torch.arange(batch) + 50)
        segments, scores = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
        with torch.no_grad():
            expected_segments, expected_scores = module(*values)
        np.testing.assert_allclose(segments, expected_segments, rtol=0, atol=1e-3)
        np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-5)
