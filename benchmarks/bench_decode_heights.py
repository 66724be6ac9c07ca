"""What does it cost one core to read an hour of video, by the height of its picture?

    python -m benchmarks.bench_decode_heights > benchmarks/results/decode_heights.jsonl

Generated videos of 10 s (`--seconds`) at 30 frames per second, h264, read as the THUMOS14 recipes do (15 per second,
256 px), on one thread, as `tallformer label` reads with a worker per core. Each height is read whole and with unused
frames left out. The cost of a frame grows with its bits as well; the line says how many there were.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_decode import read_everything, time_ways
from benchmarks.decode_ways import Task, Way, read_ours
from benchmarks.measure import report
from tallformer_training.synthetic import VideoSpec, write_script, write_video

FPS = 30
HEIGHTS_PX = (360, 720, 1080)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line per height and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heights", type=int, nargs="+", default=HEIGHTS_PX)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        for height_px in chosen.heights:
            spec = VideoSpec(
                subset="testing",
                seed=0,
                index=0,
                minutes=chosen.seconds / 60,
                fps=FPS,
                width_px=height_px * 16 // 9,
                height_px=height_px,
            )
            path = Path(work) / f"{height_px}.mp4"
            write_video(write_script(spec), path)
            task = Task(path=path, source_fps=FPS, source_frames=spec.frames, sample_fps=15, side_px=256, threads=1)
            ways = [Way("tallformer", "", read_ours), Way("everything", "", read_everything)]
            for name, timing in time_ways(ways, task, rounds=chosen.rounds).items():
                cpu_s = sorted(timing.cpu_s)[len(timing.cpu_s) // 2]
                report(
                    "decode_height",
                    timing,
                    way=name,
                    height_px=height_px,
                    source_fps=FPS,
                    seconds=chosen.seconds,
                    megabit_per_s=round(8e-6 * path.stat().st_size / chosen.seconds, 2),
                    core_s_per_hour=round(3600 * cpu_s / chosen.seconds, 1),
                )


if __name__ == "__main__":
    main()
