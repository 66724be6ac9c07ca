"""What a client gets: the actions that its options pick, in the format that it asks for."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from tallformer_infer.bundle import Bundle
from tallformer_infer.labels import FORMATS, encode_labels, labelled_video, require_libraries
from tallformer_infer.pipeline import at_point, choose_point
from tallformer_infer.report.content import result_key
from tallformer_infer.report.results import RESULT_FORMATS, page_video, result_page
from tallformer_infer.results import Selection, actions_document, encode_document, select_actions
from tallformer_infer.serve.jobs import Job
from tallformer_infer.serve.reviews import Review, accepted_segments
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
    options = job.options
    point = choose_point(bundle, options.operating_point, threshold=options.threshold, classes=options.classes)
    selection = Selection(
        threshold=options.threshold, top_k=options.top_k, classes=options.classes, operating_point=point
    )
    actions = select_actions(
        at_point(result.actions, bundle, point),
        threshold=options.threshold,
        top_k=options.top_k,
        classes=options.classes,
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
