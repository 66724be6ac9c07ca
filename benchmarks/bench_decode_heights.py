"""What does it cost one core to read an hour of video, by the height of its picture?

    python -m benchmarks.bench_decode_heights > benchmarks/results/decode_heights.jsonl

Generated videos of 10 s at 30 frames per second, h264, read as the THUMOS14 recipes do (15 per second, 256 px), on one
thread, as `tallformer label` reads with a worker per core. Each height is read whole and with unused frames left out.
The cost of a frame grows with its bits as well; the line says how many there were.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.bench_decode import read_everything, take_turns
from benchmarks.decode_ways import Task, Way, read_ours
from benchmarks.measure import report
from tallformer_training.synthetic import VideoSpec, write_script, write_video

SECONDS, FPS = 10, 30
SIZES_PX = ((640, 360), (1280, 720), (1920, 1080))


def main(rounds: int = 3) -> None:
    """Print a JSON line per height and way."""
    with tempfile.TemporaryDirectory() as work:
        for width_px, height_px in SIZES_PX:
            spec = VideoSpec(
                subset="testing",
                seed=0,
                index=0,
                minutes=SECONDS / 60,
                fps=FPS,
                width_px=width_px,
                height_px=height_px,
            )
            path = Path(work) / f"{height_px}.mp4"
            write_video(write_script(spec), path)
            task = Task(path=path, source_fps=FPS, source_frames=spec.frames, sample_fps=15, side_px=256, threads=1)
            ways = [Way("tallformer", "", read_ours), Way("everything", "", read_everything)]
            for name, timing in take_turns(ways, task, rounds=rounds).items():
                cpu_s = sorted(timing.cpu_s)[len(timing.cpu_s) // 2]
                report(
                    "decode_height",
                    timing,
                    way=name,
                    height_px=height_px,
                    source_fps=FPS,
                    megabit_per_s=round(8e-6 * path.stat().st_size / SECONDS, 2),
                    core_s_per_hour=round(3600 * cpu_s / SECONDS, 1),
                )


if __name__ == "__main__":
    main()
