"""A video for measurements: the first part of a user's video, or a generated one."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tallformer_infer.errors import MediaError
from tallformer_infer.media import best_video, open_container, open_source

WIDTH_PX, HEIGHT_PX, FPS = 1280, 720, 30
_LOOP_S = 10
"""Seconds that are drawn and encoded; the rest is repetition."""


def write_sample(path: Path, *, seconds: int) -> None:
    """Write h264 of 1280 x 720 at 30 frames per second: a textured scene with camera pans and moving objects.

    Args:
        path: An .mp4 file.
        seconds: Duration; rounded up to a multiple of ten.

    Raises:
        MediaError: The installed PyAV cannot write h264.
    """
    part = path.with_suffix(".part.mp4")
    try:
        with av.open(str(part), "w") as out:
            stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "g": "60"})
            stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
            scene = _scene(np.random.default_rng(0))
            for index in range(_LOOP_S * FPS):
                frame = av.VideoFrame.from_ndarray(_picture(scene, index), format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        copy_packets(part, path, times=-(-seconds // _LOOP_S))
    except (FFmpegError, ValueError) as error:
        raise MediaError(f"cannot generate a video for measurements ({error}); give one of yours") from error
    finally:
        part.unlink(missing_ok=True)


def first_seconds(path: str, target: Path, *, seconds: float) -> None:
    """Copy the first seconds of a file, without re-encoding.

    Args:
        path: A regular file.
        target: An .mkv file, which supports every codec.
        seconds: Packets that start later are dropped.

    Raises:
        MediaError: The file cannot be opened, has no video, or has packets without presentation times.
    """
    source = open_source(path)
    try:
        with open_container(source, path) as container, av.open(str(target), "w", format="matroska") as out:
            video = best_video(container, path)
            stream = out.add_stream_from_template(video, opaque=True)  # also for codecs without an encoder
            base, first = video.time_base or 1, None
            for packet in container.demux(video):
                if packet.dts is None or packet.pts is None:
                    continue
                first = packet.dts if first is None else first
                if (packet.dts - first) * base > seconds:
                    break
                packet.stream = stream
                out.mux(packet)
            if first is None:
                raise ValueError("its packets have no presentation times")
    except (FFmpegError, ValueError) as error:
        raise MediaError(
            f"{path}: its first {seconds:g} s cannot be copied ({error}); --seconds 0 takes all"
        ) from error
    finally:
        source.close()


def copy_packets(source: Path, target: Path, *, times: int) -> None:
    """Repeat a generated file several times, without re-encoding."""
    with av.open(str(target), "w") as out:
        stream: VideoStream | None = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                for packet in container.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    out.mux(packet)
                offset += video.duration or 0


def _scene(random: np.random.Generator) -> NDArray[np.uint8]:
    """A wide picture with details of all sizes, shape (H, 2 W, 3)."""
    height, width = HEIGHT_PX, 2 * WIDTH_PX
    total = np.zeros((height, width, 3), np.float32)
    for size in (4, 16, 80):
        small = random.normal(0, 12 + size / 4, (height // size, width // size, 3)).astype(np.float32)
        total += small.repeat(size, axis=0).repeat(size, axis=1)
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def _picture(scene: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    left = round(WIDTH_PX / 2 * (1 + np.sin(2 * np.pi * index / (_LOOP_S * FPS))))
    picture = scene[:, left : left + WIDTH_PX].copy()
    for number in range(6):
        turn = 2 * np.pi * (index / (_LOOP_S * FPS) * (number + 1) + number / 6)
        row = round(HEIGHT_PX / 2 + 0.35 * HEIGHT_PX * np.sin(turn))
        column = round(WIDTH_PX / 2 + 0.4 * WIDTH_PX * np.cos(turn))
        picture[row - 40 : row + 40, column - 40 : column + 40] = (40 * number, 255 - 40 * number, 128)
    return picture
