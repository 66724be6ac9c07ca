"""The project's own form of results: `actions.json`, described key by key in `actions.schema.json`.

Times and scores are written with six decimals: a microsecond, and far below the noise of a score.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.results.selection import in_order
from tallformer_infer.results.writing import encode_document, make_folder, write_document
from tallformer_infer.structures import Action, Provenance, Result, Selection, StageSeconds, VideoInfo

SCHEMA_VERSION = "1.4"
"""Version of `actions.json`. A new key raises the minor number; a key that changes or goes raises the major one."""

UNTRAINED_NOTICE = "The weights of this model are random: its actions mean nothing."

DECIMALS = 6


@dataclass(frozen=True)
class Failure:
    """An input that gave no result."""

    path: str
    """As the user gave it."""
    error: str
    """One line that says why."""


def actions_document(
    results: Sequence[Result], *, selection: Selection | None = None, failures: Sequence[Failure] = ()
) -> dict[str, Any]:
    """The document `actions.json` of one run.

    Args:
        results: One or more, all of one model, device and window layout, in the order of the inputs.
        selection: Filters that were applied; None takes those of the first result.
        failures: Inputs of the same run that gave no result.

    Raises:
        ValueError: There are no results, or they do not come from one run.
    """
    return {
        **describe_run(results, selection or (results[0].selection if results else Selection())),
        "videos": [_describe_video(result) for result in results],
        "failures": [{"path": failure.path, "error": failure.error} for failure in failures],
    }


def results_of_document(document: Any) -> tuple[Result, ...]:
    """The results in a document, as `actions_document` takes them.

    What the document does not tell has its default: `missing_s`, and whether a video was generated.

    Raises:
        AnnotationError: It is no such document, or one of another version.
    """
    version = str(document.get("schema_version")) if isinstance(document, dict) else "none"
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise AnnotationError(f"actions.json: schema_version {version}; expected {SCHEMA_VERSION}")
    try:
        provenance, selection = _read_run(document)
        return tuple(_read_video(video, provenance, selection) for video in document["videos"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AnnotationError(f"actions.json: {type(error).__name__}: {error}") from error


def result_json(result: Result) -> str:
    """The document of one video, as text."""
    return encode_document(actions_document([result])).decode()


def save_result(result: Result, path: str | os.PathLike[str]) -> None:
    """Write the document of one video to a file; see `Result.save`.

    Raises:
        OutputError: The name does not end in .json, or it cannot be written.
    """
    out = Path(path)
    if out.suffix.lower() != ".json":
        raise OutputError(
            f"{out}: a result is saved as .json; `tallformer convert` turns that into subtitles and labels"
        )
    make_folder(out.parent)
    write_document(actions_document([result]), out)


def load_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `actions_document`."""
    text = importlib.resources.files(__package__).joinpath("actions.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def describe_run(results: Sequence[Result], selection: Selection) -> dict[str, Any]:
    """What all results of a run have in common, as JSON.

    Raises:
        ValueError: There are no results, or they do not come from one run.
    """
    if len({result.provenance for result in results}) != 1:
        raise ValueError("expected one or more results of one model, device and window layout")
    provenance = results[0].provenance
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "tallformer", "version": provenance.tool_version},
        "model": _describe_model(provenance),
        "bundle_sha256": provenance.bundle_sha256,
        "recipe": provenance.recipe_name,
        "runtime": provenance.runtime,
        "device": provenance.device,
        "precision": provenance.precision,
        "settings": {
            "windows": provenance.windows,
            "window_s": _rounded_if_known(provenance.window_s),
            "class_scores": provenance.class_scores,
            "rates": None if provenance.rates is None else [_rounded(rate) for rate in provenance.rates],
            "threshold": selection.threshold,
            "top_k": selection.top_k,
            "classes": None if selection.classes is None else list(selection.classes),
            "operating_point": selection.operating_point,
        },
    }


def describe_file(result: Result) -> dict[str, Any]:
    """Everything about one video but its actions, as JSON."""
    timings = result.timings
    return {
        "path": result.video.path,
        "sha256": result.video_sha256,
        "duration_s": _rounded(result.duration_s),
        "header_duration_s": _rounded_if_known(result.video.duration_s),
        "start_s": _rounded(result.video.start_s),
        "sample_fps": _rounded(result.sample_fps),
        "source_fps": _rounded_if_known(result.video.source_fps),
        "frame_count": result.frame_count,
        "width_px": result.video.width_px,
        "height_px": result.video.height_px,
        "rotation_deg": result.video.rotation_deg,
        "stream": result.video.stream,
        "streams": result.video.streams,
        "codec": result.video.codec,
        "decode_errors": result.decode_errors,
        "notes": list(result.notes),
        "timings_s": {
            "decode": _rounded(timings.decode_s),
            "encode": _rounded(timings.encode_s),
            "localize": _rounded(timings.localize_s),
            "suppress": _rounded(timings.suppress_s),
            "total": _rounded(timings.total_s),
        },
    }


def describe_action(action: Action) -> dict[str, Any]:
    """One action as JSON, in the form that both dialects use."""
    return {
        "segment": [_rounded(action.start_s), _rounded(action.end_s)],
        "label": action.label,
        "score": _rounded(action.score),
    }


def _describe_video(result: Result) -> dict[str, Any]:
    return {**describe_file(result), "actions": [describe_action(action) for action in in_order(result.actions)]}


def _describe_model(provenance: Provenance) -> dict[str, Any]:
    model: dict[str, Any] = {"name": provenance.model_name, "trained": provenance.model_trained}
    if not provenance.model_trained:
        model["notice"] = UNTRAINED_NOTICE
    if provenance.intended_use:
        model["intended_use"] = provenance.intended_use
    return model


def _read_run(document: dict[str, Any]) -> tuple[Provenance, Selection]:
    settings, model = document["settings"], document["model"]
    provenance = Provenance(
        tool_version=document["tool"]["version"],
        model_name=model["name"],
        model_trained=model["trained"],
        bundle_sha256=document["bundle_sha256"],
        recipe_name=document["recipe"],
        runtime=document["runtime"],
        device=document["device"],
        precision=document["precision"],
        windows=settings["windows"],
        window_s=settings["window_s"],
        class_scores=settings["class_scores"],
        intended_use=model.get("intended_use"),
        rates=None if settings["rates"] is None else tuple(settings["rates"]),
    )
    selection = Selection(
        threshold=settings["threshold"],
        top_k=settings["top_k"],
        classes=None if settings["classes"] is None else tuple(settings["classes"]),
        operating_point=settings["operating_point"],
    )
    return provenance, selection


def _read_video(video: dict[str, Any], provenance: Provenance, selection: Selection) -> Result:
    info = {key: video[key] for key in ("path", "width_px", "height_px", "codec", "source_fps", "start_s")}
    info |= {key: video[key] for key in ("rotation_deg", "stream", "streams")}
    actions = [
        Action(start_s=each["segment"][0], end_s=each["segment"][1], label=each["label"], score=each["score"])
        for each in video["actions"]
    ]
    return Result(
        video=VideoInfo(**info, duration_s=video["header_duration_s"]),
        actions=tuple(actions),
        sample_fps=video["sample_fps"],
        frame_count=video["frame_count"],
        duration_s=video["duration_s"],
        decode_errors=video["decode_errors"],
        notes=tuple(video["notes"]),
        video_sha256=video["sha256"],
        timings=StageSeconds(**{f"{stage}_s": seconds for stage, seconds in video["timings_s"].items()}),
        provenance=provenance,
        selection=selection,
    )


def _rounded_if_known(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _rounded(value: float) -> float:
    # Adding 0.0 turns -0.0 into 0.0; float() turns NumPy's numbers into ones that JSON knows.
    return round(float(value), DECIMALS) + 0.0
