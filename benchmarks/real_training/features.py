"""Features of all composed videos, encoded once for all runs with a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import Recipe
from tallformer_infer.media import given_video, open_video
from tallformer_infer.nms import suppress
from tallformer_infer.pipeline.encoding import ClipEncoder
from tallformer_infer.runtime import load_runtime
from tallformer_infer.structures import Action, Candidates
from tallformer_infer.timeline import Timeline, cut_clips, step_frames
from tallformer_training.datasets import DecodedFrames
from tallformer_training.loop.forward import encode_empty
from tallformer_training.loop.validation import encode_video, localize
from tallformer_training.memory import MemoryBuilder, encoder_fingerprint
from tallformer_training.model import Detector
from tallformer_training.model.i3d import InceptionI3d

EMPTY = "empty"
"""Name of the stored clip after the end of a video."""
FRAMES = "frames"
Features = NDArray[np.float32]


def encode_all(detector: Detector, videos: Mapping[str, Path], folder: Path, *, bf16: bool) -> None:
    """Encode missing videos, one file each: features (clips, C, clip steps), and number of frames.

    Args:
        detector: Detector with the encoder's weights.
        videos: Paths by name.
        folder: Output folder.
        bf16: Compute in bfloat16, with channels last, which is fast with AMX.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector.eval()
    if bf16 and isinstance(detector.backbone, InceptionI3d):
        detector.backbone.lay_channels_last()
    source = DecodedFrames(detector.recipe.sampling)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
        if not (folder / f"{EMPTY}.npy").exists():
            np.save(folder / f"{EMPTY}.npy", encode_empty(detector, torch.device("cpu")).float().numpy())
        for name, path in videos.items():
            out = folder / f"{name}.npz"
            if out.exists():
                continue
            frames = source.count_frames(path)
            parts = [one.features.float().numpy() for one in encode_video(detector, source, path, frames)]
            np.savez(out, features=np.concatenate(parts), frames=frames)


def encode_all_with_bundle(name: str, videos: Mapping[str, Path], folder: Path) -> None:
    """Like `encode_all`, with the encoder and sampling of an installed model."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(name)
    encoder = ClipEncoder(load_runtime(bundle, device="cpu", threads=torch.get_num_threads()), bundle.recipe)
    np.save(folder / f"{EMPTY}.npy", encoder.encode_empty())
    for video, path in videos.items():
        out = folder / f"{video}.npz"
        if not out.exists():
            with open_video(given_video(path), bundle.recipe.sampling) as stream:
                clips = [one.features for one in encoder.encode(cut_clips(stream, bundle.recipe.window, "shared"))]
                np.savez(out, features=np.stack(clips), frames=stream.frame_count)


class FeatureStore:
    """Files of `encode_all`."""

    def __init__(self, folder: Path) -> None:
        """Open the folder."""
        self._folder = folder
        self.empty: Features = np.load(folder / f"{EMPTY}.npy")

    def read(self, name: str) -> tuple[Features, int]:
        """Features (clips, C, clip steps) of a video, and its frames."""
        with np.load(self._folder / f"{name}.npz") as file:
            return file["features"], int(file["frames"])

    def write_memory(self, folder: Path, recipe: Recipe, names: Sequence[str]) -> None:
        """Write the memory that a run starts from, without encoding."""
        features = {name: self.read(name)[0] for name in names}
        entries = {name: clips.shape[0] * clips.shape[2] for name, clips in features.items()}
        fingerprint = encoder_fingerprint(recipe)
        folder.parent.mkdir(parents=True, exist_ok=True)
        channels = recipe.model.backbone.out_channels
        builder = MemoryBuilder(folder, entries, channels=channels, fingerprint=fingerprint)
        for name in builder.missing():
            builder.write(name, np.moveaxis(features[name], 1, 0).reshape(channels, -1))
        builder.finish()

    @torch.no_grad()
    def detect(self, detector: Detector, name: str) -> list[Action]:
        """Actions of a video, as `tallformer_training.loop.validation.detect_actions` finds them."""
        recipe = detector.recipe
        features, frames = self.read(name)
        clip_frames = recipe.window.clip_frames
        timeline = Timeline(recipe.window, step_frames(recipe.window, "shared"))
        parts: list[Candidates] = []
        for number, clip in enumerate(features):
            start = number * clip_frames
            real = min(frames - start, clip_frames)
            parts += [localize(detector, window) for window in timeline.add(start, real, clip)]
        parts += [localize(detector, window) for window in timeline.finish(lambda: self.empty)]
        kept = suppress(Candidates.concatenate(parts), recipe.suppress)
        return [
            Action(start_s=start, end_s=end, label=recipe.classes[kind], score=score)
            for (start, end), kind, score in zip(
                (kept.segments_frames.astype(np.float64) / recipe.sampling.sample_fps).tolist(),
                kept.classes.tolist(),
                kept.scores.tolist(),
                strict=True,
            )
            if end > start
        ]
