"""How fast are random clips read from the frame cache, and decoded? `python -m benchmarks.bench_frames`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measure import Timing, clocked, report, take_turns
from tallformer_infer.config import SamplingConfig
from tallformer_training.datasets import DecodedFrames, FrameCache, FrameSource
from tallformer_training.synthetic import VideoSpec, write_script, write_video

CLIPS, CLIP_FRAMES = 4, 32


def main(minutes: float = 2.0) -> None:
    """Time four clips of a random window of a generated video, at two sizes, from both sources, with equal pixels."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(write_script(VideoSpec(subset="training", seed=0, index=0, minutes=minutes)), path)
        for side_px in (64, 256):
            sampling = SamplingConfig(resize_px=side_px, crop_px=side_px)
            cache, decoder = FrameCache(Path(folder) / "cache", sampling), DecodedFrames(sampling)
            frames = cache.add(path)
            generator = np.random.default_rng(0)
            starts = [int(generator.integers(frames - CLIPS * CLIP_FRAMES)) for _ in range(200)]
            windows = [[start + CLIP_FRAMES * clip for clip in range(CLIPS)] for start in starts]
            same = cache.read_clips(path, windows[0], CLIP_FRAMES) == decoder.read_clips(path, windows[0], CLIP_FRAMES)
            if not same.all():
                raise SystemExit("the cache and the decoder give different frames")
            sources: dict[str, FrameSource] = {"cache": cache, "decode": decoder}
            turns = {name: iter(windows) for name in sources}
            ways = {name: clocked(partial(_read_next, source, path, turns[name])) for name, source in sources.items()}
            for name, calls in take_turns(ways, rounds=15, warmups=2, at_most_s=60).items():
                report(f"window_of_{CLIPS}_clips_{name}", Timing.of(calls), side_px=side_px, minutes=minutes)


def _read_next(source: FrameSource, path: Path, windows: Iterator[list[int]]) -> None:
    source.read_clips(path, next(windows), CLIP_FRAMES)


if __name__ == "__main__":
    main()
