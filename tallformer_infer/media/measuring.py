"""How long a video really is, by the times of its packets: nothing is decoded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from tallformer_infer.media.containers import best_video, open_container
from tallformer_infer.media.lengths import told_length, wrap_ticks
from tallformer_infer.media.remote import RemoteBytes
from tallformer_infer.media.sources import ByteSource
from tallformer_infer.media.timestamps import FrameClock
from tallformer_infer.media.web import WebBytes

MAX_WAITING = 64
"""Packets that wait for those shown before them, at most."""
MIN_DIFFERENCE_S = 1.0
"""A header is believed if it is off by at most so much."""
MIN_DIFFERENCE_PART = 0.02
"""The same, as a part of the told length."""
_NEAR_END_S = 10.0


class _Times(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int | None


def length_s(source: ByteSource, path: str, *, video_stream: int | None = None) -> float | None:
    """Length of a video from its first frame on, in seconds: what its header says where that is about right.

    Headers of files that were cut short, joined, or have damaged times are wrong. A file of this machine is read to its
    end. Of an address that would be a second download: a header is believed where packets are found near its end.

    Args:
        source: At its start; it is left there if it can seek, and not touched if it cannot.
        path: For messages.
        video_stream: As of `best_video`.

    Returns:
        None where the source cannot seek, or nothing in it has a time.

    Raises:
        MediaError: Not a video, or no video in it.
    """
    if not source.seekable():
        return None
    try:
        with closing(open_container(source, path)) as container:
            stream = best_video(container, path, video_stream)
            time_base = _exact(stream.time_base) or Fraction(1, 90_000)
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


def _measured_s(container: InputContainer, stream: VideoStream, time_base: Fraction) -> float:
    rate = _exact(stream.guessed_rate) or _exact(stream.average_rate) or Fraction(25)
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
    """Times of packets in the order in which their frames are shown: none is shown before its decoding time."""
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


def _exact(rational: Fraction | None) -> Fraction | None:
    return Fraction(rational.numerator, rational.denominator) if rational else None
