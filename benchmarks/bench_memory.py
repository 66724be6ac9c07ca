"""Does `detect` need more memory for a longer video?

    python -m benchmarks.bench_memory > benchmarks/results/memory.jsonl

Each video is made here (128 x 96, 15 frames per second) and read by a process of its own with the bundled model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tallformer_training.synthetic import VideoSpec, write_script, write_video

MINUTES = (6, 60)
_DETECT = """
import json, resource, sys
from tallformer_infer import Detector
result = Detector.load(device="cpu").detect(sys.argv[1])
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"frames": result.frame_count, "peak_mb": round(peak_mb, 1)}))
"""


def main() -> None:
    """Print a JSON line per length, with the peak of resident memory."""
    with tempfile.TemporaryDirectory() as work:
        for minutes in MINUTES:
            video = Path(work) / f"{minutes}.mp4"
            write_video(write_script(VideoSpec(subset="testing", seed=0, index=0, minutes=minutes)), video)
            done = subprocess.run([sys.executable, "-c", _DETECT, video], check=True, capture_output=True, text=True)
            print(json.dumps({"name": "memory", "minutes": minutes, **json.loads(done.stdout)}), flush=True)


if __name__ == "__main__":
    main()
