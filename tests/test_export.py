"""A checkpoint becomes a bundle that gives torch's numbers, or nothing is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tallformer_export.exporting import check_bundle_destination, export_checkpoint, export_random
from tallformer_export.graphs import EncoderGraph, LocalizerGraph, encoder_onnx, localizer_onnx
from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer.bundle import bundled_models, load_bundle
from tallformer_infer.config import CandidateConfig, SamplingConfig, SuppressConfig, preset
from tallformer_infer.errors import CheckpointError, OutputError
from tallformer_infer.pipeline import Detector as Pipeline
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.model import Detector

TINY, DEMO = preset("tiny"), preset("demo")
SMALLER = dataclasses.replace(
    TINY,
    name="smaller",
    sampling=SamplingConfig(resize_px=48, crop_px=48),
    candidates=CandidateConfig(per_window=50),
    suppress=SuppressConfig(method="soft_gaussian"),
)
"""48 px make maps of 12, 6, 3 and 2, so that odd sizes and shrunken windows are exported too."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(1)
    return Detector(SMALLER).eval()


@pytest.fixture(scope="module")
def graphs(detector: Detector) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return encoder_onnx(detector), localizer_onnx(detector)


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    provenance = {"trained": True, "source": "a test"}
    save_checkpoint(folder / "model.safetensors", detector.state_dict(), SMALLER, provenance=provenance)
    steps: list[str] = []
    export_checkpoint(
        folder / "model.safetensors",
        folder / "model.zip",
        licence="CC0-1.0",
        intended_use="Boats only.",
        on_step=steps.append,
    )
    assert len(steps) >= 4
    return folder / "model.zip"


def test_the_bundle_says_what_it_is_and_how_far_from_torch(exported: Path) -> None:
    bundle = load_bundle(exported)

    assert (bundle.name, bundle.trained, bundle.licence, bundle.recipe) == ("smaller", True, "CC0-1.0", SMALLER)
    assert bundle.intended_use == "Boats only."
    assert len(bundle.provenance["checkpoint_sha256"]) == 64
    assert bundle.parity is not None
    assert bundle.parity.beyond == ()
    assert bundle.graphs["encoder"].inputs["clips"][1:] == (32, 48, 48, 3)
    assert isinstance(bundle.graphs["encoder"].inputs["clips"][0], str)


def test_soft_suppression_has_no_graph_and_runs_all_the_same(exported: Path, root: Path) -> None:
    assert set(load_bundle(exported).graphs) == {"encoder", "localizer"}
    assert Pipeline.load(exported, device="cpu", threads=1).detect(root / "docs/example/example.mp4").actions


@pytest.mark.parametrize("batch", [1, 3])
def test_graphs_equal_torch_for_every_batch(
    detector: Detector, graphs: tuple[onnx.ModelProto, onnx.ModelProto], batch: int
) -> None:
    random = np.random.default_rng(0)
    clips = random.integers(0, 256, (batch, 32, 48, 48, 3), dtype=np.uint8)
    real = np.array([32, 7, 0], np.int64)[:batch]
    with torch.no_grad():
        here = EncoderGraph(detector)(torch.from_numpy(clips), torch.from_numpy(real)).numpy()
    (there,) = ort.InferenceSession(graphs[0].SerializeToString()).run(None, {"clips": clips, "real_frames": real})

    np.testing.assert_allclose(there, here, atol=1e-4)


def test_the_encoder_has_no_pad_and_nothing_that_depends_on_data(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    kinds = {node.op_type for node in graphs[0].graph.node}

    assert kinds.isdisjoint({"Pad", "ScatterND", "If", "Loop", "Scan", "NonZero", "Einsum"})


def test_masks_and_biases_are_folded_when_the_graph_is_loaded(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], tmp_path: Path
) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(graphs[0].SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    constants = {tensor.name for tensor in optimised.graph.initializer}

    for node in optimised.graph.node:
        assert not (node.op_type == "Gather" and set(node.input) <= constants)


def test_a_file_holds_no_path_of_the_machine_it_was_made_on(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], root: Path
) -> None:
    for model in graphs:
        content = model.SerializeToString()
        assert str(root).encode() not in content
        assert b"site-packages" not in content


def test_the_best_candidates_are_those_of_all(detector: Detector) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, detector.recipe.model.backbone.out_channels, detector.recipe.window_steps)
    starts, lengths = torch.tensor([0, 352]), torch.tensor([480, 100])
    graph, everything = LocalizerGraph(detector).eval(), LocalizerGraph(detector).eval()
    everything.per_window = None
    with torch.no_grad():
        segments, scores, classes = graph(features, starts, lengths)
        all_segments, all_scores, all_classes = everything(features, starts, lengths)

    assert scores.shape == (2, 50)
    for window in range(2):
        best = all_scores[window].argsort(descending=True, stable=True)[:50]
        torch.testing.assert_close(scores[window], all_scores[window][best])
        assert {(*s.tolist(), c.item()) for s, c in zip(segments[window], classes[window], strict=True)} == {
            (*all_segments[window][row].tolist(), all_classes[window][row].item()) for row in best
        }


def test_the_bundled_suppression_is_what_export_writes_today() -> None:
    assert load_bundle().read_graph("suppress") == build_suppress_graph(DEMO.suppress).SerializeToString(
        deterministic=True
    )
    assert load_bundle().recipe == DEMO


def test_what_is_not_a_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")

    with pytest.raises(OutputError, match="notes: exists and is not a bundle"):
        export_random(TINY, tmp_path / "notes")
    with pytest.raises(OutputError, match="there is no folder"):
        export_random(TINY, tmp_path / "gone" / "model")
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear diary"


def test_a_bundle_may_be_replaced() -> None:
    check_bundle_destination(bundled_models()["demo"])


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text(json.dumps({}))

    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable checkpoint"):
        export_checkpoint(tmp_path / "model.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
