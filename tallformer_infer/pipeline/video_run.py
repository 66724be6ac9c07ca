"""The pipeline of a video: media → clips → encode → windows → localize → suppress → conclude → `Result`.

Note [one pipeline]
    `Detector`, the workers of `label` and `bench` all use this pipeline, and the data passes each stage once. After
    `encode` and after `localize` it can be interrupted and resumed: `label` stores features and candidates there, so
    that another localizer or threshold does not start from the video.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tallformer_infer import __version__
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import from_json, to_json
from tallformer_infer.media import FrameStream, run_ahead
from tallformer_infer.nms import suppress
from tallformer_infer.pipeline.candidates import (
    CandidatePools,
    OwnScores,
    best_candidates,
    classify,
    in_video_frames,
    length_ranges,
    localizer_of,
    reference_candidates,
)
from tallformer_infer.pipeline.choices import at_point, rates_of
from tallformer_infer.pipeline.encoding import ClipEncoder, EncodedClip
from tallformer_infer.results import select_actions
from tallformer_infer.runtime import Runtime
from tallformer_infer.structures import (
    Action,
    Candidates,
    Layout,
    Provenance,
    Result,
    Selection,
    StageSeconds,
    VideoInfo,
)
from tallformer_infer.timeline import Clip, FeatureWindow, Timelines, cut_clips, step_frames

_CLIPS_AHEAD = 4
_JOIN_S = 0.8
"""Timeout for the clip being encoded when a run is stopped, in seconds, so that Ctrl-C is fast."""
NO_TIME = StageSeconds(decode_s=0.0, encode_s=0.0, localize_s=0.0, suppress_s=0.0, total_s=0.0)


@dataclass(frozen=True)
class Progress:
    """Progress of a video."""

    position_s: float
    """Video time processed, from the first frame, in seconds."""
    duration_s: float | None
    """Duration of the video according to its header, in seconds; None if unknown."""
    speed: float
    """Seconds of video per second of wall time, since the start."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Options that determine the result of a video, besides the model."""

    layout: Layout
    """Windows and rates for the localizer."""
    selection: Selection
    """Which actions are kept."""
    span_s: float | None = None
    """Length of a window in seconds, if a model that processes whole videos is used with windows."""
    class_source: str | None = None
    """File with video-level class scores; None uses those of the model."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """Facts about a video that was read to its end, besides its features and candidates."""

    video: VideoInfo
    """Description of the video."""
    sample_fps: float
    """Sampling rate, in frames per second."""
    frame_count: int
    """Number of sampled frames."""
    decode_errors: int
    """See `Result.decode_errors`."""
    missing_s: float
    """Video missing at the end, compared with the header, in seconds."""
    notes: tuple[str, ...] = ()
    """See `Result.notes`."""
    runtime: str
    """Name and version of the runtime of the encoder."""
    device: str
    """`cpu`, `cuda`, or Intel's `gpu` or `npu`."""
    precision: str | None = None
    """Precision of the encoder; None for that of its graph."""
    clips: int
    """Number of clips."""
    clips_reused: int
    """Number of clips that reuse the features of an earlier clip."""

    def encoded(self) -> bytes:
        """Encode as JSON."""
        return json.dumps(to_json(self)).encode()

    @staticmethod
    def decoded(content: bytes) -> VideoFacts:
        """The inverse of `encoded`.

        Raises:
            ConfigError, ValueError: The content is malformed.
        """
        return from_json(VideoFacts, json.loads(content), where="facts")


@dataclass(frozen=True, kw_only=True)
class VideoCandidates:
    """A video between `localize` and `suppress`."""

    facts: VideoFacts
    """What is known of the video."""
    candidates: Candidates
    """Candidates of all windows."""
    has_classes: bool = True
    """False for proposals that get their classes from a file; until then all have the same class."""
    floor: float
    """Candidates at or below this score were dropped."""
    own_scores: OwnScores | None = None
    """Video-level class scores of the model, with `windows=reference`."""


class FeatureKeeper(Protocol):
    """Stores features between `encode` and `windows`."""

    def known(self) -> Iterator[EncodedClip]:
        """Stored features of the first clips of the video."""

    def keep(self, clip: EncodedClip) -> None:
        """Store the features of the next clip."""


class VideoRun:
    """Runs the stages from frames to candidates for one video, and measures the time of each."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        choices: Choices,
        *,
        encoder: ClipEncoder | None = None,
        keeper: FeatureKeeper | None = None,
        scores: Mapping[str, float] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Create a run; nothing is read yet.

        Args:
            bundle: The model.
            runtime: Runs its graphs.
            choices: Options of the run.
            encoder: Encodes clips; None creates one.
            keeper: Stores features.
            scores: Class scores of the video, by name, from `choices.class_source`; None if passed to `conclude`.
            on_progress: Called after every clip.

        Raises:
            ConfigError: The runtime does not support the choices.
        """
        recipe, layout = bundle.recipe, choices.layout
        self._recipe, self._runtime, self._layout = recipe, runtime, layout
        self._keeper = keeper
        self._on_progress = on_progress
        self._encoder = encoder or ClipEncoder(runtime, recipe)
        self._localizer = localizer_of(
            recipe, runtime, layout.windows, has_scores=choices.class_source is not None, scores=scores
        )
        step = step_frames(recipe.window, layout.windows)
        self._timelines = Timelines(recipe.window, step, layout.factors)
        self._lengths_frames = length_ranges(recipe.window, step, layout.factors)
        self._floor = recipe.suppress.score_threshold if self._localizer.gives_classes else 0.0
        limit = recipe.candidates.per_video if self._localizer.gives_classes else None
        self.pools = CandidatePools(limit, layout.factors)
        """Candidates found so far."""
        self._localize_s = 0.0
        self._started = time.perf_counter()

    @property
    def frames(self) -> int:
        """Number of frames so far."""
        return self._timelines.frames

    def read(self, stream: FrameStream) -> Generator[None]:
        """Run media, clips, encode, windows, localize; yield when the candidates of a clip's windows are in `pools`.

        Reading and encoding run ahead of the consumer. Close the iterator to stop them.
        """
        cut = cut_clips(stream, self._recipe.window, self._layout.windows)
        encoded = run_ahead(
            self._encoded(cut),
            _CLIPS_AHEAD,
            thread_name="tallformer-encode",
            interrupt=self._encoder.cancellation.cancel,
            join_s=_JOIN_S,
        )
        with closing(encoded):
            yield from self.localize(self._reported(encoded, stream))

    def localize(self, clips: Iterable[EncodedClip]) -> Iterator[None]:
        """Run windows and localize; yield after every clip, and after every window that follows the last clip."""
        for clip in clips:
            for window in self._timelines.add(clip.start_frame, clip.real_frames, clip.features):
                self.pools.add(window.factor, self._localized(window))
            yield
        for window in self._timelines.finish(self._encoder.encode_empty):
            self.pools.add(window.factor, self._localized(window))
            yield

    def _localized(self, window: FeatureWindow) -> Candidates:
        """Candidates of a window in frames of the video."""
        started = time.perf_counter()
        found = self._localizer.localize(window)
        self._localize_s += time.perf_counter() - started
        lengths = self._lengths_frames[window.factor]
        return in_video_frames(found, window.factor, lengths_frames=lengths, frames=self.frames)

    def settled(self, stream: FrameStream) -> VideoCandidates | None:
        """Remove and return final candidates; None if none are final before the last window."""
        if self._localizer.own_scores is not None:
            return None
        return self._with(self.facts(stream), self.pools.take_settled(self._timelines.next_start_frame))

    def provisional(self, stream: FrameStream) -> VideoCandidates:
        """Candidates if the video ended here; runs the localizer, but encodes nothing."""
        windows = self._timelines.if_ended(self._encoder.encode_empty)
        parts = [self.pools.all(), *(self._localized(window) for window in windows)]
        return self._with(self.facts(stream), Candidates.concatenate(parts))

    def candidates(self, facts: VideoFacts) -> VideoCandidates:
        """All candidates that were not removed by `settled`."""
        return self._with(facts, self.pools.all())

    def _with(self, facts: VideoFacts, candidates: Candidates) -> VideoCandidates:
        return VideoCandidates(
            facts=facts,
            candidates=candidates,
            has_classes=self._localizer.gives_classes,
            floor=self._floor,
            own_scores=self._localizer.own_scores,
        )

    def facts(self, stream: FrameStream) -> VideoFacts:
        """Facts about the video, after it was read to its end."""
        return VideoFacts(
            video=stream.info,
            sample_fps=stream.sample_fps,
            frame_count=stream.frame_count,
            decode_errors=stream.decode_errors,
            missing_s=stream.missing_s,
            notes=stream.notes,
            runtime=self._runtime.name,
            device=self._runtime.device,
            precision=self._runtime.precision,
            clips=self._encoder.clips,
            clips_reused=self._encoder.reused,
        )

    def timings(self, decode_s: float = 0.0) -> StageSeconds:
        """Wall time per stage so far."""
        return StageSeconds(
            decode_s=decode_s,
            encode_s=self._encoder.encode_s,
            localize_s=self._localize_s,
            suppress_s=0.0,
            total_s=time.perf_counter() - self._started,
        )

    def _encoded(self, clips: Iterator[Clip]) -> Iterator[EncodedClip]:
        """Features of the clips: stored ones first, then encoded ones, which are stored."""
        known = () if self._keeper is None else self._keeper.known()
        for clip in self._encoder.encode(self._preparing_the_end(clips), known):
            if self._keeper is not None and self._encoder.clips > self._encoder.known:
                self._keeper.keep(clip)
            yield clip

    def _preparing_the_end(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """Pass clips through; after the last one, start encoding the empty clip if it will be needed."""
        frames = 0
        for clip in clips:
            frames = clip.start_frame + clip.real_frames
            yield clip
        if self._timelines.needs_empty(frames):
            self._encoder.prepare_empty()

    def _reported(self, clips: Iterable[EncodedClip], stream: FrameStream) -> Iterator[EncodedClip]:
        """Pass clips through, and report progress when the windows of each are done."""
        for clip in clips:
            yield clip
            if self._on_progress is not None:
                position_s = (clip.start_frame + clip.real_frames) / stream.sample_fps
                elapsed_s = max(time.perf_counter() - self._started, 1e-9)
                self._on_progress(Progress(position_s, stream.info.duration_s, position_s / elapsed_s))


def conclude(
    found: VideoCandidates,
    bundle: Bundle,
    choices: Choices,
    *,
    scores: Mapping[str, float] | None = None,
    sha256: str | None,
    timings: StageSeconds = NO_TIME,
) -> Result:
    """Suppress and conclude: from the candidates of a video to its result. Needs neither the video nor a device.

    Args:
        found: The candidates.
        bundle: The model.
        choices: Options of the run.
        scores: Class scores of the video, by name, from `choices.class_source`.
        sha256: Hash of the file.
        timings: Time of the previous stages.
    """
    started = time.perf_counter()
    facts = found.facts
    actions = find_actions(found, bundle, choices, scores)
    suppress_s = time.perf_counter() - started
    return Result(
        video=facts.video,
        actions=actions,
        sample_fps=facts.sample_fps,
        frame_count=facts.frame_count,
        duration_s=facts.frame_count / facts.sample_fps,
        decode_errors=facts.decode_errors,
        missing_s=facts.missing_s,
        notes=facts.notes,
        video_sha256=sha256,
        timings=replace(timings, suppress_s=suppress_s, total_s=timings.total_s + suppress_s),
        provenance=_provenance(facts, bundle, choices),
        selection=choices.selection,
    )


def find_actions(
    found: VideoCandidates, bundle: Bundle, choices: Choices, scores: Mapping[str, float] | None = None
) -> tuple[Action, ...]:
    """Actions of a video, or of its final candidates; see `conclude` for the arguments."""
    selection = choices.selection
    named = _named(_suppressed(found, bundle, choices, scores), found.facts, bundle, choices)
    return select_actions(
        at_point(named, bundle, selection.operating_point),
        threshold=selection.threshold,
        top_k=selection.top_k,
        classes=selection.classes,
    )


def _suppressed(
    found: VideoCandidates, bundle: Bundle, choices: Choices, scores: Mapping[str, float] | None
) -> Candidates:
    """Candidates kept by suppression, which runs in NumPy on every device, so that it can be repeated without one."""
    recipe = bundle.recipe
    candidates = found.candidates
    if found.own_scores is not None:
        return reference_candidates(candidates, recipe, found.own_scores, scores, frames=found.facts.frame_count)
    if not found.has_classes:
        assert scores is not None, "callers with a class source pass its scores"
        candidates = best_candidates(classify(candidates, recipe, scores), recipe.candidates.per_video)
    return suppress(candidates, recipe.suppress)


def _named(kept: Candidates, facts: VideoFacts, bundle: Bundle, choices: Choices) -> tuple[Action, ...]:
    """Actions with class names, in seconds on the file's own timeline."""
    seconds = kept.segments_frames.astype(np.float64) / facts.sample_fps + facts.video.start_s
    # The official code keeps zero-length segments in the padding at the end; drop them.
    is_reference = choices.layout.windows == "reference"
    wanted = np.ones(len(kept), bool) if is_reference else seconds[:, 1] > seconds[:, 0]
    classes = bundle.recipe.classes
    return tuple(
        Action(
            start_s=float(seconds[row, 0]),
            end_s=float(seconds[row, 1]),
            label=classes[kept.classes[row]],
            score=float(kept.scores[row]),
        )
        for row in np.flatnonzero(wanted)
    )


def _provenance(facts: VideoFacts, bundle: Bundle, choices: Choices) -> Provenance:
    return Provenance(
        tool_version=__version__,
        model_name=bundle.name,
        model_trained=bundle.trained,
        bundle_sha256=bundle.sha256,
        recipe_name=bundle.recipe.name,
        runtime=facts.runtime,
        device=facts.device,
        precision=facts.precision or bundle.graphs["encoder"].precision,
        windows=choices.layout.windows,
        rates=rates_of(choices.layout, bundle.recipe),
        window_s=choices.span_s,
        intended_use=bundle.intended_use,
        class_scores=choices.class_source,
    )
