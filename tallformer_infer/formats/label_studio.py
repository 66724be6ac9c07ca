"""Label Studio: a task per video with the actions as a prediction, and the tasks that it exports.

Label Studio counts whole frames from 1, both ends included. The exact times travel along in the task's data: a range
that nobody moved keeps its time to the microsecond, one that was moved has that of its frames. Labels are as in the
labelling interface, which is XML; see Note [labels with escapes].

Source: Label Studio's documentation of TimelineLabels, Video, and of the JSON format of tasks and predictions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.evaluation.json_rows import shown
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.formats.escaping import XML, escape, unescape, xml_attribute
from tallformer_infer.formats.labelled import LabelledSegment, LabelledVideo, by_class, in_time_order
from tallformer_infer.formats.rows import GatheredVideos, number

_FROM, _TO, _KIND, _EXACT = "timelineLabels", "video", "timelinelabels", "tallformer_exact"
_Exact = dict[tuple[int, int, str], list[tuple[float, float]]]


def label_studio_tasks(videos: Sequence[LabelledVideo], *, model_version: str = "tallformer") -> list[dict[str, Any]]:
    """Tasks to import, one per video; `data` has `video` and `fps`, as `label_studio_config` wants them.

    Raises:
        OutputError: A video's frames per second are not known.
    """
    return [_task(video, model_version) for video in videos]


def label_studio_config(videos: Sequence[LabelledVideo]) -> str:
    """The labelling interface of a project that such tasks can be imported into."""
    labels = "".join(
        f"    <Label value={xml_attribute(label)}/>\n"
        for label in by_class(segment for video in videos for segment in video.segments)
    )
    return (
        f'<View>\n  <TimelineLabels name="{_FROM}" toName="{_TO}">\n{labels}  </TimelineLabels>\n'
        f'  <Video name="{_TO}" value="$video" frameRate="$fps" timelineHeight="120"/>\n</View>\n'
    )


def videos_of_tasks(tasks: Sequence[Any], path: Path, *, fps: float | None = None) -> tuple[LabelledVideo, ...]:
    """Videos of tasks that Label Studio exported as JSON, or of tasks to import.

    Where any task was labelled, tasks that nobody labelled are left out: their predictions were checked by no one.

    Args:
        tasks: The list in the file.
        path: The file, for messages.
        fps: Frames per second of the videos whose task does not say it.

    Raises:
        AnnotationError: A task cannot be understood, or was labelled twice; one line each.
    """
    problems = Problems(str(path))
    found = GatheredVideos(problems)
    read = [_Task(task, f"task {place}", problems, fps) for place, task in enumerate(tasks, start=1)]
    problems.raise_if_any()
    was_labelled = any(task.annotations for task in read)
    for task in read:
        if task.annotations or not was_labelled:
            task.add_to(found)
    return found.videos()


def _task(video: LabelledVideo, model_version: str) -> dict[str, Any]:
    fps = video.fps
    if not fps:
        raise OutputError(f"{video.name}: Label Studio counts frames; say how many there are per second with --fps")
    rows = [(_frames(segment, fps), segment) for segment in in_time_order(video.segments)]
    result = [_region(f"a{place}", frames, segment) for place, (frames, segment) in enumerate(rows, start=1)]
    scores = [segment.score for segment in video.segments if segment.score is not None]
    prediction: dict[str, Any] = {"model_version": model_version, "result": result}
    if scores:
        prediction["score"] = round(sum(scores) / len(scores), 6)
    exact = [
        [*frames, escape(segment.label, XML), round(segment.start_s, 6) + 0.0, round(segment.end_s, 6) + 0.0]
        for frames, segment in rows
    ]
    return {"data": {"video": video.name, "fps": round(fps, 6), _EXACT: exact}, "predictions": [prediction]}


def _region(identity: str, frames: tuple[int, int], segment: LabelledSegment) -> dict[str, Any]:
    region = {
        "id": identity,
        "from_name": _FROM,
        "to_name": _TO,
        "type": _KIND,
        "value": {"ranges": [{"start": frames[0], "end": frames[1]}], _KIND: [escape(segment.label, XML)]},
    }
    return region if segment.score is None else {**region, "score": round(segment.score, 6)}


def _frames(segment: LabelledSegment, fps: float) -> tuple[int, int]:
    """First and last frame, counted from 1."""
    first = max(1, round(segment.start_s * fps) + 1)
    return first, max(first, round(segment.end_s * fps))


class _Task:
    """One task of a file."""

    def __init__(self, task: Any, key: str, problems: Problems, fps: float | None) -> None:
        self._key, self._problems = key, problems
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get("video"), str):
            problems.add(key, f'expected an object with "data": {{"video": ...}}, got {shown(task)}')
            data, task = {"video": ""}, {}
        self._name: str = data["video"]
        self._fps = number(data.get("fps")) or fps
        self._exact = _exact_times(data.get(_EXACT))
        done = [each for each in _objects(task.get("annotations")) if not each.get("was_cancelled")]
        self.annotations = [each for each in done if each.get("ground_truth")] or done
        self._predictions = _objects(task.get("predictions"))
        if len(self.annotations) > 1:
            problems.add(key, f"{self._name} was labelled {len(self.annotations)} times; mark one as ground truth")

    def add_to(self, found: GatheredVideos) -> None:
        found.add_video(self._name, fps=self._fps)
        for region in self._regions():
            value = region.get("value")
            ranges = value.get("ranges") if isinstance(value, dict) else None
            labels = value.get(_KIND) if isinstance(value, dict) else None
            if not isinstance(ranges, list) or not isinstance(labels, list):
                self._problems.add(self._key, f'expected "ranges" and "{_KIND}", got {shown(value)}')
                continue
            for span in ranges:
                for label in labels:
                    self._add(found, span, label, region.get("score"))

    def _regions(self) -> Iterator[dict[str, Any]]:
        for source in (self.annotations or self._predictions)[:1]:
            yield from (region for region in _objects(source.get("result")) if region.get("type") == _KIND)

    def _add(self, found: GatheredVideos, span: Any, label: Any, score: Any) -> None:
        ends = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
        first, last = (None if (frame := number(end)) is None else int(frame) for end in ends)
        if first is None or last is None or not isinstance(label, str):
            self._problems.add(self._key, f"expected frames start and end, got {shown(span)}")
            return
        known = self._exact.get((first, last, label))
        if known:
            start_s, end_s = known.pop(0)
        elif self._fps:
            start_s, end_s = (first - 1) / self._fps, last / self._fps
        else:
            self._problems.add(self._key, "does not say its frames per second; give them with --fps")
            return
        found.add(self._name, self._key, [start_s, end_s], unescape(label), score=score)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _exact_times(table: Any) -> _Exact:
    """Times by first frame, last frame and label; two actions may share these."""
    exact: _Exact = defaultdict(list)
    for row in table if isinstance(table, list) else ():
        numbers = [number(each) for each in (*row[:2], *row[3:])] if isinstance(row, list) and len(row) == 5 else [None]
        if None not in numbers:
            first, last, start_s, end_s = (each for each in numbers if each is not None)
            exact[int(first), int(last), str(row[2])].append((start_s, end_s))
    return exact


def parse_tasks(content: bytes, path: Path) -> list[Any]:
    """The list of tasks of a file.

    Raises:
        AnnotationError: It is not a JSON list.
    """
    try:
        tasks = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if not isinstance(tasks, list) or not tasks:
        raise AnnotationError(f"{path}: expected a list of Label Studio tasks, got {shown(tasks)}")
    return tasks
