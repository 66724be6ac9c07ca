"""The Python API: `Detector`, a model on a device that finds actions in videos."""

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
from tallformer_infer.pipeline.video_run import Choices, OnProgress, VideoRun, conclude, find_actions
from tallformer_infer.runtime import Device, RunPrecision, Runtime, load_runtime
from tallformer_infer.structures import Action, Result, VideoInfo, Windows
from tallformer_infer.timeline import cut_clips


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """Encoder features of a video."""

    features: NDArray[np.float32]
    """Shape (T, C): a row per feature step."""
    times_s: NDArray[np.float64]
    """Centre of each step on the file's own timeline, in seconds, shape (T,)."""
    stride_frames: int
    """Sampled frames per step."""
    sample_fps: float
    """Sampling rate, in frames per second."""
    frame_count: int
    """Number of sampled frames."""
    video: VideoInfo
    """Description of the video."""


@dataclass(frozen=True)
class StreamStep:
    """Actions after one more clip of a stream."""

    final: tuple[Action, ...]
    """New actions that no later clip can change; each is returned once."""
    provisional: tuple[Action, ...]
    """All other actions that would be found if the video ended here. Later clips may change or remove them."""


class Detector:
    """Finds actions in videos with one model on one device. Not thread-safe.

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
        """Runs the model."""
        self.hardware = hardware
        """Hardware decoder for videos."""
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
            device: `auto` uses CUDA if it works, otherwise the runtime measured to be fastest on this CPU; `tensorrt`
                runs prebuilt engines, `onnx-tensorrt` builds them while loading.
            threads: Threads for the model and for the video codec, each; None uses one per core.
            precision: Precision of the encoder, for `auto`, `openvino` and its other devices; None uses bfloat16 only
                if the CPU supports it and the bundle's parity report confirms that actions do not change.
            class_scores: Video-level class scores by file name, for models that process whole videos; None uses those
                of the model.
            hwaccel: Video decoder: `none` for the CPU; `auto` for a hardware decoder if one is available and supports
                the video; `cuda` and others require that device for every video. See `Result.video.hwaccel`.

        Raises:
            BundleError: The bundle is missing, damaged or of another version.
            DeviceError: The requested device, precision or hardware decoder is not available.
            EngineError: There is no TensorRT engine for this GPU, or it is damaged.
            ValueError: `device` or `threads` is out of range.
        """
        hardware = choose_hardware(hwaccel)
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        runtime = load_runtime(loaded, device=device, threads=threads, precision=precision)
        return Detector(loaded, runtime, threads=threads, class_scores=class_scores, hardware=hardware)

    @property
    def device(self) -> str:
        """Device of the model: `cpu` or `cuda`."""
        return self.runtime.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model."""
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
            windows: `shared` encodes every clip once; `reference` places windows, and classifies whole videos, as the
                official code does. For models that process whole videos, a number sets the length of overlapping
                windows in seconds, for long files with several classes.
            rates: Frame rates at which the localizer runs, such as (15, 5, 1.67): the recipe's own, and that divided by
                whole numbers. Lower rates find longer actions, on averaged features, without decoding or encoding
                again. None: only the recipe's own.
            threshold: Minimum score of an action, in [0, 1]; None keeps all that the recipe, or operating point, keeps.
            top_k: Maximum number of actions, highest scores first; None keeps all.
            classes: Names of actions to keep, or groups such as `@sports`; None keeps all.
            video_stream: Index of the video stream, from 0; None selects the main one.
            operating_point: A calibrated operating point, with scores that are probabilities of being correct; `all`
                for all actions with calibrated scores; `none` for all actions with the model's own scores. None uses
                the model's default (`none` without calibration), or `all` if there is a threshold.
            on_progress: Called after every clip.

        Returns:
            The actions, sorted by start, and how they were found.

        Raises:
            MediaError: The video cannot be opened, or no frame of it can be decoded.
            ConfigError: The model has no such class or operating point, or a threshold, window or rate is out of range
                or not supported by the model.
            AnnotationError: Class scores are given, but not for this video.
            TypeError: `video` is not a `VideoInput`, or is an array without `fps`.
            ValueError: Pictures have another shape or type, or their times do not increase.
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
        """Find the actions of several videos; yield each result when it is done.

        For thousands of videos, with several processes and results on disk, use `tallformer label`.

            for result in detector.detect_many(Path("videos").glob("*.mp4"), threshold=0.5):
                result.save(f"{result.video.path}.json")

        Args:
            videos: Videos, as in `detect`.
            on_error: Called with a failed video and its error, then the next video follows; None raises the error.
            options: Options of `detect`.

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

        The actions are those of `detect`, except for the recipe's limits on actions and candidates per video, which are
        applied to each group of actions that becomes final together. An action is final at the earliest when its window
        is complete (with several rates, that of the lowest: at a ninth of the recipe's rate, a window lasts nine times
        as long), and not before a chain of overlapping candidates has ended.

        Args, Raises: See `detect`.
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
        """Find the actions of a video and yield final and provisional actions after every clip.

        Final actions are those of `stream`. For provisional ones the localizer runs once more per clip, on the
        partially filled window; no clip is encoded twice.

        Args: See `detect`.

        Raises:
            ConfigError: See `detect`; also, the model processes whole videos and gives no results before their end.
        """
        if self.bundle.recipe.sampling.most_frames is not None:
            raise ConfigError(f"model {self.bundle.name}: processes whole videos; call detect")
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

        Args, Raises: See `detect`.
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
        """Options of a run, checked against the model."""
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
        """Video-level class scores of a video by its file name; None if no class scores were given."""
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
