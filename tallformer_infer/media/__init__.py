"""From a video file to frames at the recipe's rate: RGB uint8, cropped, in order of presentation."""

from tallformer_infer.media.given import VideoInput, given_video, name_of
from tallformer_infer.media.hashing import file_sha256
from tallformer_infer.media.probe import probe
from tallformer_infer.media.rates import video_rate
from tallformer_infer.media.reader import FrameStream, open_video

__all__ = ["FrameStream", "VideoInput", "file_sha256", "given_video", "name_of", "open_video", "probe", "video_rate"]
