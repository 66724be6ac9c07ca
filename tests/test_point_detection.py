"""Detectors with points from an imported file to actions: graphs, windows that are one clip, frames behind the end."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tallformer_export.graphs import EncoderGraph, encoder_onnx, localizer_onnx
from tallformer_infer import Detector as Pipeline
from tallformer_infer.bundle import load_bundle
from tallformer_infer.bundle.checks import refusal
from tallformer_infer.cli import run
from tallformer_infer.config import Recipe, SamplingConfig, WindowConfig, preset, recipe_from_json, to_json
from tallformer_infer.errors import ConfigError
from tallformer_infer.nms import suppress
from tallformer_infer.structures import Candidates
from tallformer_infer.timeline import cut_clips
from tallformer_training.augmentation import normalise
from tallformer_training.checkpoint import load_detector
from tests.official_file import saved
from tests.opentad_model import detect
from tests.point_recipe import CLIPS, SIZES, WHOLE_WINDOW, opentad_weights
from tests.small_detector import build
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = 101
"""Of the video: windows of 64 frames begin at 0, 32 and 64; the last has 37, of which the last is half a step."""
SEGMENT_FRAMES, SCORE = 0.05, 5e-4


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    generator = np.random.default_rng(4)
    coarse = generator.integers(0, 255, (FRAMES // 8 + 1, 8, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 4, 4, 1), np.uint8))[:FRAMES]


@pytest.fixture(scope="module")
def folder(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as OpenTAD saves them, imported and exported by the command line, and a video."""
    folder = tmp_path_factory.mktemp("opentad")
    weights = {f"module.{name}": tensor for name, tensor in opentad_weights(seed=3).items()}
    path, recipe = saved(folder, {"epoch": 1, "state_dict_ema": weights}), folder / "recipe.json"
    recipe.write_text(json.dumps(to_json(WHOLE_WINDOW)))
    model = folder / "model.safetensors"
    assert run(["import", str(path), "--recipe", str(recipe), "--out", str(model)]) == 0
    assert run(["export", str(model), "--out", str(folder / "bundle")]) == 0
    write_video(folder / "video.mkv", pixels, fps=15, codec="ffv1")
    return folder


def test_the_graphs_are_equal_to_torch(folder: Path) -> None:
    parity = load_bundle(folder / "bundle").parity

    assert parity is not None
    assert parity.beyond == ()
    assert {"encoder.features", "localizer.segments", "localizer.scores"} <= set(parity.differences)


def test_a_video_gives_the_actions_of_the_second_derivation(folder: Path, pixels: NDArray[np.uint8]) -> None:
    detector = load_detector(folder / "model.safetensors")[0]
    found = Pipeline.load(folder / "bundle", device="cpu").detect(folder / "video.mkv")

    parts = []
    for start in (0, 32, 64):
        window = pixels[start : start + 64]
        real = len(window)
        repeated = np.concatenate([window, np.repeat(window[-1:], 64 - real, axis=0)])
        clip = torch.from_numpy(repeated).permute(3, 0, 1, 2)[None].float()
        mean, std = (
            torch.tensor(value)[:, None, None, None] for value in (SamplingConfig().mean, SamplingConfig().std)
        )
        with torch.no_grad():
            features = detector.backbone((clip - mean) / std).mean(dim=(2, 3))[0].T
        scores, segments = detect(opentad_weights(seed=3), features, real // 2, SIZES)
        best = np.argsort(-scores.numpy().ravel(), kind="stable")[:60]  # pairs per window
        limited = (segments * 2).clamp(0, real).numpy() + start
        parts.append(
            Candidates(limited[best // 2].astype(np.float32), scores.numpy().ravel()[best], (best % 2).astype(np.int64))
        )
    kept = suppress(Candidates.concatenate(parts), WHOLE_WINDOW.suppress)
    kept = kept.take(kept.segments_frames[:, 1] > kept.segments_frames[:, 0])
    actions = sorted(found.actions, key=lambda action: -action.score)
    assert len(actions) == len(kept) > 20
    np.testing.assert_allclose([action.score for action in actions], kept.scores, atol=SCORE)
    ends = [(action.start_s * 15, action.end_s * 15) for action in actions]
    nearest = np.abs(np.array(ends)[:, None] - kept.segments_frames[None]).max(axis=2).min(axis=1)
    assert nearest.max() < SEGMENT_FRAMES  # neighbours of nearly one score may change places


def test_a_stream_gives_the_same_actions(folder: Path) -> None:
    pipeline = Pipeline.load(folder / "bundle", device="cpu")
    found = pipeline.detect(folder / "video.mkv")

    streamed = list(pipeline.stream(folder / "video.mkv"))

    assert sorted(streamed, key=lambda a: (a.start_s, a.end_s, a.label)) == sorted(
        found.actions, key=lambda a: (a.start_s, a.end_s, a.label)
    )


@pytest.mark.parametrize(
    "recipe",
    [
        WHOLE_WINDOW,
        replace(
            CLIPS,
            model=replace(CLIPS.model, pyramid=replace(CLIPS.model.pyramid, attention_steps=(5,) * 4)),
            window=WindowConfig(window_frames=48, clip_frames=16),
        ),
    ],
)
def test_graphs_have_allowed_operators_only(recipe: Recipe) -> None:
    detector = build(recipe).eval()

    assert refusal(encoder_onnx(detector).SerializeToString(), "encoder") is None
    localizer = localizer_onnx(detector)
    assert refusal(localizer.SerializeToString(), "localizer") is None
    assert not {"Pad", "ScatterND", "NonZero", "Resize"} & {node.op_type for node in localizer.graph.node}


def test_frames_behind_the_end_repeat_the_last_one() -> None:
    detector = build(CLIPS).eval()
    generator = np.random.default_rng(0)
    clips = torch.from_numpy(generator.integers(0, 255, (3, 16, 32, 32, 3), np.uint8))
    real = torch.tensor([16, 5, 0])
    repeated = clips.clone()
    repeated[1, 5:] = clips[1, 4]
    graph = EncoderGraph(detector).eval()

    with torch.no_grad():
        found, expected = graph(clips, real), graph(repeated[:2], torch.tensor([16, 16]))
        empty = graph(torch.zeros_like(clips[:1]), torch.tensor([16]))
        trained = detector.encode(normalise(clips.permute(0, 4, 1, 2, 3).float(), real, CLIPS.sampling))

    torch.testing.assert_close(found[:2], expected)
    torch.testing.assert_close(found[2:], empty)
    torch.testing.assert_close(found, trained, rtol=1e-4, atol=1e-5)


def frames(count: int) -> Iterator[NDArray[np.uint8]]:
    for number in range(count):
        yield np.full((32, 32, 3), number % 256, np.uint8)


@pytest.mark.parametrize(("count", "starts"), [(1, [0]), (64, [0]), (65, [0, 32]), (96, [0, 32]), (97, [0, 32, 64])])
def test_windows_of_one_clip_overlap_and_the_last_reaches_the_end(count: int, starts: list[int]) -> None:
    clips = list(cut_clips(frames(count), WHOLE_WINDOW.window, "shared"))

    assert [clip.start_frame for clip in clips] == starts
    assert clips[-1].real_frames == count - starts[-1]
    for clip in clips:
        assert clip.frames[: clip.real_frames, 0, 0, 0].tolist() == list(
            range(clip.start_frame, clip.start_frame + clip.real_frames)
        )


def test_memory_does_not_grow_with_the_video() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in cut_clips(frames(count), WHOLE_WINDOW.window, "shared"):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)

    short, long = peak(300), peak(1500)
    assert short > 64 * 32 * 32 * 3
    assert long < 1.1 * short


def test_the_presets_have_the_geometry_of_opentad() -> None:
    whole, clips = preset("thumos14-opentad-swin-t"), preset("thumos14-swin-t-actionformer")

    # 512 positions of 2 frames at 15 per second: 68 s, with half of a window shared; levels of 1 to 32 positions.
    assert (whole.window_steps, whole.window.clips, whole.window.shared_step_frames) == (512, 1, 512)
    assert whole.model.level_strides == clips.model.level_strides == (2, 4, 8, 16, 32, 64)
    assert (whole.sampling.resize, whole.sampling.resize_px, whole.sampling.crop_px) == ("short_side", 224, 224)
    assert (clips.window.clips, clips.window.clip_frames, clips.finest_steps) == (32, 32, 512)
    assert preset("thumos14-swin-b-actionformer").model.backbone.out_channels == 1024
    for recipe in (whole, clips):
        assert recipe_from_json(json.loads(json.dumps(to_json(recipe)))) == recipe


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pyramid.attention_steps", [3, 3], r"attention_steps=\[3, 3\] must have 4 entries, one each, or none"),
        ("pyramid.fpn_channels", 64, "fpn_channels=64 must be 32, the model's channels"),
        ("pyramid.embed_layers", 0, "embed_layers=0 must be at least 1"),
        ("tcm", {}, "tcm must be null for pyramid.kind=transformer"),
        ("head", {"kind": "refined"}, "kind=refined needs pyramid.kind=convolution or attention"),
        ("head.stacked_convs", 0, "head: stacked_convs=0 must be at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(path: str, value: object, message: str) -> None:
    description = to_json(CLIPS)
    *parents, last = ["model", *path.split(".")]
    place = description
    for parent in parents:
        place = place[parent]
    place[last] = value

    with pytest.raises(ConfigError, match=message):
        recipe_from_json(description)
