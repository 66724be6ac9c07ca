"""Open a container with FFmpeg and select its video stream."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from tallformer_infer.errors import MediaError
from tallformer_infer.media.byte_sources import ByteSource, seek_hint

SELF_CONTAINED_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,nut,mxf,gxf,wtv,dhav,dv,rm,ivf,obu,av1,"
    "h261,h263,h264,hevc,vvc,evc,m4v,vc1,vc1test,cavsvideo,avs2,avs3,dirac,dnxhd,mjpeg,mjpeg_2000,smjpeg,yuv4mpegpipe,gif,apng,"
    "amv,swf,nsv,nuv,pva,pvf,mtv,mv,film_cpk,bink,smk,roq,flic,4xm,lvf,vivo,vividas,ty,kux,xmv,thp,cine,rl2,r3d,filmstrip"
)
"""FFmpeg demuxers that read a single video file and never open another."""
GENERATE_TIMES = 0x0001
"""FFmpeg's AVFMT_FLAG_GENPTS."""
READ_BYTES = 1 << 17
"""Bytes requested from a source at a time."""
PLAYLIST_SIGNATURES = (b"#EXTM3U", b"\xef\xbb\xbf#EXTM3U")
"""First bytes of M3U and HLS. As FFmpeg's demuxer for them is not allowed, it reports them as damaged data."""
MADE_BY_SYNTHETIC = '"made by": "tallformer-synthetic'
"""What `tallformer_training.synthetic` writes into the comment of its videos."""
_OLD_PYAV = int(av.__version__.split(".")[0]) < 19
# PyAV up to 18 refuses a file whose title is not UTF-8 unless told otherwise; 19 takes it, and this argument is gone.
_OPEN_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if _OLD_PYAV else {}


def open_container(source: ByteSource, path: str) -> InputContainer:
    """Open the container whose bytes `source` gives. See Note [FFmpeg is only handed bytes].

    Raises:
        MediaError: Not one of `SELF_CONTAINED_FORMATS`, or damaged beyond opening.
    """
    seen = _FirstBytes(source)
    whitelists = {"protocol_whitelist": "", "format_whitelist": SELF_CONTAINED_FORMATS}
    try:
        container: InputContainer = av.open(
            seen, "r", container_options=whitelists, buffer_size=READ_BYTES, **_OPEN_OPTIONS
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(_cannot_open(error, source, path, first=seen.first)) from error
    # PyAV asks FFmpeg to invent missing presentation times, which go wrong for B-frames in AVI; `FrameClock` does it.
    container.flags = container.flags & ~GENERATE_TIMES
    return container


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """Video streams, without cover images."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def is_generated(container: InputContainer) -> bool:
    """Whether the container says that `tallformer_training.synthetic` made it."""
    return MADE_BY_SYNTHETIC in container.metadata.get("comment", "")


def best_video(container: InputContainer, path: str, wanted: int | None = None) -> VideoStream:
    """Select a video stream: FFmpeg's main one, or one by number; never a cover image.

    Args:
        container: The file.
        path: For messages.
        wanted: Number of the stream among `moving_pictures`, from 0; None takes the main one.

    Raises:
        MediaError: No such video stream, or none that this build of FFmpeg can decode.
    """
    best = container.streams.best("video")
    moving = moving_pictures(container)
    if wanted is not None and moving:
        if not 0 <= wanted < len(moving):
            last = f"0 to {len(moving) - 1}" if len(moving) > 1 else "only 0"
            raise MediaError(f"{path}: no video stream {wanted}; expected {last}")
        best = moving[wanted]
    elif best not in moving:
        best = max(moving, key=_picture_px, default=None)
    if not isinstance(best, VideoStream):
        raise MediaError(f"{path}: no video stream")
    if best.codec_context is None:
        raise MediaError(f"{path}: no decoder for its video stream")
    return best


def as_fraction(rational: Fraction | None) -> Fraction | None:
    """Convert PyAV's rational (a Fraction, or from 19 on its own type) to a Fraction; None for None and 0."""
    return Fraction(rational.numerator, rational.denominator) if rational else None


def _picture_px(stream: VideoStream) -> int:
    return stream.width * stream.height if stream.codec_context is not None else 0


class _FirstBytes:
    """Adapter from a source to what PyAV needs; it keeps the first bytes for error messages."""

    def __init__(self, source: ByteSource) -> None:
        self.first = b""
        self.seekable, self.seek, self.tell = source.seekable, source.seek, source.tell
        self._read = source.read

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.first = self.first or data[:16]
        return data


def _cannot_open(error: Exception, source: ByteSource, path: str, *, first: bytes) -> str:
    if source.failure:
        return f"{path}: cannot be read: {source.failure}"
    not_listed = isinstance(error, av.error.ArgumentError)  # what FFmpeg says of a format that is not on the whitelist
    if not_listed or first.startswith(PLAYLIST_SIGNATURES):
        return f"{path}: not a video file (playlists, scripts and images that name other files are not read)"
    reason = error.strerror if isinstance(error, FFmpegError) and error.strerror else str(error)
    return f"{path}: cannot be opened as video: {reason}{seek_hint(source)}"
