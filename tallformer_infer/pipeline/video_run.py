"""One video on its way through the stages."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np

from tallformer_infer.clips import Clip, cut_clips, step_frames
from tallformer_infer.config import Recipe
from tallformer_infer.media import FrameStream
from tallformer_infer.pipeline.background import Background
from tallformer_infer.pipeline.encoding import ClipEncoder, EncodedClip, Encoder
from tallformer_infer.pipeline.progress import OnProgress, Progress
from tallformer_infer.pipeline.rates import in_video_frames, length_ranges
from tallformer_infer.pipeline.scoring import ProposalScoring
from tallformer_infer.runtime import Runtime
from tallformer_infer.structures import Action, Candidates, Layout, StageSeconds, Windows
from tallformer_infer.timeline import FeatureWindow, Timelines

_CLIPS_AHEAD = 4


class VideoRun:
    """Takes one video through the stages and counts what each takes."""

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        layout: Layout,
        on_progress: OnProgress | None,
        scoring: ProposalScoring | None = None,
        *,
        encoder: Encoder | None = None,
    ) -> None:
        self._recipe = recipe
        self._runtime = runtime
        self._layout = layout
        self._on_progress = on_progress
        self._scoring = scoring
        self._encoder: Encoder = encoder or ClipEncoder(runtime, recipe)
        self._localize_s = 0.0
        self._suppress_s = 0.0
        self._started = time.perf_counter()
        step = step_frames(recipe.window, layout.windows)
        self._timelines = Timelines(recipe.window, step, layout.factors)
        self._lengths_frames = length_ranges(recipe.window, step, layout.factors)
        self.is_final_at_the_end = scoring is not None and layout.windows == "reference"
        """Whether no action is final before the last window."""

    def windows(self, stream: FrameStream) -> Generator[FeatureWindow]:
        """Windows as they become whole; reading and encoding run ahead of whoever takes them."""
        cut = cut_clips(stream, self._recipe.window, self._layout.windows)
        encoded = self._encoder.encode(self._preparing_the_end(cut))
        with Background(encoded, ahead=_CLIPS_AHEAD, interrupt=self._encoder.cancellation.cancel) as clips:
            yield from self.lay(self._reported(clips, stream))

    def lay(self, clips: Iterable[EncodedClip]) -> Generator[FeatureWindow]:
        """Windows of all rates, as clips complete them."""
        for clip in clips:
            yield from self._timelines.add(clip.start_frame, clip.real_frames, clip.features)
        yield from self._timelines.finish(self._encoder.encode_empty)

    @property
    def frames(self) -> int:
        """Frames of the video so far."""
        return self._timelines.frames

    @property
    def next_start_frame(self) -> int:
        """First frame of the video that a window to come may look at."""
        return self._timelines.next_start_frame

    def localize(self, window: FeatureWindow) -> Candidates:
        """Candidates of one window, in frames of the video."""
        started = time.perf_counter()
        if self._scoring is not None:
            candidates = self._scoring.localize(window)
        else:
            candidates = self._runtime.localize(
                window.features[None],
                np.array([window.start_frame], np.int64),
                np.array([window.real_frames], np.int64),
            )
        self._localize_s += time.perf_counter() - started
        lengths = self._lengths_frames[window.factor]
        return in_video_frames(candidates, window.factor, lengths_frames=lengths, frames=self.frames)

    def suppress(self, candidates: Candidates, stream: FrameStream) -> tuple[Action, ...]:
        """Actions with names and seconds on the file's own time line, from candidates in frames."""
        started = time.perf_counter()
        scoring = self._scoring
        kept = self._runtime.suppress(candidates) if scoring is None else scoring.suppress(candidates, self.frames)
        self._suppress_s += time.perf_counter() - started
        return name_actions(
            kept,
            self._recipe.classes,
            self._layout.windows,
            start_s=stream.info.start_s,
            sample_fps=stream.sample_fps,
        )

    def timings(self, decode_s: float) -> StageSeconds:
        """Wall time per stage so far."""
        return StageSeconds(
            decode_s=decode_s,
            encode_s=self._encoder.encode_s,
            localize_s=self._localize_s,
            suppress_s=self._suppress_s,
            total_s=time.perf_counter() - self._started,
        )

    def _preparing_the_end(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """The clips; behind the last one, the encoder is told whether an empty one follows."""
        frames = 0
        for clip in clips:
            frames = clip.start_frame + clip.real_frames
            yield clip
        if self._timelines.needs_empty(frames):
            self._encoder.prepare_empty()

    def _reported(self, clips: Iterable[EncodedClip], stream: FrameStream) -> Iterator[EncodedClip]:
        """The clips, each told of when its windows are done."""
        for clip in clips:
            yield clip
            if self._on_progress is not None:
                position_s = (clip.start_frame + clip.real_frames) / stream.sample_fps
                elapsed_s = max(time.perf_counter() - self._started, 1e-9)
                self._on_progress(Progress(position_s, stream.info.duration_s, position_s / elapsed_s))


def name_actions(
    kept: Candidates, classes: Sequence[str], windows: Windows, *, start_s: float, sample_fps: float
) -> tuple[Action, ...]:
    """What suppression kept, with names and seconds on the file's own time line.

    Args:
        kept: In frames.
        classes: Names of the classes.
        windows: How windows were laid.
        start_s: Time of the first frame, in seconds.
        sample_fps: Frames per second.
    """
    seconds = kept.segments_frames.astype(np.float64) / sample_fps + start_s
    # The official code keeps segments of no length at the padded end; nobody can use them.
    wanted = np.ones(len(kept), bool) if windows == "reference" else seconds[:, 1] > seconds[:, 0]
    return tuple(
        Action(
            start_s=float(seconds[row, 0]),
            end_s=float(seconds[row, 1]),
            label=classes[kept.classes[row]],
            score=float(kept.scores[row]),
        )
        for row in np.flatnonzero(wanted)
    )
