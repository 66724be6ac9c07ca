"""What the stages hand to one another and to the user."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Windows = Literal["shared", "reference"]


@dataclass(frozen=True)
class Layout:
    """How a video is laid out for the localizer."""

    windows: Windows = "shared"
    """Where windows begin."""
    factors: tuple[int, ...] = (1,)
    """Feature steps that are averaged into one, for each rate at which the localizer runs; rising, each once."""


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
        """All parts one after another; no parts give no candidates."""
        if not parts:
            return Candidates(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return Candidates(
            np.concatenate([part.segments_frames for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.classes for part in parts]),
        )


@dataclass(frozen=True)
class Proposals:
    """Segments of one window that may hold an action, and what the window shows; one row per segment."""

    segments_frames: NDArray[np.float32]
    """Half-open segments (start, end) in frames of the whole video, shape (A, 2)."""
    scores: NDArray[np.float32]
    """How sure it is that a segment holds an action, in [0, 1], shape (A,)."""
    class_scores: NDArray[np.float32]
    """How sure it is what the window shows: background, then the classes, adding up to 1, shape (1 + K,)."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action found in a video.

    >>> action = Action(start_s=3.2, end_s=7.1, label="spin left", score=0.91)
    >>> f"{action.label}, {action.end_s - action.start_s:.1f} s"
    'spin left, 3.9 s'
    """

    start_s: float
    """Start on the file's own time line, in seconds."""
    end_s: float
    """End (exclusive) on the file's own time line, in seconds; up to the end of the last frame, see `duration_s` of
    `Result`."""
    label: str
    """Name of the action."""
    score: float
    """Confidence in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What was read from a video file."""

    path: str
    """As the user gave it."""
    width_px: int
    """Width of the picture as shown, rotation applied."""
    height_px: int
    """Height of the picture as shown, rotation applied."""
    codec: str
    """Name of the video codec."""
    source_fps: float | None
    """Average frame rate of the file, where it says."""
    start_s: float
    """Presentation time of the first frame, in seconds."""
    duration_s: float | None
    """Length from the first frame on as the file tells it before it is decoded, in seconds: that of the video stream
    where it is known, else that of the longest stream; None where the file tells none."""
    rotation_deg: int = 0
    """Clockwise rotation that was applied: 0, 90, 180 or 270."""
    stream: int = 0
    """Which of the file's video streams was read, from 0; cover images do not count."""
    streams: int = 1
    """Video streams of the file, cover images left out."""
    is_generated: bool = False
    """Whether the file says that it is a generated video (`tallformer_training.synthetic`)."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Wall time per stage. Stages overlap, so they may add up to more than `total_s`."""

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
    """How a result came about: enough to repeat it."""

    tool_version: str
    """Version of tallformer."""
    model_name: str
    """Name in the bundle."""
    model_trained: bool
    """False where the weights are random and the actions mean nothing."""
    bundle_sha256: str
    """Hash of the bundle's `bundle.json`, which holds the hashes of its graphs."""
    recipe_name: str
    """Name of the recipe."""
    runtime: str
    """Name and version of what ran the graphs."""
    device: str
    """`cpu` or `cuda`; of Intel `gpu` or `npu`."""
    precision: str
    """What the encoder computed in: `fp32`, `fp16`, `bf16`, `int8` or `int8-static`."""
    windows: Windows
    """How windows were laid."""
    window_s: float | None = None
    """Seconds of a window, where a model that sees whole videos was given windows."""
    class_scores: str | None = None
    """File that told what the videos show, instead of the model."""
    intended_use: str | None = None
    """What the model is for and what it cannot know, where its bundle says so."""
    rates: tuple[float, ...] | None = None
    """Rates at which the localizer ran, in frames per second, falling; None: at the recipe's own only."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What decided which actions were kept; None where one was not used."""

    threshold: float | None = None
    """Lowest score kept, in [0, 1]."""
    top_k: int | None = None
    """Most actions kept per video."""
    classes: tuple[str, ...] | None = None
    """Names of the actions kept."""
    operating_point: str | None = None
    """Point of the model, or `all`, and scores are calibrated; None: the model's own scores."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The actions of one video, and how they were found.

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
    """Sorted by start, then end, then falling score."""
    sample_fps: float
    """Rate at which frames were taken, in frames per second."""
    frame_count: int
    """Frames taken."""
    duration_s: float
    """Length of what was decoded, in seconds, as `frame_count / sample_fps`: rounded to whole frames, half a frame up,
    and at least one frame. So it, and the end of an action, may lie past the end of the file by half a frame."""
    decode_errors: int
    """Places that are damaged or left out: packets that could not be read or decoded, pictures that the decoder had to
    patch, times too far off to be true, and an end that is missing."""
    missing_s: float = 0.0
    """What the header promises and the file does not hold at its end, in seconds; 0 where nothing is known to miss."""
    notes: tuple[str, ...] = ()
    """What else there is to know of the video, one line each: jumps in its times, colours that are not supported."""
    video_sha256: str | None
    """Hash of the file; None for what is not a regular file."""
    timings: StageSeconds
    """Wall time per stage."""
    provenance: Provenance
    """Model, device and version."""
    selection: Selection = Selection()
    """Which actions were kept."""

    def to_json(self) -> str:
        """The document `actions.json` of this video, as text."""
        from tallformer_infer.results import result_json

        return result_json(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all.

        `tallformer convert` turns it into subtitles, spreadsheets and the labels of other tools.

        Args:
            path: Ends in .json. Missing folders are created.

        Raises:
            OutputError: It has another ending, or cannot be written.
        """
        from tallformer_infer.results import save_result

        save_result(self, path)

    def __repr__(self) -> str:
        """The video, and the first actions in a line each."""
        from tallformer_infer.results import result_text

        return result_text(self)

    def _repr_html_(self) -> str:
        """A table and a time line, for notebooks."""
        from tallformer_infer.results import result_html

        return result_html(self)
