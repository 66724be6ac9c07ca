"""Chapters as FFmpeg reads them (`ffmpeg -i video.mp4 -i chapters.txt -map_metadata 1 -codec copy out.mp4`).

Source: FFmpeg's documentation, "Metadata".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tallformer_infer.formats.escaping import CELL, escape
from tallformer_infer.formats.labelled import LabelledVideo, in_time_order, milliseconds, only_video


def encode_ffmetadata(videos: Sequence[LabelledVideo]) -> str:
    """One video's actions as chapters, in order of time. Chapters that overlap are kept; players show the last one."""
    chapters = [
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={max(0, milliseconds(segment.start_s))}\n"
        f"END={max(0, milliseconds(segment.end_s))}\ntitle={_value(segment.label)}\n"
        for segment in in_time_order(only_video(videos, "ffmetadata").segments)
    ]
    return "".join([";FFMETADATA1\n", *chapters])


def _value(text: str) -> str:
    return re.sub(r"([=;#\\\n])", r"\\\1", escape(text, CELL))
