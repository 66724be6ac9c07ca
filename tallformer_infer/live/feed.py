"""Packets of a live source, with reconnects, in sessions of continuous time.

Note [sessions]
    Between two interruptions (the connection was lost, or the machine was too slow) time is continuous, and this
    session is processed like a video. An interruption ends it: features on both sides are unrelated, and an action in
    progress is cut there. The missed time is reported as a gap, in wall-clock time.

Note [too slow]
    Received data that is not decoded yet is queued as compressed packets. When the queue spans more than
    `most_delay_s`, in one session or several, it is dropped, together with all packets up to the next key frame; these
    are counted, and reported as a gap. Otherwise the delay would only grow.

Note [which protocols]
    FFmpeg opens network protocols only here, and only those that the kind of address needs: a playlist from the network
    cannot refer to a local file.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from tallformer_infer.errors import MediaError

_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,udp,tcp,tls,srtp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
    "http": "http,https,tcp,tls,crypto",
    "https": "https,http,tcp,tls,crypto",
    "srt": "srt",
    "udp": "udp",
    "tcp": "tcp",
}
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_POLL_S = 0.2
_FILE_PACKETS = 500

VideoPacket: TypeAlias = "Packet[VideoStream]"
GapReason = Literal["connection", "too slow"]


@dataclass(frozen=True, kw_only=True)
class FeedOptions:
    """Options for reading a source."""

    timeout_s: float = 10.0
    """Time without data after which a source is lost, in seconds."""
    most_delay_s: float = 30.0
    """Maximum span of queued packets, in seconds. See Note [too slow]."""
    keep_s: float = 0.0
    """Time for which packets are kept after they were read, for recording, in seconds."""
    reconnects: bool = True
    """Whether to reconnect to a lost source, indefinitely; otherwise its loss is the end."""
    idle_s: float = 10.0
    """Time without growth after which a file has ended, in seconds."""


@dataclass(frozen=True)
class Gap:
    """A period that was missed."""

    start: float
    """Start, wall-clock time in seconds since 1970."""
    end: float
    """End, wall-clock time in seconds since 1970."""
    reason: GapReason
    """Kind of reason."""
    detail: str
    """Details, in one line."""


@dataclass(frozen=True)
class TimedPacket:
    """A packet of the video stream."""

    packet: VideoPacket
    """The packet; must not be changed, as the recorder copies it."""
    seconds: float
    """Time since the start of the session."""
    step_s: float
    """Time since the packet before it in the session."""


class _Source:
    """An open source with a reference count: closed when the reading thread and all its sessions have released it.

    PyAV's containers and streams reference each other: they would otherwise stay open until a garbage collection.
    """

    def __init__(self, container: InputContainer) -> None:
        """Start with one reference, of the caller."""
        self.container = container
        self._users = 1
        self._lock = threading.Lock()

    def join(self) -> None:
        """Add a reference."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """Release a reference."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self.container.close()


class Session:
    """The pictures of a period of continuous time."""

    def __init__(self, feed: Feed, source: _Source, start: float, base_s: float) -> None:
        source.join()
        self.stream: VideoStream = source.container.streams.video[0]
        """The video stream; valid until the session is closed."""
        self.start = start
        """Wall-clock time of its first picture, in seconds since 1970."""
        self._feed = feed
        self._source: _Source | None = source
        self._base_s = base_s

    @property
    def is_closed(self) -> bool:
        """Whether the session was closed by its reader."""
        return self._source is None

    def close(self) -> None:
        """Release the source; called automatically when the next session is requested. Can be called repeatedly."""
        source, self._source = self._source, None
        if source is not None:
            source.leave()

    def pictures(self, least_step_s: float) -> Iterator[tuple[float, Any]]:
        """Pictures as (seconds since its start, uint8 RGB of shape (H, W, 3)).

        Args:
            least_step_s: Minimum average time between pictures, in seconds; others are skipped.
        """
        due_s, last_s = 0.0, -1.0
        for frame in self._frames():
            seconds = -1.0 if frame.time is None else float(frame.time) - self._base_s
            if seconds >= due_s and seconds > last_s:
                due_s, last_s = max(due_s + least_step_s, seconds + least_step_s / 2), seconds
                yield seconds, frame.to_ndarray(format="rgb24")

    def seconds_of(self, packet: VideoPacket) -> float:
        """Time of a packet since the start of the session."""
        return _moment_s(packet) - self._base_s

    def _frames(self) -> Iterator[Any]:
        # Not the decoder of the stream, which belongs to the reading thread.
        decoder = cast(VideoCodecContext, CodecContext.create(self.stream.codec_context.name, "r"))
        decoder.extradata = self.stream.codec_context.extradata
        while (taken := self._feed.take(self)) is not None:
            yield from _decoded(decoder, taken.packet)
        yield from _decoded(decoder, None)


class Feed:
    """Reads a source in a separate thread."""

    def __init__(self, address: str, options: FeedOptions) -> None:
        """Check the address; nothing is opened yet.

        Args:
            address: `rtsp://`, `http(s)://` (HLS included), `rtmp://`, `srt://`, `udp://`, a video device, a file that
                may grow, or `-` for standard input.
            options: Options for reading it.

        Raises:
            MediaError: There is no such file, or the protocol is not supported.
        """
        self.address = address
        self.options = options
        self.dropped_packets = 0
        """See Note [too slow]."""
        self._kind = _kind_of(address)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Session, TimedPacket]] = deque()
        self._waiting_s = 0.0
        self._latest_s = 0.0
        self._kept: deque[tuple[Session, TimedPacket]] = deque()
        self._sessions: deque[Session | Gap] = deque()
        self._current: Session | None = None
        self._heard_at = 0.0
        self._lost_at: float | None = None
        self._reason: GapReason = "connection"
        self._why = ""
        self._error: str | None = None
        self._ended = False
        self._closing = threading.Event()
        self._file: _GrowingFile | None = None
        self._thread = threading.Thread(target=self._run, name="tallformer-feed", daemon=True)

    @property
    def is_live(self) -> bool:
        """Whether the source runs in real time."""
        return self._kind not in ("file", "stdin")

    def sessions(self) -> Iterator[Session | Gap]:
        """Sessions and the gaps between them, until the source ends.

        Raises:
            MediaError: The source could never be opened, or reconnecting is disabled.
        """
        self._thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._sessions or self._ended)
                if not self._sessions:
                    if self._error is not None:
                        raise MediaError(self._error)
                    return
                found = self._sessions.popleft()
            try:
                yield found
            finally:
                if isinstance(found, Session):
                    found.close()

    def take(self, session: Session) -> TimedPacket | None:
        """The next packet of a session; None at its end."""
        with self._changed:
            while True:
                while self._waiting and self._waiting[0][0].is_closed:
                    self._pop()
                if self._waiting and self._waiting[0][0] is session:
                    self._changed.notify_all()  # the reader of a file waits for free space
                    return self._pop()
                if self._current is not session or self._ended:
                    return None
                self._changed.wait()

    def _pop(self) -> TimedPacket:
        timed = self._waiting.popleft()[1]
        self._waiting_s -= timed.step_s
        return timed

    def kept(self, session: Session, start_s: float, end_s: float) -> list[TimedPacket]:
        """Kept packets of a session, from the key frame at or before `start_s` to `end_s`."""
        with self._changed:
            own = [timed for owner, timed in self._kept if owner is session and timed.seconds < end_s]
        first = 0
        for index, timed in enumerate(own):
            if timed.packet.is_keyframe and timed.seconds <= start_s:
                first = index
        while first < len(own) and not own[first].packet.is_keyframe:
            first += 1
        return own[first:]

    def close(self) -> None:
        """Stop reading; can be called from any thread, repeatedly."""
        self._closing.set()
        if self._file is not None:
            self._file.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._closing.is_set():
            try:
                self._read(_Source(self._open()))
                why = f"{self.address}: ended"
            except (av.FFmpegError, OSError, MediaError) as error:
                why = f"{self.address}: {getattr(error, 'strerror', None) or error}"
                if self._lost_at is None and self._current is None:
                    self._error = why
                    break
            if self._current is not None:
                wait_s = _FIRST_WAIT_S
                with self._changed:
                    self._current, self._lost_at = None, self._heard_at
                    self._reason, self._why = "connection", why
                    self._changed.notify_all()
            if not self.is_live or not self.options.reconnects:
                break
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if self._file is not None:
            self._file.close()
        with self._changed:
            if self._reason == "too slow":  # otherwise nothing is known to be missing
                self._report_gap(time.time())
            self._ended, self._current = True, None
            self._changed.notify_all()

    def _open(self) -> InputContainer:
        timeout = (self.options.timeout_s, self.options.timeout_s)
        if self._kind == "stdin":
            # A buffered reader would wait until its buffer is full: seconds of a video with a low bit rate.
            return av.open(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), mode="r")
        if self._kind == "file":
            self._file = _GrowingFile(self.address, self.options.idle_s, self._closing)
            # FFmpeg would read the last timestamp at the end of the file, and wait there for it to grow.
            return av.open(self._file, mode="r", options={"skip_estimate_duration_from_pts": "1"})
        if self._kind == "device":
            return av.open(self.address, mode="r", format="video4linux2,v4l2", timeout=timeout)
        options = {"protocol_whitelist": _PROTOCOLS[self._kind]}
        if self._kind in ("rtsp", "rtsps"):
            options["rtsp_transport"] = "tcp"
        return av.open(self.address, mode="r", options=options, timeout=timeout)

    def _read(self, source: _Source) -> None:
        try:
            if not source.container.streams.video:
                raise MediaError("has no video")
            self._demux(source)
        finally:
            source.leave()

    def _demux(self, source: _Source) -> None:
        heard_s = time.monotonic()
        for packet in source.container.demux(source.container.streams.video[0]):
            if self._closing.is_set():
                return
            if self.is_live and time.monotonic() - heard_s >= self.options.timeout_s:
                # FFmpeg first returns what its parser still holds, and would wait as long again.
                raise MediaError(f"no data for {self.options.timeout_s:.0f} s")
            heard_s, self._heard_at = time.monotonic(), time.time()
            if packet.size == 0 or packet.pts is None or packet.time_base is None:
                continue
            if self._current is None:
                if not packet.is_keyframe:
                    self.dropped_packets += 1
                    continue
                self._begin_session(source, packet)
            with self._changed:
                self._add(packet)
                self._changed.notify_all()
                if not self.is_live:  # a file waits for its reader
                    self._changed.wait_for(lambda: len(self._waiting) < _FILE_PACKETS or self._ended)

    def _begin_session(self, source: _Source, packet: VideoPacket) -> None:
        now = time.time()
        with self._changed:
            self._report_gap(now)
            self._current, self._latest_s = Session(self, source, now, _moment_s(packet)), 0.0
            self._sessions.append(self._current)
            self._changed.notify_all()

    def _report_gap(self, now: float) -> None:
        """End the current gap; called with the lock held. A source faster than real time may lag behind its packets."""
        if self._lost_at is not None:
            self._sessions.append(Gap(self._lost_at, max(now, self._lost_at), self._reason, self._why))
            self._lost_at = None

    def _add(self, packet: VideoPacket) -> None:
        """Add a packet to the current session; called with the lock held."""
        session = self._current
        assert session is not None, "it was begun before"
        seconds = session.seconds_of(packet)
        timed = TimedPacket(packet, seconds, seconds - self._latest_s)
        self._latest_s = seconds
        self._waiting.append((session, timed))
        self._waiting_s += timed.step_s
        if self.options.keep_s > 0:
            self._keep(session, timed)
        if self.is_live and self._waiting_s > self.options.most_delay_s:
            self._drop()

    def _keep(self, session: Session, timed: TimedPacket) -> None:
        self._kept.append((session, timed))
        while self._kept and (
            self._kept[0][0] is not session or timed.seconds - self._kept[0][1].seconds > self.options.keep_s
        ):
            self._kept.popleft()

    def _drop(self) -> None:
        """Drop queued packets as one gap, see Note [too slow]; called with the lock held."""
        owner, first = self._waiting[0]
        starts = [one.start for one in self._sessions if isinstance(one, Gap)]
        self._current, self._lost_at = None, min([owner.start + first.seconds, *starts])
        self._reason = "too slow"
        self._why = f"this machine is {self._waiting_s:.0f} s behind; {len(self._waiting)} packets were dropped"
        self.dropped_packets += len(self._waiting)
        for unread in self._sessions:
            if isinstance(unread, Session):
                unread.close()
        self._waiting.clear()
        self._sessions.clear()
        self._waiting_s = 0.0


class _GrowingFile:
    """A file that is still being written: it ends when nothing was added for `idle_s`."""

    def __init__(self, path: str, idle_s: float, closing: threading.Event) -> None:
        # Unbuffered: a named pipe would have to fill the buffer first.
        self._file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 (closed by `close`)
        self._idle_s = idle_s
        self._closing = closing
        self._has_ended = False

    def read(self, size: int) -> bytes:
        """Wait for bytes; empty at the end, where FFmpeg reads several times."""
        until_s = time.monotonic() + self._idle_s
        while not (data := self._file.read(size)):
            if self._has_ended or time.monotonic() > until_s or self._closing.wait(_POLL_S):
                self._has_ended = True
                return b""
        self._has_ended = False
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def close(self) -> None:
        """Close it."""
        self._file.close()


def _kind_of(address: str) -> str:
    if address == "-":
        return "stdin"
    scheme, separator, _ = address.partition("://")
    if separator:
        if scheme.lower() not in _PROTOCOLS:
            raise MediaError(f"{address}: expected one of {', '.join(f'{name}://' for name in _PROTOCOLS)}")
        return scheme.lower()
    try:
        mode = os.stat(address).st_mode  # noqa: PTH116 (a name is taken as it is)
    except OSError as error:
        raise MediaError(f"{address}: {error.strerror or error}") from error
    if stat.S_ISCHR(mode):
        return "device"
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return "file"
    raise MediaError(f"{address}: expected an address, a video device or a file")


def _moment_s(packet: VideoPacket) -> float:
    """Presentation time on the source's own timeline; packets without one were dropped before."""
    return float((packet.pts or 0) * (packet.time_base or 0))


def _decoded(decoder: VideoCodecContext, packet: VideoPacket | None) -> list[Any]:
    """Decoded frames of a packet; none if it is damaged."""
    try:
        return list(decoder.decode(packet))
    except av.FFmpegError:
        return []
