"""How long does TensorRT take to build the engines of a model, and how much memory?

    python -m benchmarks.bench_engine_build > benchmarks/results/engine_build.jsonl

Random weights are exported first. Engines are built ahead of time with TensorRT-RTX, which needs no GPU; the full
TensorRT times kernels on the GPU, takes longer, and was not measured. Each build runs in its own process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import write_line
from tallformer_export.exporting import export_random
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import preset
from tallformer_infer.runtime.tensorrt.keys import ENGINE_GRAPHS, load_library

RECIPES = ("demo", "thumos14-swin-t")
BATCHES = ("1,8,8", "8")
REPEATS = 3
_BUILD = """
import json, re, sys, time
from pathlib import Path
from tallformer_infer.bundle import load_bundle
from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
from tallformer_infer.runtime.tensorrt.keys import BatchProfile
from tallformer_infer.runtime.tensorrt.keys import load_library
def peak_mb():  # not ru_maxrss, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
path, graph, batch = sys.argv[1:]
content = load_bundle(path).read_graph(graph)
before_mb = peak_mb()
library = load_library("tensorrt_rtx")
started = time.process_time()
built = build_engine(library, content, BatchProfile.parse(batch), target="portable", log=BuilderLog())
build_cpu_s = time.process_time() - started
sizes = {"onnx_mb": len(content) / 1e6, "engine_mb": len(built.content) / 1e6}
memory = {"peak_mb": peak_mb(), "peak_before_mb": before_mb}
times = {"build_s": built.build_s, "build_cpu_s": build_cpu_s}
print(json.dumps({**times, **sizes, **memory}))
"""


def main(*recipes: str) -> None:
    """Print a JSON line for each recipe, graph and batch: medians over builds. Needs Linux."""
    library = load_library("tensorrt_rtx")
    with tempfile.TemporaryDirectory() as work:
        for recipe in recipes or RECIPES:
            out = Path(work) / recipe
            export_random(preset(recipe), out, on_step=lambda text: print(text, file=sys.stderr))
            precision = load_bundle(out).graphs["encoder"].precision
            for graph in ENGINE_GRAPHS:
                for batch in BATCHES:
                    facts = _build(out, graph, batch)
                    inputs = {"recipe": recipe, "graph": graph, "batch": batch, "precision": precision}
                    line = {"name": "engine_build", "inputs": inputs, "library": str(library), "repeats": REPEATS}
                    write_line({**line, **facts})


def _build(bundle: Path, graph: str, batch: str) -> dict[str, float]:
    command = [sys.executable, "-c", _BUILD, str(bundle), graph, batch]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(REPEATS)
    ]
    return {name: round(statistics.median(facts[name] for facts in found), 2) for name in found[0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
