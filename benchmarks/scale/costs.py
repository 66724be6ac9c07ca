"""What an archive costs: rates from committed measurements, and a simulated queue with failures.

    python -m benchmarks.scale > benchmarks/results/scale.jsonl    (a minute of processor time)

Rates come from `afsd.jsonl` (encoders and localizers of Swin-T and Swin-B as shipped, two threads) and from
`decode_heights.jsonl` (one thread). Nothing was measured on a GPU: its rows divide counted FLOP by a published peak,
times an assumed share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from benchmarks.afsd.workload import GMAC
from benchmarks.measure import read_results
from benchmarks.scale.queue import Fleet, Work, as_line, simulate

CLIP_S = 32 / 15
CLIPS_PER_HOUR = 3600 / CLIP_S
WINDOWS_PER_HOUR = 3600 / (352 / 15)
CLIP_STEPS = 16
CHANNELS = {"Swin-T": 768, "Swin-B": 1024}
HEIGHTS_PX = (360, 720, 1080)
PRECISIONS = ("fp32", "int8", "bf16")
"""bf16: OpenVINO, on CPUs that compute in it; others: ONNX Runtime."""
DAY_S = 86_400.0
GPU_PEAKS = {"A100 SXM": 312e12, "H100 SXM": 989.4e12}
"""Dense bf16 FLOP per second as published; sources in docs/scale.md."""
GPU_SHARE = 0.30
"""Assumed share of the peak that the encoder reaches; not measured."""
CORES_PER_GPU = 16
"""Cores per GPU for decoding; an assumption, too."""
CORE_HOUR_EXAMPLE = 3.06 / 72
"""Dollars: on-demand price of a machine of 72 virtual cores in an example of its vendor; source in docs/scale.md."""
HOURS = 1_000_000
NODES, WORKERS = 1000, 16
SIMULATED = (
    (None, True, "as drawn"),
    (None, True, "longest first"),
    (47.0, True, "longest first"),
    (47.0, False, "longest first"),
    (1.0, True, "longest first"),
    (1.0, False, "longest first"),
    (1 / 12, True, "longest first"),
    (1 / 12, False, "longest first"),
)
"""Days between failures (never; published for servers with eight GPUs; machines lent for a day; for two hours), whether
stored clips are reused, and the order of the videos."""
GIVE_UP_DAYS = 14


@dataclass(frozen=True)
class Cost:
    """Processor seconds of one core for an hour of video."""

    decode_s: float
    encode_s: float

    @property
    def whole_s(self) -> float:
        """Sum of both, in core seconds."""
        return self.decode_s + self.encode_s

    @property
    def hours_per_core_day(self) -> float:
        """Hours of video that a core labels in a day."""
        return DAY_S / self.whole_s

    @property
    def binds(self) -> Literal["encoder", "decode"]:
        """The more expensive one."""
        return "encoder" if self.encode_s > self.decode_s else "decode"


def ways() -> list[tuple[str, str]]:
    """Backbones and precisions whose encoder was measured, the cheapest precision of each backbone last."""
    measured = {line["task"] for line in read_results("afsd") if line["name"] == "afsd_task"}
    every = ((backbone, precision) for backbone in CHANNELS for precision in PRECISIONS)
    return [way for way in every if f"encode {' '.join(way)}" in measured]


def cost(backbone: str, precision: str, height_px: int) -> Cost:
    """Cost of an hour of video of this height with this model.

    The encoder used both cores; their whole time counts, including idle time.
    """
    tasks = {line["task"]: line for line in read_results("afsd") if line["name"] == "afsd_task"}
    encode = tasks[f"encode {backbone} {precision}"]
    localize = tasks[f"localize {backbone} THUMOS14"]
    threads = encode["inputs"]["threads"]
    seconds = CLIPS_PER_HOUR * median(encode["samples_s"]) + WINDOWS_PER_HOUR * median(localize["samples_s"])
    return Cost(decode_core_s(height_px), threads * seconds)


def decode_core_s(height_px: int, way: str = "tallformer") -> float:
    """Core seconds to decode and resize an hour of video."""
    lines = [line["inputs"] for line in read_results("decode_heights")]
    (found,) = (line for line in lines if line["height_px"] == height_px and line["way"] == way)
    return float(found["core_s_per_hour"])


def encoder_flop(backbone: str) -> float:
    """FLOP of the encoder for an hour of video."""
    return 2e9 * GMAC[f"encode {backbone} fp32"] * CLIPS_PER_HOUR


def feature_bytes(backbone: str) -> float:
    """Bytes of stored features for an hour of video, float16, with 20 bytes of record per clip."""
    return CLIPS_PER_HOUR * (CLIP_STEPS * CHANNELS[backbone] * 2 + 20)


def draw_lengths_s(hours: float, *, seed: int) -> np.ndarray:
    """Lengths of an archive's videos: log-normal, half of them above 20 minutes, cut off at 12 hours."""
    random = np.random.default_rng(seed)
    mean_s = 2400.0
    lengths_s = np.minimum(random.lognormal(np.log(1200), 1.2, int(2 * hours * 3600 / mean_s)), 12 * 3600)
    return lengths_s[: int(np.searchsorted(np.cumsum(lengths_s), hours * 3600)) + 1]


def simulations(*, hours: float, nodes: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """One line for each of `SIMULATED`."""
    (backbone, precision), height_px = ways()[-1], 720
    found = cost(backbone, precision, height_px)
    lengths_s = draw_lengths_s(hours, seed=seed)
    for mtbf_days, resumes, order in SIMULATED:
        mtbf_s = None if mtbf_days is None else mtbf_days * DAY_S
        fleet = Fleet(
            nodes=nodes,
            workers_per_node=WORKERS,
            node_mtbf_s=mtbf_s,
            driver_mtbf_s=None if mtbf_s is None else max(mtbf_s, DAY_S),
            restart_s=600,
        )
        work = Work(
            clip_s=CLIP_S,
            decode_s=found.decode_s / CLIPS_PER_HOUR,
            encode_s=found.encode_s / CLIPS_PER_HOUR,
            crash_share=1e-4,
            resumes=resumes,
        )
        facts = {"hours": round(hours), "videos": len(lengths_s), "model": f"{backbone} {precision}"}
        inputs = facts | {"height_px": height_px, "seed": seed, "order": order}
        queue_s = lengths_s if order == "as drawn" else -np.sort(-lengths_s)
        tally = simulate(queue_s, fleet, work, seed=seed, at_most_s=GIVE_UP_DAYS * DAY_S)
        yield {"name": "scale", "inputs": inputs, **as_line(tally, fleet, work)}


def main() -> None:
    """Print a JSON line per simulation."""
    for line in simulations(hours=HOURS, nodes=NODES):
        print(json.dumps(line), flush=True)
