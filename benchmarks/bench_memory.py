"""Is the time of `detect` proportional to the length of a video, and its memory constant?

    python -m benchmarks.bench_memory > benchmarks/results/memory.jsonl    (about six minutes of processor time)

A video of one minute is generated (128 x 96, 15 frames per second); longer ones repeat its packets with later
timestamps. Each is read by its own process with the bundled model. The last line is a linear fit of the times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.measure import write_line
from tallformer_training.synthetic import VideoSpec, write_script, write_video

MINUTES = (1, 10, 60, 240)
_DETECT = """
import json, resource, sys, time
from tallformer_infer import Detector
detector = Detector.load("demo", device="cpu")
detector.detect(sys.argv[2])
wall, cpu = time.perf_counter(), time.process_time()
result = detector.detect(sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"frames": result.frame_count, "wall_s": wall, "cpu_s": cpu, "peak_mb": round(peak_mb, 1)}))
"""
# ru_maxrss is the peak of the process: the short warm-up video comes first and needs less.


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line per length, with time and the peak of resident memory, and one for the fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES)
    lines = []
    with tempfile.TemporaryDirectory() as work:
        minute = Path(work) / "1.mp4"
        write_video(write_script(VideoSpec(subset="testing", seed=0, index=0, minutes=1)), minute)
        for minutes in parser.parse_args(arguments).minutes:
            video = Path(work) / f"{minutes}.mkv"
            repeat(minute, video, minutes)
            command = [sys.executable, "-c", _DETECT, video, minute]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            lines.append({"name": "memory", "minutes": minutes, **json.loads(done.stdout)})
            write_line(lines[-1])
            video.unlink()
    if len(lines) > 2:
        write_line(fit(lines))


def repeat(source: Path, target: Path, times: int) -> None:
    """Write a video that repeats `source`, without decoding it."""
    with av.open(str(target), "w") as written:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as container:
                shown = container.streams.video[0]
                stream = stream or written.add_stream_from_template(shown)
                length = shown.duration
                assert length is not None
                for packet in container.demux(shown):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts += turn * length
                    packet.dts += turn * length
                    packet.stream = stream
                    written.mux(packet)


def fit(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Linear fit of processor time over length, its quality, and the growth of memory."""
    minutes, cpu_s = (np.array([line[name] for line in lines], float) for name in ("minutes", "cpu_s"))
    slope, start = np.polyfit(minutes, cpu_s, 1)
    left = cpu_s - (slope * minutes + start)
    peaks = [line["peak_mb"] for line in lines]
    exponent = np.polyfit(np.log(minutes), np.log(cpu_s), 1)[0]
    return {
        "name": "memory_fit",
        "cpu_s_per_minute": round(float(slope), 4),
        "r2": round(float(1 - (left**2).sum() / ((cpu_s - cpu_s.mean()) ** 2).sum()), 6),
        "exponent": round(float(exponent), 3),
        "peak_mb_longest_over_shortest": round(peaks[-1] / peaks[0], 3),
    }


if __name__ == "__main__":
    main()
