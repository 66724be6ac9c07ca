"""Results of finished jobs: actions in any format, and their reviews, which are stored per result."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, WithJsonSchema, model_validator

from tallformer_infer.bundle import Bundle
from tallformer_infer.errors import ArchiveError
from tallformer_infer.files import write_whole
from tallformer_infer.labels import FORMATS, LabelledVideo, Segment, encode_labels, labelled_video, require_libraries
from tallformer_infer.pipeline import at_point, choose_selection
from tallformer_infer.report import RESULT_FORMATS, page_video, result_key, result_page
from tallformer_infer.results import Selection, actions_document, encode_document, select_actions
from tallformer_infer.serve.jobs import Job
from tallformer_infer.structures import Result


def _format_named(name: str) -> str:
    if name not in RESULT_FORMATS:
        raise ValueError(f"no such format; there are {', '.join(RESULT_FORMATS)}")
    return name


ResultFormat = Annotated[
    str, AfterValidator(_format_named), WithJsonSchema({"type": "string", "enum": list(RESULT_FORMATS)})
]
"""One of `RESULT_FORMATS`."""

_MEDIA_TYPES = {
    ".json": "application/json",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".vtt": "text/vtt",
    ".jsonl": "application/jsonl",
    ".eaf": "application/xml",
}


def picked_result(result: Result, job: Job, bundle: Bundle) -> tuple[Result, Selection]:
    """Filter a result by a job's options, and give it the client's name of the video; also return the selection.

    Args:
        result: All actions of the video, with the model's own scores.
        job: Job whose options filter actions.
        bundle: The model.
    """
    selection = choose_selection(bundle, **dataclasses.asdict(job.options))
    actions = select_actions(
        at_point(result.actions, bundle, selection.operating_point),
        threshold=selection.threshold,
        top_k=selection.top_k,
        classes=selection.classes,
    )
    return dataclasses.replace(
        result, actions=actions, video=dataclasses.replace(result.video, path=job.name)
    ), selection


def encode_result(
    picked: Result, selection: Selection, job: Job, bundle: Bundle, form: ResultFormat
) -> tuple[bytes, str]:
    """Encode the result of a job; return the content and its media type.

    Args:
        picked: Result from `picked_result`.
        selection: Selection from `picked_result`.
        job: The job.
        bundle: The model.
        form: Format of the content.

    Raises:
        ExtraError: A library that the format needs is not installed.
        OutputError: The format cannot represent the actions.
    """
    if form == "json":
        return encode_document(actions_document([picked], selection=selection)), "application/json"
    if form == "html":
        page = result_page(
            [picked],
            selection=selection,
            sources=["video"],  # beside the page: /v1/jobs/ID/video, and /v1/jobs/ID/review
            review="review",
            when=None if job.finished_at is None else datetime.fromisoformat(job.finished_at),
            classes=bundle.recipe.classes,
        )
        return page, "text/html; charset=utf-8"
    require_libraries(form)
    named = dataclasses.replace(labelled_video(picked), is_elsewhere=True)  # the client's name, not one of this machine
    return encode_labels([named], form, folder=None), _MEDIA_TYPES.get(FORMATS[form].suffix, "text/plain")


def review_key(picked: Result) -> str:
    """Hash of a result, as used on its page."""
    return result_key([page_video(labelled_video(picked), source="video")])


def encode_truth(review: Review, picked: Result) -> bytes:
    """Actions accepted in a review, in the ActivityNet form."""
    return encode_labels([accepted_segments(review, labelled_video(picked))], "truth")


_MOST_ACTIONS = 100_000


class ReviewedAction(BaseModel):
    """An action with a decision."""

    found: int | None = Field(ge=0, description="Row of the result, in order of time; null: it was added.")
    segment: tuple[FiniteFloat, FiniteFloat] = Field(description="Start and end in seconds, as corrected.")
    label: str = Field(min_length=1, max_length=1000)
    score: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="Of the model.")
    verdict: Literal["accepted", "rejected"]

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.segment[1] < self.segment[0]:
            raise ValueError(f"segment: ends at {self.segment[1]:g} s, before it starts at {self.segment[0]:g} s")
        return self


class ReviewedVideo(BaseModel):
    """Decisions about a video."""

    name: str = Field(max_length=1000)
    actions: list[ReviewedAction] = Field(max_length=_MOST_ACTIONS)


class Review(BaseModel):
    """Decisions about a result: one video, or none before the first decision."""

    version: Literal[1] = 1
    result: str = Field(pattern=r"^[0-9a-f]{32}$", description="Hash of the result, from the page or from GET.")
    videos: list[ReviewedVideo] = Field(max_length=1)


class ChangedMeanwhileError(Exception):
    """The review was changed since the client loaded it."""


class ReviewStore:
    """The reviews of a server. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Store reviews as files in `folder`, which is created with the first."""
        self._folder = folder
        self._lock = threading.Lock()

    def load(self, job_id: str, result: str) -> tuple[Review, str]:
        """The review of a result, and the tag of its current state."""
        path = self._path(job_id, result)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return Review(result=result, videos=[]), _tag(b"")
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from error
        return Review.model_validate_json(content), _tag(content)

    def save(self, job_id: str, review: Review, *, seen: str | None) -> str:
        """Replace the review of a result; it is on disk afterwards.

        Args:
            job_id: An existing job.
            review: Review of its result.
            seen: Tag of the state that the client has loaded; None replaces any state.

        Returns:
            The new tag.

        Raises:
            ArchiveError: The review cannot be written.
            ChangedMeanwhileError: The current state has another tag.
        """
        content = review.model_dump_json(indent=1).encode()
        path = self._path(job_id, review.result)
        with self._lock:
            if seen is not None and seen != self.load(job_id, review.result)[1]:
                raise ChangedMeanwhileError
            try:
                path.parent.mkdir(exist_ok=True)
                write_whole(path, content)
            except OSError as error:
                raise ArchiveError(f"{path}: cannot be written: {error.strerror or error}") from error
        return _tag(content)

    def remove(self, job_id: str) -> None:
        """Delete the reviews of a job."""
        for path in self._folder.glob(f"{job_id}.*.json"):
            path.unlink(missing_ok=True)

    def _path(self, job_id: str, result: str) -> Path:
        return self._folder / f"{job_id}.{result}.json"


def accepted_segments(review: Review, video: LabelledVideo) -> LabelledVideo:
    """Replace the predicted segments of a video by those accepted in a review."""
    segments = (
        Segment(start_s=action.segment[0], end_s=action.segment[1], label=action.label)
        for reviewed in review.videos
        for action in reviewed.actions
        if action.verdict == "accepted"
    )
    return LabelledVideo(
        name=video.name,
        segments=tuple(segments),
        duration_s=video.duration_s,
        start_s=video.start_s,
        fps=video.fps,
    )


def _tag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'
