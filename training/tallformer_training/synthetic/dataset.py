"""Write generated videos as h264 in mp4, with their ground truth in ActivityNet format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import av

from tallformer_infer.errors import ConfigError, OutputError
from tallformer_infer.files import write_whole
from tallformer_training.synthetic.planning import draw_minutes, write_script
from tallformer_training.synthetic.render import render_frames
from tallformer_training.synthetic.script import Script, Style, Subset, VideoSpec

TRUTH_NAME = "annotations.json"
VERSION = "tallformer-synthetic-1"
"""Version of the generator; changes whenever the same seed gives another video."""


@dataclass(frozen=True, kw_only=True)
class SetSpec:
    """A set of videos from one seed."""

    subset: Subset
    """Subset, which determines the looks and backgrounds."""
    videos: int
    """Number of videos, at least 1."""
    seed: int
    """Seed, at least 0."""
    minutes: float | None = None
    """Length of each video; None for that of the style: 2 minutes, or a random one of 25 to 50 s."""
    fps: float = 15.0
    """Frame rate."""
    width_px: int = 128
    height_px: int = 96
    style: Style = "thumos14"
    """Style of a video, see `VideoSpec`."""

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise ConfigError(f"videos={self.videos}: expected at least 1")
        self.video(0)

    def video(self, index: int) -> VideoSpec:
        """The video with this number, from 0."""
        values = asdict(self)
        del values["videos"]
        spec = VideoSpec(index=index, **values | {"minutes": 2.0 if self.minutes is None else self.minutes})
        if self.minutes is not None or self.style != "activitynet":
            return spec
        return replace(spec, minutes=draw_minutes(spec))


def make_dataset(
    spec: SetSpec,
    folder: Path,
    *,
    jobs: int = 1,
    on_video: Callable[[VideoSpec, bool], None] = lambda _spec, _written: None,
) -> Path:
    """Write all missing videos of a set, then the ground truth.

    Videos of other sets in the same folder stay in the ground truth, so training, validation and testing sets can share
    a folder; write them one after another.

    Args:
        spec: The set.
        folder: Output folder, created if missing.
        jobs: Number of processes.
        on_video: Called for every video, with False if it existed already.

    Returns:
        Path of the ground truth.

    Raises:
        ConfigError: `jobs` is below 1.
        OutputError: A file cannot be written, or one of the same name was made with other settings.
    """
    if jobs < 1:
        raise ConfigError(f"jobs={jobs}: expected at least 1")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
    videos = [spec.video(index) for index in range(spec.videos)]
    there = [video for video in videos if _is_finished(video, folder)]
    for video in there:
        on_video(video, False)
    _write_all([video for video in videos if video not in there], folder, jobs, on_video)
    return _write_truth(videos, folder)


def write_video(script: Script, path: Path) -> None:
    """Render a script into an mp4 file. The same script gives the same bytes with the same FFmpeg.

    It gets its name when it is complete; an unfinished file has `.part` in its name.

    Raises:
        OutputError: The file cannot be written.
    """
    # always the same name, so that the next run replaces what a killed one left
    partial = path.with_name(f".{path.stem}.part.mp4")
    try:
        _encode(script, partial)
        partial.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def truth_of(script: Script) -> dict[str, Any]:
    """Entry of the ground truth's `database`, in ActivityNet format; times in seconds, exact to the frame."""
    spec = script.spec
    return {
        "duration": round(spec.frames / spec.fps, 6),
        "subset": spec.subset,
        "resolution": f"{spec.width_px}x{spec.height_px}",
        "fps": float(spec.fps),
        "annotations": [
            {
                "segment": [round(event.start_frame / spec.fps, 6), round(event.end_frame / spec.fps, 6)],
                "label": event.name,
            }
            for event in script.actions
        ],
    }


def _write_all(videos: list[VideoSpec], folder: Path, jobs: int, on_video: Callable[[VideoSpec, bool], None]) -> None:
    if jobs == 1 or len(videos) < 2:
        for video in videos:
            _write_one(video, folder)
            on_video(video, True)
        return
    others = set(active_children())
    # spawn: fork would copy a process that may have threads (the progress bar)
    with ProcessPoolExecutor(min(jobs, len(videos)), mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_write_one, video, folder): video for video in videos}
        try:
            for done in as_completed(pending):
                done.result()
                on_video(pending[done], True)
        except BrokenProcessPool as error:
            raise OutputError(
                f"{folder}: a worker was killed; use fewer jobs if memory ran out, and repeat the command to continue"
            ) from error
        except BaseException:
            for future in pending:
                future.cancel()
            for worker in set(active_children()) - others:
                worker.terminate()  # otherwise the exit would wait for complete videos
            raise


def _write_one(video: VideoSpec, folder: Path) -> None:
    write_video(write_script(video), _path_of(video, folder))


def _path_of(video: VideoSpec, folder: Path) -> Path:
    return folder / f"{video.video_id}.mp4"


def _encode(script: Script, path: Path) -> None:
    spec = script.spec
    with av.open(path, "w", format="mp4") as container:
        container.metadata["comment"] = _settings(spec)
        stream = container.add_stream("libx264", rate=Fraction(spec.fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = spec.width_px, spec.height_px, "yuv420p"
        # one thread: with several, x264's rate control varies from run to run
        stream.options = {"crf": str(_quality(spec)), "preset": "veryfast", "threads": "1", "g": "60"}
        for picture in render_frames(script):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _quality(spec: VideoSpec) -> int:
    """Constant rate factor, 18 (good) to 27 (poor), so that a model sees both."""
    return 18 + (7 * spec.index + 3 * spec.seed) % 10


def _settings(spec: VideoSpec) -> str:
    values = asdict(spec) | {"minutes": float(spec.minutes), "fps": float(spec.fps)}
    if spec.style == "thumos14":
        del values["style"]  # absent in files made before the other style existed
    return json.dumps({"made by": VERSION, **values})


def _is_finished(video: VideoSpec, folder: Path) -> bool:
    """Whether the file exists with the same settings; a file under its final name is complete."""
    path = _path_of(video, folder)
    if not path.exists():
        return False
    try:
        with av.open(path) as container:
            settings = container.metadata.get("comment")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: exists already and cannot be read: {error}; delete it to write it again") from error
    if settings != _settings(video):
        raise OutputError(
            f"{path}: exists already, with other settings ({settings}); expected {_settings(video)}; "
            "choose another folder"
        )
    return True


def _write_truth(videos: list[VideoSpec], folder: Path) -> Path:
    path = folder / TRUTH_NAME
    database = _read_database(path)
    database |= {video.video_id: truth_of(write_script(video)) for video in videos}
    truth = {"version": VERSION, "taxonomy": [], "database": dict(sorted(database.items()))}
    try:
        write_whole(path, (json.dumps(truth, indent=1) + os.linesep).encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _read_database(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        version, database = truth["version"], dict(truth["database"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{path}: exists already and cannot be read: {error!r}; choose another folder") from error
    if version != VERSION:
        raise OutputError(f"{path}: is of version {version}, expected {VERSION}; choose another folder")
    return database
