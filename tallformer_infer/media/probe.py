"""Open a video, describe it, and check that it ends where its header says."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

from av.video.frame import VideoFrame

from tallformer_infer.errors import MediaError
from tallformer_infer.media.byte_sources import ByteSource, open_source, seek_hint
from tallformer_infer.media.decoding import Decoder
from tallformer_infer.media.picture import orientation_of
from tallformer_infer.media.spooling import SpooledBytes
from tallformer_infer.media.timestamps import FrameClock
from tallformer_infer.structures import VideoInfo

MIN_MISSING_S = 1.0
"""Tolerated difference between header and last frame."""
MIN_MISSING_PART = 0.02
"""The same, relative to the whole length."""


def probe(source: str | Path) -> VideoInfo:
    """Describe a video. This consumes the beginning of a pipe.

    Raises:
        MediaError: It cannot be opened, has no video, or nothing in it can be decoded.
    """
    opened = open_source(source)
    data = opened if opened.seekable() else SpooledBytes(opened)
    try:
        video = OpenedVideo(data, str(source), threads=1)
        video.close()
    finally:
        data.close()
    return video.info


class OpenedVideo:
    """A video with its first frame decoded."""

    def __init__(self, source: ByteSource, path: str, *, threads: int | None, video_stream: int | None = None) -> None:
        """Open `source` and decode up to the first frame.

        Raises:
            MediaError: Not a video, nothing in it can be decoded, or it has no such stream.
        """
        self._decoder = Decoder(source, path, threads=threads, video_stream=video_stream)
        self.time_base = self._decoder.time_base
        self._decoded = self._decoder.frames()
        self._clock = FrameClock(
            time_base=self.time_base,
            nominal_ticks=max(round(1 / (self._decoder.guessed_fps * self.time_base)), 1),
            start_ticks=self._decoder.start_ticks,
            wrap_ticks=self._decoder.wrap_ticks,
        )
        self._frames = self._clock.run(self._decoded)
        first, self._first_ticks = next(self._frames, (None, 0))
        if not isinstance(first, VideoFrame):  # nothing is left out before it
            self.close()
            reason = source.failure or f"errors: {self._decoder.damage.errors}"
            raise MediaError(f"{path}: nothing in it can be decoded ({reason}){seek_hint(source)}")
        self.missing_s = 0.0
        """What the header promises and the file does not hold at its end, in seconds; known after the last frame."""
        self._first = first
        self.orientation = orientation_of(first)
        self.pixel_aspect = self._decoder.pixel_aspect
        self._told = self._decoder.length(self._clock.start_s)
        self.info = self._describe(path)

    @property
    def errors(self) -> int:
        """Damage so far: see `Result.decode_errors`."""
        damage = self._decoder.damage
        is_cut_unnoticed = self.missing_s > 0 and not damage.is_last
        return damage.errors + damage.patched_frames + self._clock.jumps + is_cut_unnoticed

    @property
    def notes(self) -> list[str]:
        """Notes on the times so far, one line each."""
        clock = self._clock
        if not clock.gaps:
            return []
        places = "1 place" if clock.gaps == 1 else f"{clock.gaps} places"
        return [f"times jump ahead in {places}, by {clock.gap_s:.1f} s in all; the picture before stands there"]

    @property
    def end_ticks(self) -> int:
        """End of the last frame, in ticks of `time_base` after the start of the first."""
        return self._clock.end_ticks

    def frames(self, rate: Fraction) -> Generator[tuple[VideoFrame, int]]:
        """Frames with their presentation times, in ticks after the first one. Can be iterated once.

        Args:
            rate: Pictures per second that are taken; frames that none is taken from may be left out.
        """
        self._decoder.skip_unused(self._first, rate)
        yield self._first, self._first_ticks
        for frame, ticks in self._frames:
            if isinstance(frame, VideoFrame):
                yield frame, ticks
        self.missing_s = self._find_missing_s()

    def close(self) -> None:
        """Close the container, not the source."""
        self._decoded.close()
        self._decoder.close()

    def _find_missing_s(self) -> float:
        told, clock = self._told, self._clock
        if told.duration_s is None or told.promised_end_s is None or clock.jumps:
            return 0.0
        missing_s = told.promised_end_s - clock.start_s - float(clock.end_ticks * self.time_base)
        longest_still_s = float(clock.longest_ticks * self.time_base)  # the last frame may stand as long
        may_miss_s = max(MIN_MISSING_S, MIN_MISSING_PART * told.duration_s, longest_still_s)
        return missing_s if missing_s > may_miss_s else 0.0

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
            duration_s=self._told.duration_s,
            rotation_deg=self.orientation.clockwise_deg,
            stream=self._decoder.stream,
            streams=self._decoder.streams,
            is_generated=self._decoder.is_generated,
        )
