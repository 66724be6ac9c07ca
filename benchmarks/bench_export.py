"""What does it cost to export a recipe at full size, and to detect in one video: seconds, peak memory, size?

    python -m benchmarks.bench_export anet-swin-b [VIDEO] >> benchmarks/results/export.jsonl

Weights are random, which does not affect the cost. Export (with its comparison with torch) and detection run in
separate processes.
Without VIDEO one of 60 s is generated (320 x 240, 30 frames per second).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import write_line
from tallformer_training.synthetic import VideoSpec, write_script, write_video

_EXPORT = """
import json, resource, sys, time
from pathlib import Path
from tallformer_export.exporting import export_random
from tallformer_infer.config import preset
started = time.perf_counter()
parity = export_random(preset(sys.argv[1]), Path(sys.argv[2]), on_step=lambda _: None)
print(json.dumps({
    "wall_s": round(time.perf_counter() - started, 1),
    "cpu_s": round(time.process_time(), 1),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    "beyond_parity": list(parity.beyond),
}))
"""
_DETECT = """
import json, resource, sys
from tallformer_infer import Detector
result = Detector.load(sys.argv[1], device="cpu").detect(sys.argv[2])
print(json.dumps({
    "wall_s": round(result.timings.total_s, 1),
    "encode_s": round(result.timings.encode_s, 1),
    "video_s": round(result.duration_s, 1),
    "frames": result.frame_count,
    "actions": len(result.actions),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
}))
"""


def main(recipe: str, video: Path | None = None) -> None:
    """Print a JSON line with both."""
    with tempfile.TemporaryDirectory() as work:
        bundle = Path(work) / "bundle"
        if video is None:
            video = Path(work) / "generated.mp4"
            spec = VideoSpec(subset="testing", seed=0, index=0, minutes=1, fps=30, width_px=320, height_px=240)
            write_video(write_script(spec), video)
        exported = _run(_EXPORT, recipe, bundle)
        size_mb = round(sum(file.stat().st_size for file in bundle.iterdir()) / 1e6)
        detected = _run(_DETECT, bundle, video)
        line = {"name": "export", "recipe": recipe, "export": {**exported, "size_mb": size_mb}, "detect": detected}
        write_line(line)


def _run(code: str, *arguments: str | Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, stdout=subprocess.PIPE)
    found: dict[str, object] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
