"""Read a video file as RGB uint8 frames at the recipe's rate, cropped, in presentation order."""

from tallformer_infer.media.byte_sources import (
    STDIN_NAMES,
    RemoteBytes,
    file_sha256,
    file_system,
    is_regular_file,
    open_source,
    version_of_address,
)
from tallformer_infer.media.decoding import best_video, codec_threads, open_container
from tallformer_infer.media.given import GivenVideo, VideoInput, given_video, name_of
from tallformer_infer.media.graph import exact_rate
from tallformer_infer.media.hardware import SOFTWARE, Hardware, choose_hardware
from tallformer_infer.media.opening import probe, video_rate
from tallformer_infer.media.reader import FrameStream, open_video, run_ahead
from tallformer_infer.media.web import (
    ALLOWED_PROTOCOLS,
    WebBytes,
    check_foreign,
    check_protocol,
    host_of,
    is_address,
    is_web_address,
    protocol_of,
)

__all__ = [
    "ALLOWED_PROTOCOLS",
    "SOFTWARE",
    "STDIN_NAMES",
    "FrameStream",
    "GivenVideo",
    "Hardware",
    "RemoteBytes",
    "VideoInput",
    "WebBytes",
    "best_video",
    "check_foreign",
    "check_protocol",
    "choose_hardware",
    "codec_threads",
    "exact_rate",
    "file_sha256",
    "file_system",
    "given_video",
    "host_of",
    "is_address",
    "is_regular_file",
    "is_web_address",
    "name_of",
    "open_container",
    "open_source",
    "open_video",
    "probe",
    "protocol_of",
    "run_ahead",
    "version_of_address",
    "video_rate",
]
