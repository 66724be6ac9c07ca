"""Results as `actions.json` (see `actions.schema.json`), as text and as HTML; and the selection of actions to keep.

Times and scores are written with six decimals: a microsecond, and well below the noise of a score.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError, ConfigError, OutputError
from tallformer_infer.files import make_folder
from tallformer_infer.results.writing import encode_document, write_document
from tallformer_infer.structures import Action, Provenance, Result, Selection, StageSeconds, VideoInfo

SCHEMA_VERSION = "1.5"
"""Version of `actions.json`: minor for added keys, major for changed or removed ones."""

UNTRAINED_NOTICE = "The weights of this model are random: its actions mean nothing."

DECIMALS = 6
_LEAST_SHOWN = 0.05
_LEAST_PART_SHOWN = 0.2

SHOWN = 10
"""Maximum number of actions in a `repr`."""
SHOWN_IN_NOTEBOOK = 50
"""Maximum number of table rows, those with the highest scores."""


@dataclass(frozen=True)
class Failure:
    """An input that failed."""

    path: str
    """Path or address as given by the user."""
    error: str
    """Reason, in one line."""


def actions_document(
    results: Sequence[Result], *, selection: Selection | None = None, failures: Sequence[Failure] = ()
) -> dict[str, Any]:
    """Build the document `actions.json` of one run.

    Args:
        results: At least one, all with the same model, device and window layout, in input order.
        selection: Filters that were applied; None uses those of the first result.
        failures: Inputs of the same run that failed.

    Raises:
        ValueError: There are no results, or they do not come from one run.
    """
    return {
        **describe_run(results, selection or (results[0].selection if results else Selection())),
        "videos": [_describe_video(result) for result in results],
        "failures": [{"path": failure.path, "error": failure.error} for failure in failures],
    }


def result_json(result: Result) -> str:
    """The document of one video, as text."""
    return encode_document(actions_document([result])).decode()


def save_result(result: Result, path: str | os.PathLike[str]) -> None:
    """Write the document of one video to a file; see `Result.save`.

    Raises:
        OutputError: The suffix is not .json, or the file cannot be written.
    """
    out = Path(path)
    if out.suffix.lower() != ".json":
        raise OutputError(
            f"{out}: a result is saved as .json; `tallformer convert` turns that into subtitles and labels"
        )
    make_folder(out.parent)
    write_document(actions_document([result]), out)


def results_of_document(document: Any) -> tuple[Result, ...]:
    """Read the results of a document; the inverse of `actions_document`.

    Values that the document does not contain get their defaults: `missing_s`, and whether a video was generated.

    Raises:
        AnnotationError: The document is malformed, or of another version.
    """
    version = str(document.get("schema_version")) if isinstance(document, dict) else "none"
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise AnnotationError(f"actions.json: schema_version {version}; expected {SCHEMA_VERSION}")
    try:
        provenance, selection = _read_run(document)
        return tuple(_read_video(video, provenance, selection) for video in document["videos"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AnnotationError(f"actions.json: {type(error).__name__}: {error}") from error


def load_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `actions_document`."""
    text = importlib.resources.files(__package__).joinpath("actions.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def select_actions(
    actions: Iterable[Action],
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> tuple[Action, ...]:
    """Filter actions; return them sorted by start, then end, then decreasing score.

    Args:
        actions: Actions of one video, in any order.
        threshold: Minimum score, in [0, 1]; None keeps all.
        top_k: Maximum number of actions, those with the highest scores after the other filters, earlier ones first
            among equals. None keeps all.
        classes: Names of the actions to keep; None keeps all.
        known: Class names of the model; if given, other names in `classes` are refused.

    Raises:
        ConfigError: See `check_selection`.
    """
    check_selection(threshold=threshold, top_k=top_k, classes=classes, known=known)
    kept = [
        action
        for action in actions
        if (classes is None or action.label in classes) and (threshold is None or action.score >= threshold)
    ]
    if top_k is not None:
        kept = sorted(kept, key=lambda action: (-action.score, action.start_s, action.end_s, action.label))[:top_k]
    return in_order(kept)


def display_floor(result: Result) -> float:
    """Minimum score of an action that is displayed; files always contain all actions.

    An uncalibrated model gives hundreds of actions, nearly all of them meaningless. Without a threshold, only actions
    with at least a fifth of the best score, and at least 0.05, are displayed.
    """
    selection = result.selection
    if selection.threshold is not None or selection.operating_point is not None or not result.actions:
        return 0.0
    best = max(action.score for action in result.actions)
    return min(max(_LEAST_SHOWN, _LEAST_PART_SHOWN * best), 1.0)


def check_selection(
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    see: str = "tallformer info MODEL",
) -> None:
    """Check the arguments of `select_actions`, before a video is opened.

    Args:
        threshold: Minimum score, in [0, 1].
        top_k: Maximum number of actions per video, at least 1.
        classes: Names of the actions to keep.
        known: Class names of the model; None skips this check.
        see: Command that lists `known`, for the message.

    Raises:
        ConfigError: One of them is out of range, or a class is not one of `known`; the message gives close matches.
        TypeError: `classes` is a string.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be in [0, 1]")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k={top_k} must be at least 1")
    if isinstance(classes, str):
        raise TypeError(f"classes={classes!r}: expected a list of names")
    if classes is not None and not classes:
        raise ConfigError("classes: expected at least one name, or None for all")
    for name in classes or ():
        if known is not None and name not in known:
            raise ConfigError(f"class {name!r}: no such class; {_near(name, known)}`{see}` lists all {len(known)}")


def in_order(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Actions sorted by start, then end, then decreasing score."""
    return tuple(sorted(actions, key=lambda action: (action.start_s, action.end_s, -action.score, action.label)))


def result_text(result: Result) -> str:
    """One line about the video, and one for each of the first actions: start, end, score, name."""
    head = (
        f"Result(video={result.video.path!r}, duration_s={round(result.duration_s, 2)}, "
        f"model={result.provenance.model_name!r}, actions={len(result.actions)})"
    )
    lines = [
        f"{action.start_s:9.2f} - {action.end_s:8.2f} s  {action.score:.3f}  {action.label}"
        for action in result.actions[:SHOWN]
    ]
    left = len(result.actions) - len(lines)
    return "\n".join([head, *lines, *([f"    ... and {left} more"] if left else [])])


def result_html(result: Result) -> str:
    """HTML with a heading, a timeline and a table; no scripts and no external resources."""
    best = sorted(result.actions, key=lambda action: -action.score)[:SHOWN_IN_NOTEBOOK]
    shown = sorted(best, key=lambda action: (action.start_s, action.end_s))
    colours = {label: _colour(number) for number, label in enumerate(dict.fromkeys(one.label for one in shown))}
    bars = "".join(_bar(action, result, colours[action.label]) for action in shown)
    rows = "".join(
        f"<tr><td>{action.start_s:.2f}</td><td>{action.end_s:.2f}</td>"
        f'<td style="text-align:left"><span style="color:{colours[action.label]}">&#9632;</span> {escape(action.label)}'
        f"</td><td>{action.score:.3f}</td></tr>"
        for action in shown
    )
    left = len(result.actions) - len(shown)
    note = f"<p>The best {len(shown)} of {len(result.actions)} actions.</p>" if left else ""
    table = (
        f"<table><tr><th>start (s)</th><th>end (s)</th><th>action</th><th>score</th></tr>{rows}</table>{note}"
        if shown
        else "<p>No action found.</p>"
    )
    use = result.provenance.intended_use
    intended = f"<br><small>{escape(use)}</small>" if use else ""
    return (
        f"<div><p><b>{escape(result.video.path)}</b>, {result.duration_s:.1f} s, model "
        f"{escape(result.provenance.model_name)}{intended}</p>"
        f'<div style="position:relative;height:1.2em;background:rgba(128,128,128,.2)">{bars}</div>{table}</div>'
    )


def _near(name: str, known: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(repr(match) for match in near)}? " if near else ""


def describe_run(results: Sequence[Result], selection: Selection) -> dict[str, Any]:
    """Facts common to all results of a run, as JSON.

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
    """One video without its actions, as JSON."""
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
        **({} if result.video.hwaccel is None else {"hwaccel": result.video.hwaccel}),
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
    """One action as JSON, as used in both output formats."""
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
        video=VideoInfo(**info, duration_s=video["header_duration_s"], hwaccel=video.get("hwaccel")),
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


def _bar(action: Action, result: Result, colour: str) -> str:
    length_s = result.duration_s or 1.0
    left = 100 * (action.start_s - result.video.start_s) / length_s
    width = 100 * (action.end_s - action.start_s) / length_s
    title = escape(f"{action.label} {action.start_s:.2f}-{action.end_s:.2f} s, {action.score:.3f}", quote=True)
    return (
        f'<div title="{title}" style="position:absolute;top:0;height:100%;left:{left:.3f}%;width:{width:.3f}%;'
        f'background:{colour};opacity:.8"></div>'
    )


def _colour(number: int) -> str:
    """Distinct hues in any number: steps of the golden angle."""
    return f"hsl({round(number * 137.508) % 360} 65% 50%)"
