"""Short clips around actions, copied from the packets that were received: nothing is encoded anew."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import cast

import av
from av.packet import Packet

from tallformer_infer.errors import OutputError
from tallformer_infer.files import replacing
from tallformer_infer.live.feed import Feed, Session, VideoPacket
from tallformer_infer.structures import Action

_MARGIN_S = 2.0
_UNSAFE = re.compile(r"[^\w-]+")


class Recorder:
    """Writes a file per action into a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            OutputError: It cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from error
        self._folder = folder

    def record(self, feed: Feed, session: Session, action: Action) -> Path | None:
        """Write the clip of an action, from the key frame before it; None if its packets are not kept any more.

        Raises:
            OutputError: It cannot be written.
        """
        packets = feed.kept(session, action.start_s - _MARGIN_S, action.end_s + _MARGIN_S)
        if not packets or packets[-1].seconds < action.start_s:
            return None
        moment = datetime.datetime.fromtimestamp(session.start + action.start_s, datetime.UTC)
        name = f"{moment:%Y%m%dT%H%M%S}Z-{_UNSAFE.sub('-', action.label)}.mkv"
        path = self._folder / name
        try:
            with replacing(path) as partial, av.open(str(partial), "w", format="matroska") as output:
                stream = output.add_stream_from_template(session.stream)
                first = packets[0].packet
                offset = min(timed.packet.dts for timed in packets if timed.packet.dts is not None) if first.dts else 0
                for timed in packets:
                    output.mux(_copied(timed.packet, stream, offset))
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
        return path


def _copied(packet: VideoPacket, stream: av.VideoStream, offset: int) -> VideoPacket:
    copied = cast("VideoPacket", Packet(bytes(packet)))
    copied.time_base = packet.time_base
    copied.pts = None if packet.pts is None else packet.pts - offset
    copied.dts = None if packet.dts is None else packet.dts - offset
    copied.duration = packet.duration
    copied.is_keyframe = packet.is_keyframe
    copied.stream = stream
    return copied
