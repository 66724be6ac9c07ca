"""Reviews: what people decided about the actions of a job, kept as a file per result, and given as truth."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from tallformer_infer.errors import ArchiveError
from tallformer_infer.files import write_whole
from tallformer_infer.labels import LabelledVideo, Segment

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
