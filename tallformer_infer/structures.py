"""Types that the stages pass to one another, and results for the user."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Windows = Literal["shared", "reference"]


@dataclass(frozen=True)
class Layout:
    """Layout of a video for the localizer."""

    windows: Windows = "shared"
    """Where windows start."""
    factors: tuple[int, ...] = (1,)
    """Feature steps averaged into one, per rate at which the localizer runs; increasing, without duplicates."""


@dataclass(frozen=True)
class Candidates:
    """Segments with class and score, before suppression; one row each, in a stable order."""

    segments_frames: NDArray[np.float32]
    """Half-open segments (start, end) in frames of the whole video, shape (N, 2)."""
    scores: NDArray[np.float32]
    """Scores in [0, 1], shape (N,)."""
    classes: NDArray[np.int64]
    """Class indices, shape (N,)."""

    def __post_init__(self) -> None:
        rows = len(self.scores)
        if self.segments_frames.shape != (rows, 2) or self.scores.shape != (rows,) or self.classes.shape != (rows,):
            raise ValueError(
                f"expected segments (N, 2), scores (N,) and classes (N,), got {self.segments_frames.shape = }, "
                f"{self.scores.shape = }, {self.classes.shape = }"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """The candidates at `rows` (indices or a mask), in that order."""
        return Candidates(self.segments_frames[rows], self.scores[rows], self.classes[rows])

    @staticmethod
    def concatenate(parts: list[Candidates]) -> Candidates:
        """Concatenate parts; no parts give no candidates."""
        if not parts:
            return Candidates(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return Candidates(
            np.concatenate([part.segments_frames for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.classes for part in parts]),
        )


@dataclass(frozen=True)
class Proposals:
    """Segments of one window that may contain an action, one row each, and class scores of the window."""

    segments_frames: NDArray[np.float32]
    """Half-open segments (start, end) in frames of the whole video, shape (A, 2)."""
    scores: NDArray[np.float32]
    """Confidence that a segment contains an action, in [0, 1], shape (A,)."""
    class_scores: NDArray[np.float32]
    """Confidence per class of the window: background, then the classes; they add up to 1, shape (1 + K,)."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action found in a video.

    Examples:
        >>> action = Action(start_s=3.2, end_s=7.1, label="spin left", score=0.91)
        >>> f"{action.label}, {action.end_s - action.start_s:.1f} s"
        'spin left, 3.9 s'
    """

    start_s: float
    """Start on the file's own timeline, in seconds."""
    end_s: float
    """End (exclusive) on the file's own timeline, in seconds; up to the end of the last frame, see `duration_s` of
    `Result`."""
    label: str
    """Name of the action."""
    score: float
    """Confidence in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Properties of a video file."""

    path: str
    """Path or address as given by the user."""
    width_px: int
    """Width of the picture as shown, rotation applied."""
    height_px: int
    """Height of the picture as shown, rotation applied."""
    codec: str
    """Name of the video codec."""
    source_fps: float | None
    """Average frame rate of the file; None if not stated."""
    start_s: float
    """Presentation time of the first frame, in seconds."""
    duration_s: float | None
    """Duration from the first frame as stated in the file, in seconds: that of the video stream if known, else that of
    the longest stream; None if not stated."""
    rotation_deg: int = 0
    """Clockwise rotation that was applied: 0, 90, 180 or 270."""
    stream: int = 0
    """Index of the video stream, from 0; cover images do not count."""
    streams: int = 1
    """Number of video streams, without cover images."""
    is_generated: bool = False
    """Whether the file is marked as a generated video (`tallformer_training.synthetic`)."""
    hwaccel: str | None = None
    """Kind of device that decoded it, such as `cuda`; None: the CPU."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Wall time per stage. Stages overlap, so their sum may exceed `total_s`."""

    decode_s: float
    """Reading, decoding and resizing."""
    encode_s: float
    """Clips to feature steps."""
    localize_s: float
    """Windows to candidates."""
    suppress_s: float
    """Candidates to actions."""
    total_s: float
    """From opening the file to the last action."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything needed to reproduce a result."""

    tool_version: str
    """Version of tallformer."""
    model_name: str
    """Name of the model."""
    model_trained: bool
    """False if the weights are random and the actions are meaningless."""
    bundle_sha256: str
    """SHA-256 of `bundle.json`, which contains the hashes of the graphs."""
    recipe_name: str
    """Name of the recipe."""
    runtime: str
    """Name and version of the runtime."""
    device: str
    """`cpu`, `cuda`, or Intel's `gpu` or `npu`."""
    precision: str
    """Precision of the encoder: `fp32`, `fp16`, `bf16`, `int8` or `int8-static`."""
    windows: Windows
    """Window layout."""
    window_s: float | None = None
    """Length of a window in seconds, if a model that processes whole videos was run on windows."""
    class_scores: str | None = None
    """File of class scores that replaced the model's classifier."""
    intended_use: str | None = None
    """Intended use and limits of the model, as stated in its bundle."""
    rates: tuple[float, ...] | None = None
    """Rates at which the localizer ran, in frames per second, decreasing; None: only the recipe's own."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Criteria that decided which actions were kept; None: not used."""

    threshold: float | None = None
    """Minimum score, in [0, 1]."""
    top_k: int | None = None
    """Maximum number of actions per video."""
    classes: tuple[str, ...] | None = None
    """Classes kept."""
    operating_point: str | None = None
    """Operating point, or `all`, with calibrated scores; None: uncalibrated scores."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The actions of one video, with provenance and timings.

    Examples:
        >>> from tallformer_infer import Detector
        >>> result = Detector.load("demo", device="cpu").detect("docs/example/example.mp4", top_k=2)
        >>> result
        Result(video='docs/example/example.mp4', duration_s=45.0, model='demo', actions=2)
            18.98 -    22.97 s  0.99...  orbit
            28.36 -    31.28 s  ...  bounce
        >>> result.actions[0].label
        'orbit'
        >>> result.save("actions.json")  # doctest: +SKIP
    """

    video: VideoInfo
    """The file."""
    actions: tuple[Action, ...]
    """Sorted by start, then end, then decreasing score."""
    sample_fps: float
    """Rate at which frames were sampled, in frames per second."""
    frame_count: int
    """Number of sampled frames."""
    duration_s: float
    """Decoded length in seconds, `frame_count / sample_fps`: rounded to whole frames, half a frame up, and at least
    one frame. It, and the end of an action, may therefore exceed the end of the file by half a frame."""
    decode_errors: int
    """Damaged or skipped places: packets that could not be read or decoded, pictures that the decoder concealed,
    implausible timestamps, and a missing end."""
    missing_s: float = 0.0
    """Video missing at the end, compared with the header, in seconds; 0 if nothing is known to be missing."""
    notes: tuple[str, ...] = ()
    """Remarks on the video, one line each: jumps in its timestamps, colours that are not supported."""
    video_sha256: str | None
    """SHA-256 of the file; None if it is not a regular file."""
    timings: StageSeconds
    """Wall time per stage."""
    provenance: Provenance
    """Model, device and version."""
    selection: Selection = Selection()
    """Criteria for the actions that were kept."""

    def to_json(self) -> str:
        """The content of `actions.json` for this video."""
        from tallformer_infer.results import result_json

        return result_json(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, atomically.

        `tallformer convert` turns it into subtitles, spreadsheets and the labels of other tools.

        Args:
            path: Ends in .json. Missing folders are created.

        Raises:
            OutputError: It has another ending, or cannot be written.
        """
        from tallformer_infer.results import save_result

        save_result(self, path)

    def __repr__(self) -> str:
        """The video, and one line for each of the first actions."""
        from tallformer_infer.results import result_text

        return result_text(self)

    def _repr_html_(self) -> str:
        """A table and a timeline, for notebooks."""
        from tallformer_infer.results import result_html

        return result_html(self)
