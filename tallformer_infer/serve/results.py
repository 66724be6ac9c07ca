"""What clients get of a finished job: its actions in a format, and the review of them, which is kept per result."""

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
    """The actions that a job's options pick, under the name that the client gave, and what decided which.

    Args:
        result: Every action of its video, with the model's own scores.
        job: Its options say which actions are wanted.
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
    """The result of a job in a format, and its media type.

    Args:
        picked: As `picked_result` gives it.
        selection: Likewise.
        job: The job.
        bundle: The model.
        form: What is wanted.

    Raises:
        ExtraError: A library that the format needs is not installed.
        OutputError: The format cannot hold the actions.
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
    """Hash of a result, as the page of it has it."""
    return result_key([page_video(labelled_video(picked), source="video")])


def encode_truth(review: Review, picked: Result) -> bytes:
    """What a review accepted, in the ActivityNet form."""
    return encode_labels([accepted_segments(review, labelled_video(picked))], "truth")


_MOST_ACTIONS = 100_000


class ReviewedAction(BaseModel):
    """An action about which something was decided."""

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
    """What was decided about a video."""

    name: str = Field(max_length=1000)
    actions: list[ReviewedAction] = Field(max_length=_MOST_ACTIONS)


class Review(BaseModel):
    """What was decided about a result: one video, or none before the first decision."""

    version: Literal[1] = 1
    result: str = Field(pattern=r"^[0-9a-f]{32}$", description="Hash of the result, from the page or from GET.")
    videos: list[ReviewedVideo] = Field(max_length=1)


class ChangedMeanwhileError(Exception):
    """The review is not the one that the client has seen."""


class ReviewStore:
    """The reviews of a server. May be used from several threads."""

    def __init__(self, folder: Path) -> None:
        """Reviews are files of `folder`, which is made with the first."""
        self._folder = folder
        self._lock = threading.Lock()

    def load(self, job_id: str, result: str) -> tuple[Review, str]:
        """The review of a result, and the tag of this state of it."""
        path = self._path(job_id, result)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return Review(result=result, videos=[]), _tag(b"")
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from error
        return Review.model_validate_json(content), _tag(content)

    def save(self, job_id: str, review: Review, *, seen: str | None) -> str:
        """Replace the review of a result; it is on the disk afterwards.

        Args:
            job_id: A job that there is.
            review: Of its result.
            seen: Tag of the state that the client has seen; None replaces any.

        Returns:
            The new tag.

        Raises:
            ArchiveError: It cannot be written.
            ChangedMeanwhileError: There is another state.
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
        """Forget the reviews of a job."""
        for path in self._folder.glob(f"{job_id}.*.json"):
            path.unlink(missing_ok=True)

    def _path(self, job_id: str, result: str) -> Path:
        return self._folder / f"{job_id}.{result}.json"


def accepted_segments(review: Review, video: LabelledVideo) -> LabelledVideo:
    """A video with what a review accepted in place of what was found."""
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
