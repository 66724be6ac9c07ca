"""One video on its way through the stages."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import numpy as np

from tallformer_infer.clips import cut_clips, step_frames
from tallformer_infer.config import Recipe
from tallformer_infer.media import FrameStream
from tallformer_infer.pipeline.background import Background
from tallformer_infer.pipeline.encoding import ClipEncoder, EncodedClip, Encoder
from tallformer_infer.pipeline.progress import OnProgress, Progress
from tallformer_infer.pipeline.scoring import ProposalScoring
from tallformer_infer.runtime import Runtime
from tallformer_infer.structures import Action, Candidates, StageSeconds, Windows
from tallformer_infer.timeline import FeatureWindow, Timeline

_CLIPS_AHEAD = 4


class VideoRun:
    """Takes one video through the stages and counts what each takes."""

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        windows: Windows,
        on_progress: OnProgress | None,
        scoring: ProposalScoring | None = None,
        *,
        encoder: Encoder | None = None,
    ) -> None:
        self._recipe = recipe
        self._runtime = runtime
        self._layout = windows
        self._on_progress = on_progress
        self._scoring = scoring
        self._frames = 0
        self._encoder: Encoder = encoder or ClipEncoder(runtime, recipe)
        self._localize_s = 0.0
        self._suppress_s = 0.0
        self._started = time.perf_counter()
        self.step_frames = step_frames(recipe.window, windows)
        """Frames between the starts of neighbouring windows."""
        self.is_final_at_the_end = scoring is not None and windows == "reference"
        """Whether no action is final before the last window."""

    def windows(self, stream: FrameStream) -> Generator[FeatureWindow]:
        """Windows as they become whole; reading and encoding run ahead of whoever takes them."""
        timeline = Timeline(self._recipe.window, self.step_frames)
        encoded = self._encoder.encode(cut_clips(stream, self._recipe.window, self._layout))
        with Background(encoded, ahead=_CLIPS_AHEAD, interrupt=self._encoder.cancellation.cancel) as clips:
            for clip in clips:
                yield from timeline.add(clip.start_frame, clip.real_frames, clip.features)
                self._report(clip, stream)
        yield from timeline.finish(self._encoder.encode_empty)

    def localize(self, window: FeatureWindow) -> Candidates:
        """Candidates of one window."""
        started = time.perf_counter()
        self._frames = window.start_frame + window.real_frames
        if self._scoring is not None:
            candidates = self._scoring.localize(window)
        else:
            candidates = self._runtime.localize(
                window.features[None],
                np.array([window.start_frame], np.int64),
                np.array([window.real_frames], np.int64),
            )
        self._localize_s += time.perf_counter() - started
        return candidates

    def suppress(self, candidates: Candidates, stream: FrameStream) -> tuple[Action, ...]:
        """Actions with names and seconds on the file's own time line, from candidates in frames."""
        started = time.perf_counter()
        scoring = self._scoring
        kept = self._runtime.suppress(candidates) if scoring is None else scoring.suppress(candidates, self._frames)
        self._suppress_s += time.perf_counter() - started
        return name_actions(
            kept,
            self._recipe.classes,
            self._layout,
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

    def _report(self, clip: EncodedClip, stream: FrameStream) -> None:
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
