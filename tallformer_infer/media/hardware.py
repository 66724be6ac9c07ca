"""Hardware decoders: which kinds this FFmpeg supports, whether a device can be opened, and which videos it decodes.

Note [the same pixels from hardware]
    Decoding of H.264, HEVC, VP8, VP9 and AV1 is specified bit-exactly, so a device gives the same values as the CPU.
    Frames are returned as nv12 (p010 for 10 bits), which is 4:2:0 with interleaved chroma, and pass through the same
    filters: swscale gives bit-identical RGB for nv12 and yuv420p (tests/test_hardware_decoding.py). MPEG-2, MPEG-4
    Part 2 and VC-1 are not bit-exact: two decoders may differ by a level or two. `auto` decodes them on the CPU; an
    explicitly named kind decodes them, too. Error concealment in damaged pictures is not specified for any codec.

Note [decoders that FFmpeg selects]
    A container uses FFmpeg's own decoder of a codec, which the device accelerates. Device-specific decoders
    (`h264_qsv`, `h264_cuvid`, `h264_amf`) must be selected and configured by hand, which loses what only the container
    provides: colour tags, and the frame reordering depth. Intel Quick Sync and AMD AMF are therefore not among the
    kinds here; the devices of both vendors are used through VAAPI and D3D11VA.
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
"""FFmpeg's names of the supported kinds of devices, in the order in which `auto` tries them."""
EXACT_CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
"""Codecs with bit-exact decoding, see Note [the same pixels from hardware]."""
PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "nv12", "yuv420p10le", "p010le"})
"""Formats that a device returns as nv12 or p010: 4:2:0 in 8 or 10 bits."""


@dataclass(frozen=True)
class Hardware:
    """Choice of a hardware decoder."""

    kind: str | None
    """FFmpeg's name of the kind of device; None decodes everything on the CPU."""
    is_required: bool
    """Whether a video that the device cannot decode is an error; otherwise the CPU decodes it."""
    reason: str
    """Reason for the choice, in one line."""


SOFTWARE = Hardware(None, is_required=False, reason="the processor decodes")


def choose_hardware(asked: Hwaccel) -> Hardware:
    """Resolve `--hwaccel` on this machine.

    Args:
        asked: `none`, `auto`, or a kind of device.

    Raises:
        DeviceError: The named kind is not in this build of FFmpeg, or no device of it can be opened.
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
    """Kinds of devices that this build of FFmpeg supports for any of `EXACT_CODECS`, whether or not one is present."""
    found = {config.device_type.name for name in EXACT_CODECS for config in _configs(name)}
    return tuple(kind for kind in KINDS if kind in found)


def why_closed(kind: str, decoder: str | None = None) -> str | None:
    """Reason why no device of a kind can be opened; None if the default one can.

    Args:
        kind: FFmpeg's name of the kind of device.
        decoder: Name of a decoder that supports it; None uses one of `EXACT_CODECS`.
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
    """Reason why a stream is not decoded by a device; None if it is.

    Args:
        context: Codec context of the stream, opened without a device.
        hardware: A choice with a kind.
    """
    assert hardware.kind is not None, "called only with a device"
    codec = context.codec
    if _config(codec.name, hardware.kind) is None:
        return f"{hardware.kind} does not decode {codec.canonical_name}"
    if context.pix_fmt not in PIXEL_FORMATS:
        return f"{hardware.kind} does not decode pixels of format {context.pix_fmt}"
    if not hardware.is_required and codec.canonical_name not in EXACT_CODECS:
        return f"two decoders of {codec.canonical_name} may differ"
    return None


def is_on_device(context: VideoCodecContext, kind: str) -> bool:
    """Whether the frames of a context are decoded by the device; known after the first frame.

    FFmpeg falls back to software if the device does not support a profile or size.
    """
    config = _config(context.codec.name, kind)
    return config is not None and config.format is not None and context.pix_fmt == config.format.name


def hardware_codecs(decoder: str) -> list[tuple[str, str]]:
    """Kinds of devices that a decoder supports, each with its codec; empty for an encoder."""
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
