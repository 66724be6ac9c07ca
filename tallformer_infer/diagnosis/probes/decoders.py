"""FFmpeg's libraries as PyAV has them, and its hardware decoders."""

from __future__ import annotations

from typing import Any

import av
import av.logging
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.codec.hwaccel import HWAccel, hwdevices_available

from tallformer_infer.errors import DeviceError


def list_decoders() -> dict[str, Any]:
    """FFmpeg's version and libraries, and which codecs each kind of hardware could decode if it were here."""
    kinds: dict[str, set[str]] = {name: set() for name in hwdevices_available()}
    for name in av.codecs_available:
        for kind, codec in _hardware_configs(name):
            kinds.setdefault(kind, set()).add(codec)
    return {
        "ffmpeg": av.ffmpeg_version_info,
        "libraries": {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())},
        "kinds": {kind: sorted(codecs) for kind, codecs in kinds.items()},
    }


def open_device(kind: str) -> dict[str, Any]:
    """Open the default device of a kind, as a decoder would.

    Raises:
        DeviceError: It cannot be opened; the reason is the first that FFmpeg logs.
    """
    decoder = next(
        name
        for name in sorted(av.codecs_available, key=lambda name: (name not in ("h264", f"h264_{kind}"), name))
        if any(found == kind for found, _ in _hardware_configs(name))
    )
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as said:
        try:
            HWAccel(kind, allow_software_fallback=False).create(Codec(decoder, "r"))
        except av.FFmpegError as error:
            reasons = [message.strip() for _, _, message in said if message.strip()]
            raise DeviceError(reasons[0] if reasons else str(error)) from error
    return {"decoder": decoder}


def _hardware_configs(name: str) -> list[tuple[str, str]]:
    """Kinds of hardware that a decoder can open by itself, each with the codec it decodes; none for an encoder."""
    try:
        codec = Codec(name, "r")
    except UnknownCodecError:
        return []
    if codec.type != "video":
        return []
    configs = codec.hardware_configs or ()
    return [(config.device_type.name, codec.canonical_name) for config in configs if config.is_supported]
