"""Label Studio: write a task per video with the actions as a prediction, and read exported tasks.

Its timelines use whole frames, counted from 1, with both ends included; its labels on audio and on time series, which
its own video template uses, are in seconds. The exact times are stored in the task's data: a range that nobody moved
keeps its time to the microsecond, and a moved one gets the time of its frames. Labels are escaped as in the labelling
interface, which is XML; see Note [labels with escapes].

Source: Label Studio's documentation of TimelineLabels, Video, and of the JSON format of tasks and predictions.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.labels.files import XML, Problems, escape, number, parse_xml, shown, unescape, xml_attribute
from tallformer_infer.labels.segments import GatheredVideos, LabelledVideo, Segment, by_class, in_time_order

DEFAULT_FPS = 24.0
"""Frame rate that the editor assumes if the labelling interface gives none."""

_FROM, _TO, _KIND, _EXACT, _NAME = "timelineLabels", "video", "timelinelabels", "tallformer_exact", "tallformer_video"
_IN_SECONDS = ("labels", "timeserieslabels")
_RATES = ("fps", "frameRate", "framerate", "frame_rate")
_MEDIA = re.compile(
    r"(?i)\.(mp4|mkv|webm|avi|mov|m4v|mpe?g|ts|mts|m2ts|flv|wmv|3gp|og[vga]|mp3|wav|flac|m4a)(?=$|[?#&])"
)
_TAG = re.compile(r"""<video\b[^>]*?\bsrc=["']?([^"'\s>]+)""", re.IGNORECASE)
"""Video address in the data of interfaces that show a video as HTML."""
_UPLOAD = re.compile(r"(?:.*/)?data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?([^/]+)")
_LOCAL = re.compile(r"(?:.*/)?data/local-files/?\?(?:.*&)?d=([^&]*)")
_Exact = dict[tuple[int, int, str], list[tuple[float, float]]]


def label_studio_tasks(videos: Sequence[LabelledVideo], *, model_version: str = "tallformer") -> list[dict[str, Any]]:
    """Build tasks to import, one per video; `data` has the keys `video` and `fps` that `label_studio_config` uses.

    Raises:
        OutputError: The frame rate of a video is unknown.
    """
    return [_task(video, model_version) for video in videos]


def label_studio_config(videos: Sequence[LabelledVideo]) -> str:
    """Build the labelling interface of a project for such tasks."""
    labels = "".join(
        f"    <Label value={xml_attribute(label)}/>\n"
        for label in by_class(segment for video in videos for segment in video.segments)
    )
    return (
        f'<View>\n  <TimelineLabels name="{_FROM}" toName="{_TO}">\n{labels}  </TimelineLabels>\n'
        f'  <Video name="{_TO}" value="$video" frameRate="$fps" timelineHeight="120"/>\n</View>\n'
    )


@dataclass(frozen=True)
class TimelineLabel:
    """A label of a labelling interface."""

    name: str
    """Name in results: `alias`, otherwise `value`."""
    meanings: tuple[str, ...]
    """Class names that map to it: `value`, `alias`, and those in `predicted_values` and `aliases`."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The timeline labels of a video in a labelling interface."""

    name: str
    """Name of the TimelineLabels tag: `from_name` in results."""
    video: str
    """Name of the Video tag: `to_name` in results."""
    labels: tuple[TimelineLabel, ...]
    """Labels, in the order of the interface."""
    data_key: str
    """Key of the video address in a task's data."""
    frame_rate: str
    """Frame rate as given by the interface: a number, or `$` and a key of the task's data."""

    def fps_of(self, data: dict[str, Any]) -> float:
        """Frame rate that the editor uses for a task, in frames per second."""
        stated = data.get(self.frame_rate[1:]) if self.frame_rate.startswith("$") else self.frame_rate
        try:
            fps = float(stated)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return DEFAULT_FPS
        return fps if 0 < fps < float("inf") else DEFAULT_FPS


def timeline_of_config(config: str) -> Timeline:
    """Read the timeline of a labelling interface.

    Raises:
        AnnotationError: The interface is not XML, or does not have exactly one TimelineLabels with labels on a Video.
    """
    root = parse_xml(config.encode(), "labelling interface")
    videos = {tag.get("name"): tag for tag in root.iter("Video")}
    timelines = [tag for tag in root.iter("TimelineLabels") if tag.get("toName") in videos]
    if len(timelines) != 1:
        raise AnnotationError(f"labelling interface: expected one <TimelineLabels> on a <Video>, got {len(timelines)}")
    video = videos[timelines[0].get("toName")]
    labels = tuple(_timeline_label(tag) for tag in timelines[0].iter("Label"))
    if not any(label.name for label in labels):
        raise AnnotationError("labelling interface: its <TimelineLabels> have no <Label>")
    return Timeline(
        name=timelines[0].get("name", ""),
        video=video.get("name", ""),
        labels=tuple(label for label in labels if label.name),
        data_key=video.get("value", "").removeprefix("$"),
        frame_rate=video.get("frameRate") or video.get("framerate") or "",
    )


def _timeline_label(tag: Element) -> TimelineLabel:
    value, alias = tag.get("value", ""), tag.get("alias", "")
    others = [name for key in ("predicted_values", "aliases") for name in tag.get(key, "").split(",")]
    whole = [tag.get(key, "") for key in ("predicted_values", "aliases")]  # for class names that contain a comma
    names = (unescape(name.strip()) for name in (value, alias, *others, *whole))
    return TimelineLabel(alias or value, tuple(dict.fromkeys(name for name in names if name)))


def label_studio_prediction(
    segments: Sequence[Segment], timeline: Timeline, *, fps: float, model_version: str
) -> dict[str, Any]:
    """Build the response of a machine learning backend for a task.

    Args:
        segments: Segments, with labels of the interface.
        timeline: Timeline of the interface.
        fps: Frame rate that the editor uses, in frames per second.
        model_version: Name of the model, for display.
    """
    result = [
        _region(f"a{place}", _frames(segment, fps), segment, segment.label)
        | {"from_name": timeline.name, "to_name": timeline.video}
        for place, segment in enumerate(in_time_order(segments), start=1)
    ]
    scores = [segment.score for segment in segments if segment.score is not None]
    mean = round(sum(scores) / len(scores), 6) if scores else 0.0
    return {"model_version": model_version, "score": mean, "result": result}


def videos_of_tasks(tasks: Sequence[Any], problems: Problems, *, fps: float | None = None) -> tuple[LabelledVideo, ...]:
    """Read the videos of tasks that Label Studio exported as JSON or JSON-MIN, or of tasks to import.

    If any task was labelled, unlabelled tasks are skipped, as nobody has checked their predictions.

    Args:
        tasks: The list in the file.
        problems: Receives errors, and notes on results that were skipped.
        fps: Frames per second of videos whose task does not give it.

    Raises:
        AnnotationError: A task is malformed, or was labelled more than once; one line each.
    """
    found = GatheredVideos(problems)
    read = [_Task(task, f"task {place}", problems, fps) for place, task in enumerate(tasks, start=1)]
    problems.raise_if_any()
    _keep_names_apart(read, problems)
    was_labelled = any(task.annotations for task in read)
    skipped: Counter[str] = Counter()
    for task in read:
        if task.annotations or not was_labelled:
            skipped.update(task.add_to(found))
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        problems.note(f"results that are not temporal labels were skipped: {kinds}")
    return found.videos()


def _keep_names_apart(tasks: list[_Task], problems: Problems) -> None:
    """Use the whole address as the name of videos whose names clash without the prefix that Label Studio added."""
    addresses: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        addresses[task.name].add(task.address)
    for task in tasks:
        if len(addresses[task.name]) > 1:
            problems.note(f"{task.address}: another task also has a video {task.name}; its name is the whole address")
            task.name = task.address


def _task(video: LabelledVideo, model_version: str) -> dict[str, Any]:
    fps = video.fps
    if not fps:
        raise OutputError(
            f"{video.name}: Label Studio counts frames, and the frame rate is unknown; "
            "set it with `tallformer convert --fps X`"
        )
    rows = [(_frames(segment, fps), segment) for segment in in_time_order(video.segments)]
    result = [
        _region(f"a{place}", frames, segment, escape(segment.label, XML))
        for place, (frames, segment) in enumerate(rows, start=1)
    ]
    scores = [segment.score for segment in video.segments if segment.score is not None]
    prediction: dict[str, Any] = {"model_version": model_version, "result": result}
    if scores:
        prediction["score"] = round(sum(scores) / len(scores), 6)
    exact = [
        [*frames, escape(segment.label, XML), round(segment.start_s, 6) + 0.0, round(segment.end_s, 6) + 0.0]
        for frames, segment in rows
    ]
    data = {"video": video.name, "fps": round(fps, 6), _NAME: video.name, _EXACT: exact}
    return {"data": data, "predictions": [prediction]}


def _region(identity: str, frames: tuple[int, int], segment: Segment, label: str) -> dict[str, Any]:
    region = {
        "id": identity,
        "from_name": _FROM,
        "to_name": _TO,
        "type": _KIND,
        "value": {"ranges": [{"start": frames[0], "end": frames[1]}], _KIND: [label]},
    }
    return region if segment.score is None else {**region, "score": round(segment.score, 6)}


def _frames(segment: Segment, fps: float) -> tuple[int, int]:
    """First and last frame, counted from 1."""
    first = max(1, round(segment.start_s * fps) + 1)
    return first, max(first, round(segment.end_s * fps))


class _Task:
    """One task of a file."""

    def __init__(self, task: Any, key: str, problems: Problems, fps: float | None) -> None:
        self._key, self._problems = key, problems
        if isinstance(task, dict) and isinstance(task.get("task"), dict):  # a single annotation with its task
            task = {**task["task"], "annotations": [task]}
        if isinstance(task, dict) and not isinstance(task.get("data"), dict):
            task = _unfolded(task)
        data = task.get("data") if isinstance(task, dict) else None
        self.address, self.name = "", ""
        if not isinstance(data, dict):
            problems.add(key, f'expected an object with "data": {{"video": ...}}, got {shown(task)}')
            data, task = {}, {}
        else:
            self._find_video(data, task.get("file_upload"))
        rates = [rate for name in _RATES if (rate := number(data.get(name)))]
        self._fps = rates[0] if rates else fps
        self._exact = _exact_times(data.get(_EXACT))
        labelled = _objects(task.get("annotations")) or _objects(task.get("completions"))
        done = [each for each in labelled if not each.get("was_cancelled")]
        self.annotations = [each for each in done if each.get("ground_truth")] or done
        self._predictions = _objects(task.get("predictions"))
        if len(self.annotations) > 1:
            problems.add(key, f"{self.name} was labelled {len(self.annotations)} times; mark one as ground truth")

    def add_to(self, found: GatheredVideos) -> Counter[str]:
        """Add the video and its labels; return the number of skipped results by type."""
        found.add_video(self.name, fps=self._fps)
        skipped: Counter[str] = Counter()
        for source in (self.annotations or self._predictions)[:1]:
            for region in _objects(source.get("result")):
                kind, value = region.get("type"), region.get("value")
                if kind == _KIND:
                    self._add_frames(found, value, region.get("score"))
                elif kind in _IN_SECONDS and isinstance(value, dict) and "text" not in value:
                    self._add_seconds(found, value, str(kind), region.get("score"))
                else:
                    skipped[str(kind)] += 1
        return skipped

    def _find_video(self, data: dict[str, Any], file_upload: Any) -> None:
        """Find the address in the task's data: under `video`, or the only one that looks like video or audio."""
        texts = {
            key: tag[1] if (tag := _TAG.search(value)) else value
            for key, value in data.items()
            if isinstance(value, str) and value and key != _NAME
        }
        named = texts.get("video")
        likely = [named] if named else list(dict.fromkeys(text for text in texts.values() if _MEDIA.search(text)))
        if len(likely) > 1:
            likely = list(
                dict.fromkeys(text for key, text in texts.items() if "video" in key.lower() and text in likely)
            )
        if not likely and isinstance(file_upload, str) and file_upload:
            likely = [f"data/upload/{file_upload}"]
        if len(likely) != 1:
            keys = ", ".join(data) or "none"
            self._problems.add(
                self._key, f'cannot tell which of its data is the video ({keys}); name the key "video": {shown(data)}'
            )
            return
        self.address = likely[0]
        original = data.get(_NAME)
        self.name = original if isinstance(original, str) and original else _name_at(self.address)

    def _add_frames(self, found: GatheredVideos, value: Any, score: Any) -> None:
        ranges = value.get("ranges") if isinstance(value, dict) else None
        labels = value.get(_KIND) if isinstance(value, dict) else None
        if not isinstance(ranges, list) or not isinstance(labels, list):
            self._problems.add(self._key, f'expected "ranges" and "{_KIND}", got {shown(value)}')
            return
        for span in ranges:
            for label in labels:
                self._add_range(found, span, label, score)

    def _add_range(self, found: GatheredVideos, span: Any, label: Any, score: Any) -> None:
        ends = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
        first, last = (None if (frame := number(end)) is None else int(frame) for end in ends)
        if first is None or last is None or not isinstance(label, str):
            self._problems.add(self._key, f"expected frames start and end, got {shown(span)}")
            return
        known = self._exact.get((first, last, label))
        if known:
            start_s, end_s = known.pop(0)
        elif self._fps:
            start_s, end_s = max(0, first - 1) / self._fps, last / self._fps
        else:
            self._problems.add(self._key, "has no frame rate; set it with `tallformer convert --fps X`")
            return
        found.add(self.name, self._key, [start_s, end_s], unescape(label), score=score)

    def _add_seconds(self, found: GatheredVideos, value: dict[str, Any], kind: str, score: Any) -> None:
        labels = value.get(kind)
        if not isinstance(labels, list) or not labels:
            self._problems.add(self._key, f'expected "start", "end" and "{kind}", got {shown(value)}')
            return
        for label in labels:
            text = unescape(label) if isinstance(label, str) else label
            found.add(self.name, self._key, [value.get("start"), value.get("end")], text, score=score)


def _unfolded(task: dict[str, Any]) -> dict[str, Any]:
    """Convert a task from JSON-MIN, where data and results share one object, to the full format."""
    result = [
        {"type": kind, "value": value}
        for rows in task.values()
        for value in _objects(rows)
        for kind in (_KIND, *_IN_SECONDS)
        if isinstance(value.get(kind), list) and ("ranges" in value or "start" in value)
    ]
    has_results = bool(result) or "annotation_id" in task or "annotator" in task
    if not has_results:
        return task
    data = {key: value for key, value in task.items() if not _objects(value)}
    return {"data": data, "annotations": [{"result": result}]}


def _name_at(address: str) -> str:
    """Name of a video at a Label Studio address; for an upload, without the hash prefix."""
    if local := _LOCAL.fullmatch(address):
        return unquote(local[1].replace("+", " "))
    if upload := _UPLOAD.fullmatch(address):
        return unquote(re.split(r"[?#]", upload[1])[0])
    return unquote(re.split(r"[?#]", address)[0]) if "://" in address else address


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _exact_times(table: Any) -> _Exact:
    """Exact times by first frame, last frame and label; several actions may share a key."""
    exact: _Exact = defaultdict(list)
    for row in table if isinstance(table, list) else ():
        numbers = [number(each) for each in (*row[:2], *row[3:])] if isinstance(row, list) and len(row) == 5 else [None]
        if None not in numbers:
            first, last, start_s, end_s = (each for each in numbers if each is not None)
            exact[int(first), int(last), str(row[2])].append((start_s, end_s))
    return exact


def parse_tasks(content: bytes, path: Path) -> list[Any]:
    """Parse the list of tasks of a file.

    Raises:
        AnnotationError: The content is neither a JSON list of tasks nor a single task.
    """
    try:
        tasks = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if isinstance(tasks, dict) and is_task(tasks):
        return [tasks]
    if not isinstance(tasks, list) or not tasks:
        raise AnnotationError(f"{path}: expected a list of Label Studio tasks, got {shown(tasks)}")
    return tasks


def is_task(document: dict[str, Any]) -> bool:
    """Whether a JSON object is one task, or one annotation with its task, as Label Studio writes to storages."""
    if isinstance(document.get("task"), dict):
        return isinstance(document.get("result"), list)
    return isinstance(document.get("data"), dict) and ("annotations" in document or "predictions" in document)
