"""Read requested clips of a video, from resized frames cached on disk or by decoding.

# Note [frames on the disk]
Each video has one file of raw RGB frames, and beside it a JSON file, which is written last and atomically: a video
without it is not in the cache. It holds the size and time of the video file, the sampling settings, and the hash of the
frames. The file names depend on all of these but the hash, so a changed video file, frame rate or size is a new entry.
Uncompressed frames are large (96 px: 1.5 GB per hour at 15 frames per second, 256 px: 10.6 GB), but reading a window's
clips takes 0.3 ms where decoding takes 195 ms (four clips of 64 px at a random position of a video of two minutes; 8
and 515 ms at 256 px; `benchmarks/bench_frames.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig, from_json, to_json
from tallformer_infer.errors import ConfigError, OutputError
from tallformer_infer.files import file_sha256, replacing, write_whole, writing
from tallformer_infer.media import open_video
from tallformer_training.datasets.labelled import TrainingVideo

Pixels = NDArray[np.uint8]

FORMAT_VERSION = 1
_UNKNOWN_DURATION_S = 600.0


class FrameSource(Protocol):
    """Reads clips of videos, from any thread."""

    def read_clips(self, path: Path, start_frames: Sequence[int], clip_frames: int) -> Pixels:
        """Read clips of one video.

        Args:
            path: The video.
            start_frames: First frame of each of K clips; clips may overlap and extend beyond the video.
            clip_frames: Frames F per clip.

        Returns:
            RGB, zero beyond the video, shape (K, F, side, side, 3), where side is that of `stored_sampling`.
        """
        ...


def stored_sampling(sampling: SamplingConfig) -> SamplingConfig:
    """Sampling for training: that of the recipe without the final crop, which augmentation does.

    Pictures are squares: the whole picture for `squash`, its middle for `short_side`; for `none`, where the picture's
    size is unknown, it stays at the recipe's crop.
    """
    return sampling if sampling.resize == "none" else replace(sampling, crop_px=sampling.resize_px)


def fill_clips(
    frames: Iterable[tuple[int, Pixels]], start_frames: Sequence[int], clip_frames: int, side_px: int
) -> Pixels:
    """Put numbered frames at their positions in clips, shape (K, F, side, side, 3); missing frames are zero."""
    clips = np.zeros((len(start_frames), clip_frames, side_px, side_px, 3), np.uint8)
    for number, frame in frames:
        for clip, start in zip(clips, start_frames, strict=True):
            if start <= number < start + clip_frames:
                clip[number - start] = frame
    return clips


class DecodedFrames:
    """Decodes the video for every window, up to the end of the last requested clip."""

    def __init__(self, sampling: SamplingConfig) -> None:
        """Sample frames with `stored_sampling(sampling)`."""
        self._sampling = stored_sampling(sampling)

    def read_clips(self, path: Path, start_frames: Sequence[int], clip_frames: int) -> Pixels:
        """See `FrameSource.read_clips`."""
        end = max(start_frames, default=0) + clip_frames
        side_px = self._sampling.crop_px
        if not len(start_frames) or end <= 0:
            return fill_clips((), start_frames, clip_frames, side_px)
        with open_video(path, self._sampling, threads=1) as stream:
            numbered = zip(range(end), stream, strict=False)
            return fill_clips(numbered, start_frames, clip_frames, side_px)

    def count_frames(self, path: Path) -> int:
        """Decode the whole video and count its frames."""
        with open_video(path, self._sampling, threads=None) as stream:
            return sum(1 for _ in stream)


@dataclass(frozen=True, kw_only=True)
class CachedVideo:
    """Cache entry of a video."""

    frames: int
    """Frames at the recipe's rate."""
    side_px: int
    """Height and width."""
    sha256: str
    """Hash of the file of frames."""
    mtime_ns: int | None = None
    """Modification time of that file when it was last verified, in nanoseconds."""


class FrameCache:
    """Frames of videos in a folder, which several runs may share."""

    def __init__(self, folder: Path, sampling: SamplingConfig) -> None:
        """Use `folder`, which is created if needed, for frames sampled with `stored_sampling(sampling)`."""
        self.folder = folder
        self._sampling = stored_sampling(sampling)
        self._entries: dict[Path, tuple[Path, CachedVideo]] = {}

    def estimated_bytes(self, videos: Iterable[TrainingVideo]) -> int:
        """Estimated size of the frames of `videos` that are not in the cache yet."""
        missing = [video for video in videos if not self._is_there(video.path)]
        return int(sum(self._estimated_frames(video) for video in missing)) * self._frame_bytes

    def _estimated_frames(self, video: TrainingVideo) -> float:
        if np.isinf(video.duration_s):
            return self._sampling.most_frames or _UNKNOWN_DURATION_S * self._sampling.sample_fps
        return video.duration_s * video.rate_fps(self._sampling)

    def require_space(self, videos: Iterable[TrainingVideo]) -> None:
        """Check that the frames still missing fit on the disk.

        Raises:
            ConfigError: They do not.
        """
        wanted, free = self.estimated_bytes(videos), shutil.disk_usage(_existing(self.folder)).free
        if wanted > free:
            raise ConfigError(
                f"{self.folder}: the frames need about {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                "choose another folder (--cache) or decode in every epoch (--no-cache)"
            )

    def add(self, path: Path, *, threads: int | None = None, on_frame: Callable[[], None] = lambda: None) -> int:
        """Add a video to the cache unless it is there; returns its number of frames.

        Args:
            path: The video.
            threads: Threads of the codec; None lets it choose.
            on_frame: Called for every decoded frame.

        Raises:
            MediaError: It cannot be decoded.
            OutputError: The cache cannot be written.
        """
        base = self._base(path)
        entry = _read_entry(base)
        if entry is None:
            entry = self._decode(path, base, threads, on_frame)
        self._entries[path] = base, entry
        return entry.frames

    def verify(self, path: Path) -> None:
        """Compare the frames of a video with their hash, unless the file is unchanged since the last time.

        Damaged frames are removed.

        Raises:
            OutputError: They are damaged.
        """
        base, entry = self._entries[path]
        file = _frames_file(base)
        changed_ns = file.stat().st_mtime_ns
        if changed_ns == entry.mtime_ns:
            return
        if file_sha256(file) != entry.sha256:
            _entry_file(base).unlink()
            raise OutputError(f"{file}: damaged, and removed from the cache; start the run again to add it again")
        entry = replace(entry, mtime_ns=changed_ns)
        self._entries[path] = base, entry
        with contextlib.suppress(OSError):  # a read-only cache can still be read
            write_whole(_entry_file(base), json.dumps(asdict(entry)).encode())

    def frames(self, path: Path) -> int:
        """Number of frames of an added video."""
        return self._entries[path][1].frames

    def read_clips(self, path: Path, start_frames: Sequence[int], clip_frames: int) -> Pixels:
        """See `FrameSource.read_clips`; the video must have been added."""
        base, entry = self._entries[path]
        side = entry.side_px
        clips = np.zeros((len(start_frames), clip_frames, side, side, 3), np.uint8)
        with _frames_file(base).open("rb") as file:
            for clip, start in zip(clips, start_frames, strict=True):
                first, last = max(start, 0), min(start + clip_frames, entry.frames)
                if last > first:
                    file.seek(first * self._frame_bytes)
                    file.readinto(clip[first - start : last - start].data)
        return clips

    @property
    def _frame_bytes(self) -> int:
        return 3 * self._sampling.crop_px**2

    def _is_there(self, path: Path) -> bool:
        return _read_entry(self._base(path)) is not None

    def _base(self, path: Path) -> Path:
        status = path.stat()
        decisive = [
            FORMAT_VERSION,
            str(path.resolve()),
            status.st_size,
            status.st_mtime_ns,
            to_json(self._sampling),
        ]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:20]
        readable = re.sub(r"[^\w-]", "_", path.stem)[:60]
        return self.folder / f"{readable}-{digest}"

    def _decode(self, path: Path, base: Path, threads: int | None, on_frame: Callable[[], None]) -> CachedVideo:
        digest, count = hashlib.sha256(), 0
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                replacing(_frames_file(base)) as temporary,
                temporary.open("xb") as file,
                open_video(path, self._sampling, threads=threads) as stream,
            ):
                for count, frame in enumerate(stream, start=1):  # noqa: B007 (used after the loop)
                    file.write(frame.data)
                    digest.update(frame.data)
                    on_frame()
            entry = CachedVideo(
                frames=count,
                side_px=self._sampling.crop_px,
                sha256=digest.hexdigest(),
                mtime_ns=_frames_file(base).stat().st_mtime_ns,
            )
            write_whole(_entry_file(base), json.dumps(asdict(entry)).encode())
        return entry


def _frames_file(base: Path) -> Path:
    return base.with_name(f"{base.name}.rgb")


def _entry_file(base: Path) -> Path:
    return base.with_name(f"{base.name}.json")


def _read_entry(base: Path) -> CachedVideo | None:
    """The cache entry of a video; None if there is no complete one; see Note [frames on the disk]."""
    with contextlib.suppress(OSError, ValueError, ConfigError):
        value = json.loads(_entry_file(base).read_text(encoding="utf-8"))
        entry = from_json(CachedVideo, value, where="cache")
        if _frames_file(base).stat().st_size == 3 * entry.frames * entry.side_px**2:
            return entry
    return None


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
