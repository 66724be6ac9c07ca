"""Results in the forms of other people's tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from tallformer_infer.errors import OutputError
from tallformer_infer.results.document import Failure, describe_action, describe_file, describe_run
from tallformer_infer.structures import Result, Selection


def activitynet_document(
    results: Sequence[Result], *, selection: Selection | None = None, failures: Sequence[Failure] = ()
) -> dict[str, Any]:
    """The ActivityNet `results` form: actions by video name, and everything else under `external_data`.

    Args:
        results: One or more, all of one model, device and window layout, in the order of the inputs.
        selection: Filters that were applied; None takes those of the first result.
        failures: Inputs of the same run that gave no result.

    Raises:
        OutputError: Two videos have the same name without folder and ending.
        ValueError: There are no results, or they do not come from one run.

    Source: the submission form of the ActivityNet challenge, as its evaluation code reads it.
    """
    names = video_ids([result.video.path for result in results])
    run = describe_run(results, selection or (results[0].selection if results else Selection()))
    return {
        "version": f"tallformer {run['tool']['version']}",
        "results": {
            name: [describe_action(action) for action in sorted(result.actions, key=lambda action: -action.score)]
            for name, result in zip(names, results, strict=True)
        },
        "external_data": {
            **run,
            "videos": {name: describe_file(result) for name, result in zip(names, results, strict=True)},
            "failures": [{"path": failure.path, "error": failure.error} for failure in failures],
        },
    }


def video_ids(paths: Sequence[str]) -> list[str]:
    """The name of each video in the ActivityNet form: its file name without folder and ending.

    Raises:
        OutputError: Two are the same; the message names both files.
    """
    seen: dict[str, str] = {}
    for path in paths:
        name = PurePath(path).stem
        if name in seen:
            raise OutputError(
                f"{seen[name]} and {path}: both would be {name!r} in the activitynet format; "
                "rename one, run them apart, or use --format json"
            )
        seen[name] = path
    return list(seen)
