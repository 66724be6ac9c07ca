"""The detector: a bundle on a device, pointed at videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.devices import Hwaccel
from tallformer_infer.errors import ConfigError, TallformerError
from tallformer_infer.evaluation import ClassScores
from tallformer_infer.media import (
    SOFTWARE,
    FrameStream,
    GivenVideo,
    Hardware,
    VideoInput,
    choose_hardware,
    given_video,
    name_of,
    open_video,
)
from tallformer_infer.pipeline.choices import choose_layout, choose_selection, choose_windows
from tallformer_infer.pipeline.encoding import ClipEncoder
from tallformer_infer.pipeline.road import Choices, OnProgress, VideoRun, conclude, find_actions
from tallformer_infer.runtime import Device, RunPrecision, Runtime, load_runtime
from tallformer_infer.structures import Action, Result, VideoInfo, Windows
from tallformer_infer.timeline import cut_clips


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What the encoder makes of a video."""

    features: NDArray[np.float32]
    """Shape (T, C): a row per feature step."""
    times_s: NDArray[np.float64]
    """Middle of each step on the file's own time line, in seconds, shape (T,)."""
    stride_frames: int
    """Sampled frames per step."""
    sample_fps: float
    """Rate at which frames were taken, in frames per second."""
    frame_count: int
    """Frames taken."""
    video: VideoInfo
    """The file."""


@dataclass(frozen=True)
class StreamStep:
    """What one more clip of a video brought."""

    final: tuple[Action, ...]
    """Actions that no later clip can change, each once."""
    provisional: tuple[Action, ...]
    """All others that would be found if the video ended here. A later clip may change them, or take them back."""


class Detector:
    """Finds actions in videos with one model on one device. Not for several threads at once.

    Examples:
        >>> detector = Detector.load("demo", device="cpu")
        >>> detector.classes[:3]
        ('bounce', 'spin left', 'spin right')
        >>> result = detector.detect("docs/example/example.mp4")
        >>> for action in result.actions[:2]:
        ...     print(action.label, round(action.start_s))
        spin right 1
        orbit 19
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        *,
        threads: int | None = None,
        class_scores: ClassScores | None = None,
        hardware: Hardware = SOFTWARE,
    ) -> None:
        self.bundle = bundle
        """The model."""
        self.runtime = runtime
        """What runs it."""
        self.hardware = hardware
        """What decodes videos, besides the processor."""
        self._threads = threads
        self._class_scores = class_scores

    @staticmethod
    def load(
        bundle: str | Path | Bundle | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: RunPrecision | None = None,
        class_scores: ClassScores | None = None,
        hwaccel: Hwaccel = "none",
    ) -> Detector:
        """Load a model.

        Args:
            bundle: A folder, a .zip, the name of a bundled model, or a loaded bundle; None is the default model.
            device: `auto` takes CUDA where it works, else what was measured to be the fastest on this processor;
                `tensorrt` runs engines that were built before, `onnx-tensorrt` builds them while loading.
            threads: Threads of the model and of the video codec, each; None takes one per core.
            precision: Of the encoder, for `auto`, `openvino` and its other devices; None takes bfloat16 only where the
                processor has it and the bundle's parity report says that actions stay the same.
            class_scores: What videos show, by the names of their files, for models that see whole videos; None lets the
                model say it.
            hwaccel: What decodes videos: `none` for the processor; `auto` for a device where one opens and takes the
                video; `cuda` and others for a device that must take every video. `Result.video.hwaccel` says which.

        Raises:
            BundleError: The bundle is missing, damaged or of another version.
            DeviceError: The device, precision or hardware decoder was asked for and cannot be had.
            EngineError: There is no TensorRT engine for this GPU, or one is damaged.
            ValueError: `device` or `threads` is not one of those.
        """
        hardware = choose_hardware(hwaccel)
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        runtime = load_runtime(loaded, device=device, threads=threads, precision=precision)
        return Detector(loaded, runtime, threads=threads, class_scores=class_scores, hardware=hardware)

    @property
    def device(self) -> str:
        """Where the model runs: `cpu` or `cuda`."""
        return self.runtime.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the actions that the model knows."""
        return self.bundle.recipe.classes

    def detect(  # noqa: PLR0913 (all but the video are options)
        self,
        video: VideoInput,
        *,
        fps: float | None = None,
        windows: Windows | float = "shared",
        rates: Sequence[float] | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        classes: Sequence[str] | None = None,
        video_stream: int | None = None,
        operating_point: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Find the actions of a video.

        Args:
            video: A path, `-` for standard input, or an http(s) address; a binary file object; an array of uint8 RGB
                pictures, shape (T, H, W, 3); or an iterator of pictures (H, W, 3), or of pairs (seconds, picture).
            fps: Frames per second of an array, or of pictures without times.
            windows: `shared` encodes every clip once; `reference` lays windows, and gives whole videos their classes,
                as the official code does. A number, for models that see whole videos: seconds of one window, for long
                files that hold several classes; windows overlap.
            rates: Frames per second at which actions are looked for, such as (15, 5, 1.67): the recipe's own, and that
                over whole numbers. Lower ones find longer actions, on averaged features; nothing is decoded or encoded
                again. None: the recipe's own only.
            threshold: Least score of an action, in [0, 1]; None keeps all that the recipe, or the point, keeps.
            top_k: Most actions, best first; None keeps all.
            classes: Names of actions to keep, or groups such as `@sports`; None keeps all.
            video_stream: Which of the file's video streams, from 0; None takes the main one.
            operating_point: One that the model was calibrated for, with scores that say how likely an action is right;
                `all` for every action with such scores; `none` for every action with the model's own. None takes the
                model's default (of a model that was never calibrated: `none`), or `all` if there is a threshold.
            on_progress: Called after every clip.

        Returns:
            The actions, sorted by start, and how they were found.

        Raises:
            MediaError: The video cannot be opened, or nothing in it can be decoded.
            ConfigError: A class or point is unknown to the model, or a threshold, window or rate out of range or not
                for it.
            AnnotationError: There are class scores, but none of this video.
            TypeError: `video` is something else, or an array without `fps`.
            ValueError: Pictures of another shape or type, or times that do not rise.
        """
        source = given_video(video, fps=fps)
        choices = self._choices(windows, rates, threshold, top_k, classes, operating_point)
        scores = self._scores_of(source)
        run = VideoRun(self.bundle, self.runtime, choices, scores=scores, on_progress=on_progress)
        opened = self._open(source, choices, video_stream, is_hashed=True)
        with opened as stream, closing(run.read(stream)) as clips_done:
            for _ in clips_done:
                pass
            found, sha256 = run.candidates(run.facts(stream)), stream.sha256
            timings = run.timings(stream.decode_s)
        return conclude(found, self.bundle, choices, scores=scores, sha256=sha256, timings=timings)

    def detect_many(
        self,
        videos: Iterable[VideoInput],
        *,
        on_error: Callable[[VideoInput, TallformerError], None] | None = None,
        **options: Any,
    ) -> Iterator[Result]:
        """Find the actions of several videos, one after another, each as it is done.

        For thousands of videos, with several processes and results on the disk, there is `tallformer label`.

            for result in detector.detect_many(Path("videos").glob("*.mp4"), threshold=0.5):
                result.save(f"{result.video.path}.json")

        Args:
            videos: As `detect` takes them.
            on_error: Called with a video that failed and the reason, after which the next one follows; None raises it.
            options: Those of `detect`.

        Raises:
            TypeError: `videos` is a single video.
            TallformerError: A video failed, and there is no `on_error`.
        """
        if isinstance(videos, (str, bytes)) or hasattr(videos, "read") or hasattr(videos, "__fspath__"):
            raise TypeError(f"videos: got one {type(videos).__name__}; expected several, or call detect")
        for video in videos:
            try:
                yield self.detect(video, **options)
            except TallformerError as error:
                if on_error is None:
                    raise
                on_error(video, error)

    def stream(  # noqa: PLR0913 (all but the video are options)
        self,
        video: VideoInput,
        *,
        fps: float | None = None,
        windows: Windows | float = "shared",
        rates: Sequence[float] | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
        video_stream: int | None = None,
        operating_point: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Iterator[Action]:
        """Find the actions of a video and yield each as soon as no later window can change it.

        The actions are those of `detect`, but for the recipe's limits per video, of actions and of candidates: they
        cannot be known before the end, and are applied to what becomes final together. An action is final, at the
        earliest, when the window that holds it is (of several rates, that of the lowest: at a ninth of the recipe's, a
        window lasts nine times as long); it waits as long as a chain of overlapping candidates goes on.

        Args, Raises: As `detect`.
        """
        source = given_video(video, fps=fps)
        choices = self._choices(windows, rates, threshold, None, classes, operating_point)
        scores = self._scores_of(source)
        run = VideoRun(self.bundle, self.runtime, choices, scores=scores, on_progress=on_progress)
        with self._open(source, choices, video_stream) as stream, closing(run.read(stream)) as clips_done:
            for _ in clips_done:
                if (settled := run.settled(stream)) is not None:
                    yield from find_actions(settled, self.bundle, choices)
            yield from find_actions(run.candidates(run.facts(stream)), self.bundle, choices, scores)

    def follow(
        self,
        video: VideoInput,
        *,
        fps: float | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
        operating_point: str | None = None,
    ) -> Iterator[StreamStep]:
        """Find the actions of a video and yield, after every clip, what is final and what would be found by now.

        Final actions are those of `stream`. For the others the localizer runs once more per clip, on the window as far
        as it is filled; no clip is encoded twice.

        Args: As `detect`.

        Raises:
            ConfigError: As `detect`, or the model sees whole videos, of which nothing is known before their end.
        """
        if self.bundle.recipe.sampling.most_frames is not None:
            raise ConfigError(f"model {self.bundle.name}: sees whole videos; call detect")
        choices = self._choices("shared", None, threshold, None, classes, operating_point)
        run = VideoRun(self.bundle, self.runtime, choices)
        opened = self._open(given_video(video, fps=fps), choices, None)
        with opened as stream, closing(run.read(stream)) as clips_done:
            for _ in clips_done:
                settled = run.settled(stream)
                yield StreamStep(
                    () if settled is None else find_actions(settled, self.bundle, choices),
                    find_actions(run.provisional(stream), self.bundle, choices),
                )
            yield StreamStep(find_actions(run.candidates(run.facts(stream)), self.bundle, choices), ())

    def features(
        self, video: VideoInput, *, fps: float | None = None, video_stream: int | None = None
    ) -> VideoFeatures:
        """Features of a whole video, as the localizer sees them, in memory: 4 KB per step of 1024 channels.

        Args, Raises: As `detect`.
        """
        recipe, given = self.bundle.recipe, given_video(video, fps=fps)
        encoder = ClipEncoder(self.runtime, recipe)
        stride = recipe.model.encoder_stride
        opened = open_video(
            given, recipe.sampling, threads=self._threads, video_stream=video_stream, hardware=self.hardware
        )
        with opened as stream:
            clips = encoder.encode(cut_clips(stream, recipe.window, "shared"))
            steps = np.concatenate([clip.features[:, : -(-clip.real_frames // stride)] for clip in clips], axis=1).T
            centres_s = (np.arange(len(steps), dtype=np.float64) + 0.5) * stride / stream.sample_fps
            return VideoFeatures(
                features=np.ascontiguousarray(steps),
                times_s=stream.info.start_s + centres_s,
                stride_frames=stride,
                sample_fps=stream.sample_fps,
                frame_count=stream.frame_count,
                video=stream.info,
            )

    def _choices(
        self,
        windows: Windows | float,
        rates: Sequence[float] | None,
        threshold: float | None,
        top_k: int | None,
        classes: Sequence[str] | None,
        operating_point: str | None,
    ) -> Choices:
        """What is asked for, checked against the model."""
        recipe = self.bundle.recipe
        selection = choose_selection(
            self.bundle, threshold=threshold, top_k=top_k, classes=classes, operating_point=operating_point
        )
        laid, span_s = choose_windows(recipe, windows)
        return Choices(
            layout=choose_layout(recipe, laid, rates),
            selection=selection,
            span_s=span_s,
            class_source=None if self._class_scores is None else self._class_scores.source,
        )

    def _scores_of(self, video: GivenVideo) -> Mapping[str, float] | None:
        """What a video shows, by the name of its file, where a file says it."""
        return None if self._class_scores is None else self._class_scores.of(Path(name_of(video)).stem)

    def _open(
        self, video: GivenVideo, choices: Choices, video_stream: int | None, *, is_hashed: bool = False
    ) -> FrameStream:
        return open_video(
            video,
            self.bundle.recipe.sampling,
            threads=self._threads,
            span_s=choices.span_s,
            video_stream=video_stream,
            is_hashed=is_hashed,
            hardware=self.hardware,
        )
