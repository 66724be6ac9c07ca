"""What `detect --rates` finds of long actions, and what it costs.

    python -m benchmarks.bench_rates --out runs/rates >> benchmarks/results/rates.jsonl

Makes videos with actions of half a minute to two and a half, of the looks and places of the demo model's test set, and
detects in them with the bundled model, at one rate and at several; and in videos as they were, without long actions.
One JSON line for each choice of rates and kind of video.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.long_videos import Labelled, make_videos, score
from benchmarks.measure import circumstances
from tallformer_infer import Detector
from tallformer_infer.config import RAW_SCORES
from tallformer_infer.evaluation import Truth
from tallformer_infer.pipeline.operating import at_point, choose_point

CHOICES: tuple[tuple[float, ...], ...] = ((15.0,), (15.0, 5.0), (15.0, 5.0, 1.67))
SEED = 23
"""None of those of the demo model."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line for each choice of rates."""
    options = _options(arguments)
    detector = Detector.load(device="cpu", threads=options.threads)
    for with_long_actions, folder in ((True, options.out / "long"), (False, options.out / "plain")):
        made = make_videos(folder, videos=options.videos, seed=SEED, with_long_actions=with_long_actions)
        videos = dict(made)
        for rates in CHOICES:
            line = {**_measured(detector, videos, rates), "long_actions": with_long_actions}
            sys.stdout.write(json.dumps({**line, **circumstances(), "threads": options.threads}) + "\n")
            sys.stdout.flush()


def _measured(detector: Detector, videos: dict[Path, list[Labelled]], rates: tuple[float, ...]) -> dict[str, Any]:
    results = {path.stem: detector.detect(path, rates=rates, operating_point=RAW_SCORES) for path in videos}
    found = {name: result.actions for name, result in results.items()}
    point = choose_point(detector.bundle, None)
    shown = {name: at_point(actions, detector.bundle, point) for name, actions in found.items()}
    seconds = [result.timings for result in results.values()]
    return {
        "name": "rates",
        "rates": list(rates),
        "point": point,
        "inputs": {
            "model": detector.bundle.name,
            "videos": len(videos),
            "minutes": round(sum(result.duration_s for result in results.values()) / 60, 1),
            "seed": SEED,
        },
        "lengths": score(found, shown, Truth.of({path.stem: rows for path, rows in videos.items()})),
        "stages_s": {
            name: round(sum(getattr(timing, name) for timing in seconds), 2)
            for name in ("decode_s", "encode_s", "localize_s", "suppress_s", "total_s")
        },
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_rates", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--videos", type=int, default=6, help="of each kind: about nine minutes, and two")
    parser.add_argument("--threads", type=int, default=1, help="of the model and of the codec, each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
