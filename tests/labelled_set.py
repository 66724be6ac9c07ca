"""Twelve short videos in which the small bundle is partly right.

It finds `wave`, `jump` and `sit, then stand` in each. Every `wave` is right, three of twelve `jump` are, and nothing of
`sit, then stand` is annotated. So at the best F1 `wave` and `jump` keep all (their thresholds lie halfway to 0), while
all classes together do best with `wave` alone, from 0.65 on, which leaves out `sit, then stand`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.videos import noise_pictures, write_video

VIDEOS = 12
RIGHT_JUMPS = 3


def write_labelled_set(folder: Path) -> Path:
    """Write the videos to `folder/videos` and return the truth beside them."""
    (folder / "videos" / "deep").mkdir(parents=True)
    database = {}
    for number in range(VIDEOS):
        place = folder / "videos" / ("deep" if number == 0 else "") / f"v_{number:02d}.mp4"
        write_video(place, noise_pictures(20, height_px=32, width_px=32), fps=1)
        jump = (10.0, 15.0) if number < RIGHT_JUMPS else (17.0, 19.0)
        segments = {"wave": (1.0, 3.0), "jump": jump}
        database[f"{number:02d}"] = {
            "subset": "validation",
            "annotations": [{"label": label, "segment": segment} for label, segment in segments.items()],
        }
    database["elsewhere"] = {"subset": "training", "annotations": [{"label": "wave", "segment": [0, 1]}]}
    (folder / "truth.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    return folder / "truth.json"
