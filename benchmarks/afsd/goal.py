"""The ratios of the goals, from a small sample of the required tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.afsd import material
from benchmarks.afsd.page import Totals
from benchmarks.afsd.pipeline import AfsdPipeline
from benchmarks.afsd.tasks import Task, afsd_tasks, decoding, sample, tallformer_tasks
from benchmarks.afsd.workload import ACTIVITYNET, AFSD, DECODE, FLOW, RGB, SCOPES, stages
from benchmarks.goals import Figure
from benchmarks.measure import Spread, paired
from tallformer_infer.devices import available_cores

SHARED_VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "videos"
"""Real videos beside the repository, if present."""
WITH_NETWORKS, WITH_FLOW = list(SCOPES)[2:]
KEYS = {
    "swin-b-flow": ("Swin-B int8", WITH_FLOW),
    "swin-t-flow": ("Swin-T int8", WITH_FLOW),
    "swin-b-networks": ("Swin-B int8", WITH_NETWORKS),
    "swin-t-networks": ("Swin-T int8", WITH_NETWORKS),
}
"""System and total of each goal."""
_ROUNDS = 3


def goal(work: Path) -> dict[str, Figure]:
    """Time of AFSD for an ActivityNet video over ours; flow on real videos if present."""
    threads = available_cores()
    torch.set_num_threads(threads)
    folder = SHARED_VIDEOS if SHARED_VIDEOS.is_dir() else None
    videos = material.videos(folder, work)
    found = _tasks(work, videos, threads)
    sample(found, _ROUNDS)
    return figures([_line(task) for task in found], "real" if folder else "generated")


def figures(lines: list[dict[str, Any]], videos: str) -> dict[str, Figure]:
    """The ratios of measured tasks.

    Args:
        lines: Lines of `python -m benchmarks.afsd`, at least for the int8 encoders and ActivityNet.
        videos: Kind of videos for flow, in a word.
    """
    totals = Totals(lines, ACTIVITYNET)
    return {
        key: Figure(
            value=totals.ratio(system, scope)[0],
            quartiles=_quartiles(totals, system, scope),
            profile=_profile(totals, system, scope, videos),
        )
        for key, (system, scope) in KEYS.items()
    }


def _tasks(work: Path, videos: list[Path], threads: int) -> list[Task]:
    needed = {stage.task for stage in stages(ACTIVITYNET) if stage.system in (AFSD, "Swin-B int8", "Swin-T int8")}
    pipeline = AfsdPipeline(work, threads=threads)
    workloads = (ACTIVITYNET,)
    found = [
        *afsd_tasks(pipeline, work, videos, threads=threads, workloads=workloads),
        *tallformer_tasks(work, videos, threads=threads, workloads=workloads, precisions=("int8",)),
        *decoding(videos, threads=threads),
    ]
    return [task for task in found if task.name in needed]


def _line(task: Task) -> dict[str, Any]:
    return {"name": "afsd_task", "task": task.name, "centre": task.centre, "samples_s": task.samples_s}


def _quartiles(totals: Totals, system: str, scope: str) -> tuple[float, float]:
    """Quartiles over draws from the sample."""
    spread: Spread = paired(totals.scope(AFSD, scope)[1], totals.scope(system, scope)[1])
    return spread.low, spread.high


def _profile(totals: Totals, system: str, scope: str, videos: str) -> str:
    rows = {name: totals.stage(system, row) for name, row in (("encoder", RGB), ("decode", DECODE))}
    ours = ", ".join(f"{name} {found[0]:.1f}" for name, found in rows.items() if found is not None)
    flow = totals.stage(AFSD, FLOW)
    assert flow is not None
    return (
        f"{system} {totals.scope(system, scope)[0]:.1f} s ({ours}); AFSD {totals.scope(AFSD, scope)[0]:.0f} s (its own "
        f"flow {flow[0]:.0f}), {videos} videos"
    )
