"""Open a video, describe it, measure its length, and check that it ends where its header says."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media.byte_sources import ByteSource, RemoteBytes, SpooledBytes, open_source, seek_hint
from tallformer_infer.media.decoding import Decoder, as_fraction, best_video, open_container, told_length, wrap_ticks
from tallformer_infer.media.graph import exact_rate, orientation_of
from tallformer_infer.media.hardware import SOFTWARE, Hardware
from tallformer_infer.media.timestamps import FrameClock
from tallformer_infer.media.web import WebBytes
from tallformer_infer.structures import VideoInfo

MIN_MISSING_S = 1.0
"""Tolerated difference between header and last frame, in seconds."""
MIN_MISSING_PART = 0.02
"""The same as a fraction of the duration."""

MAX_WAITING = 64
"""Size of the reorder buffer, in packets."""
MIN_DIFFERENCE_S = 1.0
"""A duration from a header is used if it is off by at most this, in seconds."""
MIN_DIFFERENCE_PART = 0.02
"""The same as a fraction of the duration in the header."""
_NEAR_END_S = 10.0
SLOWEST_FPS, FASTEST_FPS = 0.01, 1000.0
"""Frame rate limits of recipes; 768 frames of a whole video cover at most 21 hours. A file's own rate outside these
limits is treated as damaged."""


def probe(source: str | Path) -> VideoInfo:
    """Describe a video. This consumes the beginning of a pipe.

    Raises:
        MediaError: The file cannot be opened, has no video stream, or no frame of it can be decoded.
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

    def __init__(
        self,
        source: ByteSource,
        path: str,
        *,
        threads: int | None,
        video_stream: int | None = None,
        hardware: Hardware = SOFTWARE,
    ) -> None:
        """Open `source` and decode up to the first frame.

        Raises:
            MediaError: Not a video, no such stream, no frame of it can be decoded, or the required hardware cannot
                decode it.
        """
        self._decoder = Decoder(source, path, threads=threads, video_stream=video_stream, hardware=hardware)
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
        if not isinstance(first, VideoFrame):  # skipping starts after the first frame
            self.close()
            reason = source.failure or f"errors: {self._decoder.damage.errors}"
            raise MediaError(f"{path}: no frame can be decoded ({reason}){seek_hint(source)}")
        self.missing_s = 0.0
        """Video missing at the end, compared with the header, in seconds; known after the last frame."""
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
        """Notes on the decoder and on the timestamps so far, one line each."""
        clock = self._clock
        if not clock.gaps:
            return self._decoder.notes
        places = "1 place" if clock.gaps == 1 else f"{clock.gaps} places"
        return [
            *self._decoder.notes,
            f"timestamps jump ahead in {places}, by {clock.gap_s:.1f} s in total; the frame before is repeated",
        ]

    @property
    def end_ticks(self) -> int:
        """End of the last frame, in ticks of `time_base` after the start of the first."""
        return self._clock.end_ticks

    def frames(self, rate: Fraction) -> Generator[tuple[VideoFrame, int]]:
        """Frames with their presentation times, in ticks after the first one. Can be iterated once.

        Args:
            rate: Sampling rate, in frames per second; frames that are never sampled may be skipped.
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
        longest_still_s = float(clock.longest_ticks * self.time_base)  # the last frame may be shown as long
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
            hwaccel=self._decoder.hwaccel,
        )


class _Times(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int | None


def whole_length_s(source: ByteSource, path: str, *, video_stream: int | None = None) -> float | None:
    """Duration of a video from its first frame, in seconds: from its header if roughly correct, otherwise measured.

    Headers of truncated or concatenated files, or of files with damaged times, are wrong. Local files are read to the
    end, without decoding. For an address that would be a second download: its header is used if there are packets near
    the end that it gives.

    Args:
        source: At its start; rewound afterwards if it can seek, and not read otherwise.
        path: Name for error messages.
        video_stream: As `wanted` in `best_video`.

    Returns:
        The duration; None if the source cannot seek, or no packet has a time.

    Raises:
        MediaError: Not a video, or no video in it.
    """
    if not source.seekable():
        return None
    try:
        with closing(open_container(source, path)) as container:
            stream = best_video(container, path, video_stream)
            time_base = as_fraction(stream.time_base) or Fraction(1, 90_000)
            start_s = float((stream.start_time or 0) * time_base)
            told = told_length(container, stream, time_base=time_base, first_frame_s=start_s)
            if told.promised_end_s is not None and isinstance(source, (WebBytes, RemoteBytes)):
                if _has_packets_near(container, stream, told.promised_end_s, time_base):
                    return told.duration_s
                container.seek(0)
            found_s = _measured_s(container, stream, time_base)
    finally:
        source.seek(0)
    if not found_s or told.duration_s is None:
        return found_s or told.duration_s
    limit_s = max(MIN_DIFFERENCE_S, MIN_DIFFERENCE_PART * told.duration_s)
    return told.duration_s if abs(found_s - told.duration_s) <= limit_s else found_s


def video_rate(sampling: SamplingConfig, path: str, *, source_fps: float | None, covered_s: float | None) -> float:
    """Rate at which frames of a video are sampled, in frames per second.

    Args:
        sampling: With `most_frames`, the video's own rate is used, or lowered to give at most `most_frames` in
            `covered_s`.
        path: Name for error messages.
        source_fps: The video's own rate, if known.
        covered_s: Duration that `most_frames` must cover, in seconds: that of the video or of a window; None if
            unknown.

    Raises:
        MediaError: `most_frames` is set, and the duration is unknown or too long.
    """
    if sampling.most_frames is None:
        return sampling.sample_fps
    is_known = source_fps is not None and SLOWEST_FPS <= source_fps <= FASTEST_FPS
    own_fps = source_fps if source_fps is not None and is_known else sampling.sample_fps
    if covered_s is None:
        raise MediaError(
            f"{path}: duration unknown, and this model processes whole videos; "
            "use windows of a fixed length (`tallformer detect --windows 60`), or save the video to a file"
        )
    if own_fps * covered_s < sampling.most_frames + 0.5:
        return float(exact_rate(own_fps))
    rate_fps = float(exact_rate(sampling.most_frames / covered_s))
    if rate_fps < SLOWEST_FPS:
        raise MediaError(
            f"{path}: {covered_s:.0f} s are too long for {sampling.most_frames} frames; "
            "use windows of a fixed length (`tallformer detect --windows 600`)"
        )
    return rate_fps


def _measured_s(container: InputContainer, stream: VideoStream, time_base: Fraction) -> float:
    rate = as_fraction(stream.guessed_rate) or as_fraction(stream.average_rate) or Fraction(25)
    clock = FrameClock(
        time_base=time_base,
        nominal_ticks=max(round(1 / (rate * time_base)), 1),
        start_ticks=stream.start_time or 0,
        wrap_ticks=wrap_ticks(container),
    )
    count = sum(1 for _ in clock.run(_as_shown(_packets(container, stream))))
    return float(clock.end_ticks * time_base) if count else 0.0


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (FFmpegError, IndexError, StopIteration):  # IndexError: see `Decoder`
            return
        if packet.size and not packet.is_discard:
            yield packet


def _as_shown(packets: Iterator[Packet[VideoStream]]) -> Iterator[_Times]:
    """Sort the times of packets into presentation order, given that no frame is shown before its decoding time."""
    waiting: list[tuple[int, int, _Times]] = []
    last_dts: int | None = None
    for number, packet in enumerate(packets):
        times = _Times(packet.pts, packet.dts, packet.duration)
        dts = packet.dts
        restarts = dts is not None and last_dts is not None and dts < last_dts
        last_dts = dts if dts is not None else last_dts
        while waiting and (restarts or len(waiting) >= MAX_WAITING or (dts is not None and waiting[0][0] <= dts)):
            yield heapq.heappop(waiting)[2]
        place = times.pts if times.pts is not None else times.dts
        if place is None:
            yield times
        else:
            heapq.heappush(waiting, (place, number, times))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _has_packets_near(container: InputContainer, stream: VideoStream, end_s: float, time_base: Fraction) -> bool:
    try:
        container.seek(int((end_s - 1) / time_base), stream=stream)
        packet = next(container.demux(stream))
    except (FFmpegError, IndexError, StopIteration):
        return False
    place = packet.pts if packet.pts is not None else packet.dts
    return bool(packet.size) and place is not None and place * time_base >= end_s - 1 - _NEAR_END_S
