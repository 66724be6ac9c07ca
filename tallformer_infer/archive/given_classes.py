"""Classes of whole videos from a file: workers store proposals without a class, which get theirs at the end.

So another file of scores needs neither videos nor the localizer, as another threshold does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.archive.tasks import ScoreFile
from tallformer_infer.config import Recipe, RefinedHeadConfig
from tallformer_infer.errors import ConfigError, DeviceError
from tallformer_infer.evaluation import ClassScores
from tallformer_infer.nms import proposals_with_classes, without_class
from tallformer_infer.pipeline.pool import CandidatePool
from tallformer_infer.pipeline.scoring import scores_by_class
from tallformer_infer.runtime import Cancellation, ProposingRuntime, RunsOn, Runtime
from tallformer_infer.structures import Candidates, Proposals


def describe_scores(scores: ClassScores, recipe: Recipe) -> ScoreFile:
    """What a run must know of its class scores, which are checked against the model.

    Raises:
        ConfigError: The model scores every segment itself, or does not have one of the classes.
    """
    if not isinstance(recipe.model.head, RefinedHeadConfig):
        raise ConfigError(
            f"recipe {recipe.name}: class scores of videos are for models with head.kind=refined; this one scores "
            "every segment itself"
        )
    scores_by_class({name: 1.0 for video in scores.videos.values() for name in video}, recipe.classes)
    content = json.dumps({video: dict(row) for video, row in scores.videos.items()}, sort_keys=True)
    return ScoreFile(scores.source, hashlib.sha256(content.encode()).hexdigest())


def with_classes(proposals: Candidates, recipe: Recipe, scores: Mapping[str, float]) -> Candidates:
    """Candidates of a video from its proposals, as `detect` has them.

    Args:
        proposals: Of all windows, from `ProposingOnly`.
        recipe: Of the model.
        scores: What the video shows, by name.
    """
    head = recipe.model.head
    assert isinstance(head, RefinedHeadConfig), "see `describe_scores`"
    nothing = np.zeros(0, np.float32)
    found = proposals_with_classes(
        Proposals(proposals.segments_frames, proposals.scores, nothing),
        scores_by_class(scores, recipe.classes),
        most_classes=head.classes_per_proposal,
    )
    pool = CandidatePool(recipe.candidates.per_video)
    pool.add(found.take(found.scores > recipe.suppress.score_threshold))
    return pool.all()


class ProposingOnly:
    """A runtime whose localizer leaves classes out."""

    def __init__(self, runtime: Runtime) -> None:
        """Wrap a runtime.

        Raises:
            DeviceError: It cannot give proposals.
        """
        if not isinstance(runtime, ProposingRuntime):
            raise DeviceError(f"{runtime.name} cannot give proposals without classes; take another runtime")
        self._runtime = runtime
        self.name: str = runtime.name
        self.device: RunsOn = runtime.device
        self.device_reason: str = runtime.device_reason
        self.precision: str = runtime.precision
        self.clips_at_once: int = runtime.clips_at_once
        self.clips_per_call: int = runtime.clips_per_call

    def encode(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation | None = None
    ) -> NDArray[np.float32]:
        """See `Runtime.encode`."""
        return self._runtime.encode(clips, real_frames, cancellation)

    def localize(
        self, features: NDArray[np.float32], start_frames: NDArray[np.int64], real_frames: NDArray[np.int64]
    ) -> Candidates:
        """All proposals of one window, as candidates of one and the same class."""
        return without_class(self._runtime.propose(features, start_frames, real_frames))

    def suppress(self, candidates: Candidates) -> Candidates:
        """See `Runtime.suppress`."""
        return self._runtime.suppress(candidates)
