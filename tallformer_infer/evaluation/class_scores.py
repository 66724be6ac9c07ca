"""Files that say what whole videos show: scores of a classifier, or the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.files import read_json_object, shown
from tallformer_infer.labels.names import composed, match_video


@dataclass(frozen=True)
class ClassScores:
    """What each video shows, by name of the class."""

    source: str
    """File, for messages."""
    videos: Mapping[str, Mapping[str, float]]
    """Scores of the classes, by video; classes that are not there have 0."""

    def of(self, video: str) -> Mapping[str, float]:
        """Scores of one video, found with or without a leading `v_`.

        Raises:
            AnnotationError: The file has none.
        """
        name = match_video(video, self.videos)
        if name is None:
            raise AnnotationError(f"{self.source}: has no class scores of the video {video}")
        return self.videos[name]


def read_class_scores(path: Path) -> ClassScores:
    """Read class scores of videos.

    Args:
        path: JSON of the form `{"class": [names], "results": {video: [scores]}}`, in which scores of published
            classifiers are passed on (CUHK, UntrimmedNet), or annotations in ActivityNet form, whose classes have a
            score of 1: what would be found if the classes were known.

    Raises:
        AnnotationError: The file cannot be read, or its parts do not fit together; the message names the key.
    """
    document = read_json_object(path)
    if "database" in document:
        return ClassScores(str(path), _of_truth(document["database"], path))
    names, results = document.get("class"), document.get("results")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise AnnotationError(f"{path}: class: expected a list of different names, got {shown(names)}")
    if not isinstance(results, dict):
        raise AnnotationError(f"{path}: results: expected an object with a key per video, got {shown(results)}")
    return ClassScores(
        str(path),
        {
            composed(video): dict(zip(names, _scores(row, len(names), path, video), strict=True))
            for video, row in results.items()
        },
    )


def _scores(row: Any, count: int, path: Path, video: str) -> list[float]:
    if not isinstance(row, list) or len(row) != count:
        raise AnnotationError(f"{path}: results.{video}: expected {count} scores, one per class, got {shown(row)}")
    for score in row:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score < math.inf:
            raise AnnotationError(f"{path}: results.{video}: expected scores from 0 on, got {shown(score)}")
    return [float(score) for score in row]


def _of_truth(database: Any, path: Path) -> dict[str, dict[str, float]]:
    if not isinstance(database, dict):
        raise AnnotationError(f"{path}: database: expected an object with a key per video, got {shown(database)}")
    found: dict[str, dict[str, float]] = {}
    for video, entry in database.items():
        try:
            found[composed(video)] = {str(annotation["label"]): 1.0 for annotation in entry["annotations"]}
        except (TypeError, KeyError) as error:
            raise AnnotationError(
                f'{path}: database.{video}: expected "annotations" with a "label" each, got {shown(entry)}'
            ) from error
    return found
