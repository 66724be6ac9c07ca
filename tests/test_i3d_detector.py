"""I3D as the encoder of a detector: settings, clips, export, and training with a memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto

from tallformer_export.exporting import ExportOptions, export_random
from tallformer_export.graphs import EncoderGraph, encoder_onnx
from tallformer_export.parity import LIMITS
from tallformer_export.precision import precision_of
from tallformer_infer import cli
from tallformer_infer.bundle import Precision, load_bundle
from tallformer_infer.bundle.checks import refusal
from tallformer_infer.config import I3dConfig, Recipe, TcmConfig, preset, recipe_from_json, to_json
from tallformer_infer.console import make_speaker
from tallformer_infer.errors import ConfigError, ExportError, ExtraError
from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
from tallformer_infer.runtime.tensorrt.keys import PORTABLE, BatchProfile, load_library
from tallformer_training.checkpoint import load_detector
from tallformer_training.loop import Processes, TrainingJob, train
from tallformer_training.loop.beginning import SharedBatchNorm, make_detector, share_batch_norms
from tallformer_training.loop.config import settings_of
from tallformer_training.loop.record import read_metrics
from tallformer_training.memory import encoded_count, encoder_fingerprint
from tests import test_train_learns, whole_video_set
from tests.i3d_recipe import FINE, I3D, NARROW, PIXELS
from tests.small_detector import build, numbers

pytestmark = pytest.mark.usefixtures("one_thread")

OPERATORS = {"Add", "BatchNormalization", "Cast", "Concat", "ConstantOfShape", "Conv", "Div", "Less", "MaxPool", "Mul"}
OPERATORS |= {"ReduceMean", "Relu", "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
SWIN_T_FINGERPRINT = "f2f9afbbcd950c4793f0ba90a0dec9e160b5a2363f4ff1a142338bcdf0fb65d6"
"""Of the memory of thumos14-swin-t as it was made before there was another encoder."""


def changed(**backbone: object) -> dict[str, Any]:
    value: dict[str, Any] = to_json(I3D)
    value["model"]["backbone"] = {**value["model"]["backbone"], **backbone}
    return value


@pytest.mark.parametrize("recipe", [I3D, FINE])
def test_a_recipe_comes_back_from_its_json(recipe: Recipe) -> None:
    assert recipe_from_json(to_json(recipe)) == recipe


def test_an_encoder_without_a_kind_is_a_video_swin() -> None:
    value = to_json(preset("thumos14-swin-t"))
    del value["model"]["backbone"]["kind"]

    assert recipe_from_json(value) == preset("thumos14-swin-t")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"kind": "resnet"}, r"model\.backbone\.kind: expected one of video_swin, i3d, got \"resnet\""),
        ({"tap": "mixed_3c"}, r"model\.backbone\.tap: expected one of mixed_4f, mixed_5c, got \"mixed_3c\""),
        ({"narrowing": 3}, "backbone: narrowing=3 must be one of 1, 2, 4, 8"),
        ({"depths": [2, 2]}, r"model\.backbone\.depths: no such key; there are kind, tap, narrowing"),
    ],
)
def test_settings_that_i3d_does_not_have_are_refused(backbone: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_json(changed(**backbone))


@pytest.mark.parametrize("name", ["thumos14", "anet"])
@pytest.mark.parametrize("tap", ["mixed_4f", "mixed_5c"])
def test_levels_and_anchors_are_those_of_video_swin(name: str, tap: Any) -> None:
    swin, recipe = preset(f"{name}-swin-b"), preset(f"{name}-i3d")
    model = replace(recipe.model, backbone=I3dConfig(kind="i3d", tap=tap))
    recipe = replace(recipe, model=model)

    assert recipe.model.level_strides == swin.model.level_strides
    assert recipe.finest_steps == swin.finest_steps
    assert replace(recipe.model, backbone=swin.model.backbone) == swin.model


def test_presets_encode_as_many_clips_as_the_paper() -> None:
    found = {name: settings_of(preset(name)) for name in ("thumos14-i3d", "anet-i3d")}

    assert [settings.ratio for settings in found.values()] == [0.4, 1 / 3]
    assert [encoded_count(preset(name).window.clips, settings.ratio) for name, settings in found.items()] == [6, 8]
    for name, settings in found.items():
        settings.require_fit(preset(name))
        assert replace(settings, ratio=0.15) == replace(settings_of(preset(name.replace("i3d", "swin-b"))), ratio=0.15)


def test_memories_of_video_swin_are_still_known() -> None:
    assert encoder_fingerprint(preset("thumos14-swin-t")) == SWIN_T_FINGERPRINT
    assert encoder_fingerprint(I3D) != encoder_fingerprint(FINE)


@pytest.mark.parametrize("recipe", [I3D, FINE])
def test_a_clip_alone_is_what_it_is_in_a_batch(recipe: Recipe) -> None:
    detector = build(recipe).eval()
    frames = numbers(2, 3, 43, 32, 32)  # two clips and 11 frames
    clips = frames[:, :, :32].reshape(2, 3, 2, 16, 32, 32).permute(2, 0, 1, 3, 4, 5)

    with torch.no_grad():
        sequence = detector.encode_frames(frames)
        together = detector.encode_clip_major(clips)
        alone = torch.stack([torch.cat([detector.encode(clip[None]) for clip in part]) for part in clips])

    stride = recipe.model.encoder_stride
    assert sequence.shape == (2, recipe.model.backbone.out_channels, -(-43 // stride))
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(sequence[..., : 32 // stride], torch.cat([*together], dim=-1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the weights that `build` gives."""
    out: Path = tmp_path_factory.mktemp("i3d") / "bundle"
    export_random(I3D, out, on_step=lambda _: None)
    return out


def require_equal(graph: onnx.ModelProto, recipe: Recipe, *, within: float = 1e-4) -> None:
    """Features of whole, partial and empty clips are torch's, as a part of the largest, in batches of both sizes."""
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    side = recipe.sampling.crop_px
    for batch in (1, 3):
        clips = np.random.default_rng(batch).integers(0, 256, (batch, 16, side, side, 3), dtype=np.uint8)
        real = np.array([16, 7, 0], np.int64)[:batch]
        (found,) = session.run(None, {"clips": clips, "real_frames": real})
        with torch.no_grad():
            wanted = EncoderGraph(build(recipe).eval())(torch.from_numpy(clips), torch.from_numpy(real)).numpy()
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < within * np.abs(wanted).max()


def require_plain(graph: onnx.ModelProto) -> None:
    """Nothing but operators that have been looked at; no Pad, which TensorRT has refused."""
    assert {node.op_type for node in graph.graph.node} <= OPERATORS
    assert refusal(graph.SerializeToString(), "encoder") is None


def test_a_bundle_equals_torch_and_detects(bundle: Path, tmp_path: Path, root: Path) -> None:
    read = load_bundle(bundle)
    assert read.parity is not None
    assert read.parity.beyond == ()
    graph = onnx.load_from_string(read.read_graph("encoder"))
    require_plain(graph)
    require_equal(graph, I3D)

    out = tmp_path / "actions.json"
    code = cli.run(
        ["detect", str(root / "docs/example/example.mp4"), "--model", str(bundle), "--device", "cpu", "--out", str(out)]
    )

    assert code == 0
    assert {action["label"] for action in json.loads(out.read_text())["videos"][0]["actions"]} == {"run", "jump"}


def test_the_finer_tap_exports_without_padding_at_an_odd_size() -> None:
    recipe = replace(FINE, sampling=replace(FINE.sampling, crop_px=31))

    graph = encoder_onnx(build(recipe).eval())

    require_plain(graph)
    require_equal(graph, recipe)


def test_all_but_the_first_layer_becomes_float16() -> None:
    graph = encoder_onnx(build(I3D).eval(), "fp16")

    kinds = {item.name: item.data_type for item in graph.graph.initializer}
    first, *others = [kinds[node.input[1]] for node in graph.graph.node if node.op_type == "Conv"]
    assert first == TensorProto.FLOAT
    assert set(others) == {TensorProto.FLOAT16}
    assert precision_of(graph) == "fp16"
    require_equal(graph, I3D, within=LIMITS["fp16"].features)


def test_the_encoder_becomes_an_engine(bundle: Path) -> None:
    try:
        library = load_library("tensorrt_rtx")
    except ExtraError as error:
        pytest.skip(str(error))
    content, batch = load_bundle(bundle).read_graph("encoder"), BatchProfile(least=1, best=4, most=8)

    built = build_engine(library, content, batch, target=PORTABLE, log=BuilderLog())

    assert len(built.content) > 100_000


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8-static"])
def test_formats_for_linear_layers_are_refused(precision: Precision, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="of small-i3d has only convolutions; use fp32 or fp16"):
        export_random(I3D, tmp_path / "bundle", options=ExportOptions(precision=precision), on_step=lambda _: None)
    assert not (tmp_path / "bundle").exists()


def test_norms_stay_asleep_where_several_processes_train() -> None:
    detector = build(I3D)
    encoder = dict(detector.backbone.named_modules())

    share_batch_norms(detector, torch.device("cpu"))

    assert dict(detector.backbone.named_modules()) == encoder
    assert any(isinstance(module, SharedBatchNorm) for module in detector.modules())  # those behind it are replaced


WHOLE: Recipe = replace(
    whole_video_set.WHOLE,
    model=replace(whole_video_set.WHOLE.model, backbone=NARROW, tcm=TcmConfig(layers=1, heads=4, max_steps=32)),
    sampling=replace(whole_video_set.WHOLE.sampling, mean=PIXELS, std=PIXELS),
)


@pytest.mark.parametrize("kind", ["anchors", "refined"])
def test_a_detector_learns_with_most_clips_from_memory(kind: str, tmp_path: Path) -> None:
    if kind == "anchors":
        recipe, config = replace(I3D, classes=("red", "blue")), replace(test_train_learns.CONFIG, epochs=6)
        videos = test_train_learns.make_videos(tmp_path / "videos", count=4, seed=1)
    else:
        recipe, config = WHOLE, replace(whole_video_set.LEARNING, epochs=14)
        videos = whole_video_set.make_videos(tmp_path / "videos", count=6, seed=1)
    config = replace(config, ratio=0.25)
    job = TrainingJob(recipe=recipe, config=config, training=videos, out=tmp_path / "run", quiet=True)
    untrained = make_detector(job, Processes(), make_speaker(quiet=True)).state_dict()
    before = {name: value.clone() for name, value in untrained.items()}

    result = train(job, Processes())

    losses = [line["loss"] for line in read_metrics(job.out) if line["kind"] == "step"]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4]), losses
    after = load_detector(result.model)[0].state_dict()
    encoder = [name for name in after if name.startswith("backbone.")]
    assert [name for name in encoder if torch.equal(before[name], after[name])] == [n for n in encoder if ".bn." in n]
