"""What a client gets: the actions that its options pick, in the format that it asks for."""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from tallformer_infer.bundle import Bundle
from tallformer_infer.labels import (
    FOR_RESULTS,
    FORMATS,
    LabelledVideo,
    encode_labels,
    labelled_video,
    require_libraries,
)
from tallformer_infer.pipeline import at_point, choose_point
from tallformer_infer.report import PageAction, PageVideo, render_page
from tallformer_infer.results import Selection, actions_document, encode_document, select_actions
from tallformer_infer.serve.jobs import Job
from tallformer_infer.structures import Result

RESULT_FORMATS = (*FOR_RESULTS, "html")
"""What a result is given in."""


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


def encode_result(result: Result, job: Job, bundle: Bundle, form: ResultFormat) -> tuple[bytes, str, str | None]:
    """The result of a job.

    Args:
        result: Every action of its video, with the model's own scores.
        job: Its options say which actions are wanted.
        bundle: The model.
        form: What is wanted.

    Returns:
        The content, its media type, and the content security policy of a page.

    Raises:
        ExtraError: A library that the format needs is not installed.
        OutputError: The format cannot hold the actions.
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
    picked = dataclasses.replace(result, actions=actions, video=dataclasses.replace(result.video, path=job.name))
    if form == "json":
        return encode_document(actions_document([picked], selection=selection)), "application/json", None
    if form == "html":
        return _page(picked, job, bundle), "text/html; charset=utf-8", None
    require_libraries(form)
    suffix = FORMATS[form].suffix
    named = dataclasses.replace(labelled_video(picked), is_elsewhere=True)  # the client's name, not one of this machine
    return encode_labels([named], form, folder=None), _MEDIA_TYPES.get(suffix, "text/plain"), None


def _page(result: Result, job: Job, bundle: Bundle) -> bytes:
    video: LabelledVideo = labelled_video(result)
    found = tuple(
        PageAction(start_s=each.start_s, end_s=each.end_s, label=each.label, score=each.score)
        for each in video.segments
    )
    page = PageVideo(
        name=PurePath(job.name).name,
        source="video",  # beside the page: /v1/jobs/ID/video
        actions=found,
        start_s=video.start_s,
        end_s=video.duration_s,
        fps=video.fps,
    )
    return render_page([page], title=job.name, notes=[bundle.intended_use] if bundle.intended_use else [])
