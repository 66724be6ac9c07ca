"""What a video is, known once its first frame is decoded."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from av.video.frame import VideoFrame

from tallformer_infer.errors import MediaError
from tallformer_infer.media.decoding import Decoder
from tallformer_infer.media.orientation import orientation_of
from tallformer_infer.media.sources import ByteSource, open_source, seek_hint
from tallformer_infer.media.timestamps import FrameClock
from tallformer_infer.structures import VideoInfo


def probe(source: str | Path) -> VideoInfo:
    """Read what a video is. Of a pipe, this takes the beginning away.

    Raises:
        MediaError: It cannot be opened, has no video, or nothing in it can be decoded.
    """
    data = open_source(source)
    try:
        video = OpenedVideo(data, str(source), threads=1)
        video.close()
    finally:
        data.close()
    return video.info


class OpenedVideo:
    """A video with its first frame decoded."""

    def __init__(self, source: ByteSource, path: str, *, threads: int | None) -> None:
        """Open `source` and decode up to the first frame.

        Raises:
            MediaError: Not a video, or nothing in it can be decoded.
        """
        self._decoder = Decoder(source, path, threads=threads)
        self.time_base = self._decoder.time_base
        self._frames = self._decoder.frames()
        first = next(self._frames, None)
        if first is None:
            self.close()
            reason = source.failure or f"{self._decoder.errors} errors"
            raise MediaError(f"{path}: nothing in it can be decoded ({reason}){seek_hint(source)}")
        self._first = first
        self._clock = FrameClock(
            time_base=self.time_base,
            nominal_ticks=max(round(1 / (self._decoder.guessed_fps * self.time_base)), 1),
            start_ticks=self._decoder.start_ticks,
        )
        self._first_ticks = self._stamp(first)
        self.orientation = orientation_of(first)
        self.info = self._describe(path)

    @property
    def errors(self) -> int:
        """Packets that could not be read or decoded, and timestamps too far off to be true, so far."""
        return self._decoder.errors + self._clock.jumps

    @property
    def end_ticks(self) -> int:
        """End of the last frame, in ticks of `time_base` after the start of the first."""
        return self._clock.end_ticks

    def frames(self) -> Generator[tuple[VideoFrame, int]]:
        """Every frame with the time it is shown, in ticks after the first one's. To be run through once."""
        yield self._first, self._first_ticks
        for frame in self._frames:
            yield frame, self._stamp(frame)

    def close(self) -> None:
        """Close the container, not the source."""
        self._frames.close()
        self._decoder.close()

    def _stamp(self, frame: VideoFrame) -> int:
        return self._clock.stamp(pts=frame.pts, dts=frame.dts, duration=frame.duration)

    def _describe(self, path: str) -> VideoInfo:
        width_px, height_px = self.orientation.upright_px(self._first.width, self._first.height)
        average_fps = self._decoder.average_fps
        return VideoInfo(
            path=path,
            width_px=width_px,
            height_px=height_px,
            codec=self._decoder.codec,
            source_fps=float(average_fps) if average_fps else None,
            start_s=self._clock.start_s,
            duration_s=self._decoder.duration_s,
            rotation_deg=self.orientation.clockwise_deg,
        )
