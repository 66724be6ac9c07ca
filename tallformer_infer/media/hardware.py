"""Hardware decoders: which kinds this FFmpeg can use, whether a device opens, and which videos are left to it.

Note [the same pixels from hardware]
    H.264, HEVC, VP8, VP9 and AV1 are defined to the bit, so a device decodes the same numbers as the processor. They
    come back as nv12 (p010 for 10 bits), which is 4:2:0 with its two planes of chroma interleaved, and go through the
    same filters: swscale gives the same RGB for nv12 as for yuv420p, to the bit (tests/test_hardware_decoding.py).
    MPEG-2, MPEG-4 Part 2 and VC-1 are not: two decoders may differ by a level or two. `auto` leaves them to the
    processor; a kind that was named takes them. How a decoder patches damaged pictures is defined for no codec.

Note [decoders that FFmpeg selects]
    A container gets FFmpeg's own decoder of a codec, and a device helps that one. Decoders that belong to a device
    (`h264_qsv`, `h264_cuvid`, `h264_amf`) must be named and set up by hand, which loses what only the container tells:
    colours, and how far frames are reordered. So Intel's Quick Sync and AMD's AMF are not among the kinds here; both
    vendors' devices are reached through VAAPI and D3D11VA.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import av.logging
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.codec.hwaccel import HWAccel, HWConfig
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from tallformer_infer.devices import Hwaccel
from tallformer_infer.errors import DeviceError

KINDS = ("cuda", "videotoolbox", "d3d11va", "vaapi")
"""FFmpeg's names of the kinds that can be used, in the order in which `auto` tries them."""
EXACT_CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
"""Codecs that are defined to the bit, see Note [the same pixels from hardware]."""
PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "nv12", "yuv420p10le", "p010le"})
"""Formats whose frames come back from a device as nv12 or p010: 4:2:0 in 8 or 10 bits."""


@dataclass(frozen=True)
class Hardware:
    """What decodes videos, besides the processor."""

    kind: str | None
    """FFmpeg's name of the kind of device; None: the processor decodes everything."""
    is_required: bool
    """Whether a video that the device does not take is an error; False: the processor decodes it."""
    reason: str
    """Why, in one line."""


SOFTWARE = Hardware(None, is_required=False, reason="the processor decodes")


def choose_hardware(asked: Hwaccel) -> Hardware:
    """What `--hwaccel` stands for on this machine.

    Args:
        asked: `none`, `auto`, or a kind of device.

    Raises:
        DeviceError: A kind was named that this FFmpeg does not have, or of which no device opens.
    """
    if asked == "none":
        return SOFTWARE
    offered = offered_kinds()
    listed = f"FFmpeg here offers {', '.join(offered) or 'no hardware decoder'}"
    if asked != "auto":
        if asked not in offered:
            raise DeviceError(f"hwaccel {asked}: not in this build of FFmpeg; {listed}; use auto or none")
        problem = why_closed(asked)
        if problem is not None:
            raise DeviceError(f"hwaccel {asked}: no device opens ({problem}); {listed}; use auto or none")
        return Hardware(asked, is_required=True, reason=f"{asked} decodes, as asked")
    problems = []
    for kind in offered:
        problem = why_closed(kind)
        if problem is None:
            return Hardware(kind, is_required=False, reason=f"{kind} decodes what it can, the processor the rest")
        problems.append(f"{kind} does not open: {problem}")
    return Hardware(None, is_required=False, reason=f"the processor decodes: {'; '.join(problems) or listed}")


def offered_kinds() -> tuple[str, ...]:
    """Kinds of devices that this build of FFmpeg can use for a codec of `EXACT_CODECS`, whether or not one is here."""
    found = {config.device_type.name for name in EXACT_CODECS for config in _configs(name)}
    return tuple(kind for kind in KINDS if kind in found)


def why_closed(kind: str, decoder: str | None = None) -> str | None:
    """Why no device of a kind can be opened; None if the default one opens.

    Args:
        kind: FFmpeg's name.
        decoder: Name of a decoder that can use it; None takes one of `EXACT_CODECS`.
    """
    name = decoder or next(name for name in EXACT_CODECS if _config(name, kind) is not None)
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said:
            HWAccel(kind, allow_software_fallback=False).create(Codec(name, "r"))
    except (FFmpegError, NotImplementedError) as error:
        reasons = [message.strip() for _, _, message in said if message.strip()]
        return reasons[0] if reasons else str(error)
    finally:
        av.logging.set_level(level)
    return None


def why_unfit(context: VideoCodecContext, hardware: Hardware) -> str | None:
    """Why a stream is not left to a device; None if it is.

    Args:
        context: Of the stream, opened without a device.
        hardware: With a kind.
    """
    assert hardware.kind is not None, "asked only of a device"
    codec = context.codec
    if _config(codec.name, hardware.kind) is None:
        return f"{hardware.kind} does not decode {codec.canonical_name}"
    if context.pix_fmt not in PIXEL_FORMATS:
        return f"{hardware.kind} does not decode pixels of format {context.pix_fmt}"
    if not hardware.is_required and codec.canonical_name not in EXACT_CODECS:
        return f"two decoders of {codec.canonical_name} may differ"
    return None


def is_on_device(context: VideoCodecContext, kind: str) -> bool:
    """Whether the frames that a context gives were decoded by the device; known once there is one.

    FFmpeg goes over to its own decoder where a device refuses a profile or a size.
    """
    config = _config(context.codec.name, kind)
    return config is not None and config.format is not None and context.pix_fmt == config.format.name


def hardware_codecs(decoder: str) -> list[tuple[str, str]]:
    """Kinds of devices that a decoder can use, each with the codec that it decodes; none for an encoder."""
    return [(config.device_type.name, Codec(decoder, "r").canonical_name) for config in _configs(decoder)]


def _config(decoder: str, kind: str) -> HWConfig | None:
    return next((config for config in _configs(decoder) if config.device_type.name == kind), None)


def _configs(decoder: str) -> list[HWConfig]:
    try:
        codec = Codec(decoder, "r")
    except UnknownCodecError:
        return []
    configs = codec.hardware_configs or () if codec.type == "video" else ()
    return [config for config in configs if config.is_supported]
