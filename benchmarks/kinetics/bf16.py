"""Effect of bfloat16 on the actions of the Kinetics bundles in a film, with OpenVINO.

    python -m benchmarks.kinetics.bf16 FILM >> benchmarks/results/kinetics_bf16.jsonl

`benchmarks.build_kinetics400` stores the last line's report of each model in its bundle, where `--device auto` reads
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.measure import write_line
from tallformer_export.parity import compare_reduced
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.config import RAW_SCORES, ParityReport, ParitySample, to_json
from tallformer_infer.media import file_sha256
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import OpenVinoRuntime
from tallformer_infer.structures import Result

MODELS = ("kinetics400", "kinetics400-fast")


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinetics.bf16", description=__doc__.splitlines()[0])
    parser.add_argument("film", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--model", choices=MODELS, action="append", help="model to measure (default: both)")
    options = parser.parse_args()
    for name in options.model or MODELS:
        bundle = load_bundle(name)
        wanted, found = (
            Detector(bundle, OpenVinoRuntime(bundle, precision=precision, threads=options.threads)).detect(
                options.film, operating_point=RAW_SCORES
            )
            for precision in ("fp32", "bf16")
        )
        write_line(line(bundle, options.film, wanted, found))


def line(bundle: Bundle, film: Path, wanted: Result, found: Result) -> dict[str, Any]:
    """Compare a result in float32 with one in bfloat16."""
    matched, differences = compare_reduced(bundle, wanted.actions, found.actions)
    frames = round(wanted.duration_s * bundle.recipe.sampling.sample_fps)
    report = ParityReport(
        sample=ParitySample(source=film.name, sha256=file_sha256(film), frames=frames),
        differences={},
        actions=matched,
        at_run_time={"bf16": differences},
    )
    return {"name": "kinetics_bf16", "inputs": {"model": bundle.name}, "parity": to_json(report)}


if __name__ == "__main__":
    main()
