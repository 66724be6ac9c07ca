"""Read a video file as RGB uint8 frames at the recipe's rate, cropped, in presentation order."""

from tallformer_infer.media.byte_sources import file_sha256
from tallformer_infer.media.given import VideoInput, given_video, name_of
from tallformer_infer.media.probe import probe
from tallformer_infer.media.reader import FrameStream, open_video
from tallformer_infer.media.whole_video import video_rate

__all__ = ["FrameStream", "VideoInput", "file_sha256", "given_video", "name_of", "open_video", "probe", "video_rate"]
