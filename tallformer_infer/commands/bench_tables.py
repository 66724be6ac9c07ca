"""What `tallformer bench` measured, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tallformer_infer.devices import available_cores, processor_features, processor_name
from tallformer_infer.pipeline import Detector
from tallformer_infer.speed.stages import Speed
from tallformer_infer.speed.turns import Spread
from tallformer_infer.structures import VideoInfo
from tallformer_infer.text import clock, counted, times

SCHEMA_VERSION = "1.0"
_Shown = Literal["decode", "encode", "detect"]
_NAMES: dict[_Shown, str] = {"decode": "decode alone", "encode": "encode alone", "detect": "detect, all of it"}


def as_json(speed: Speed, detector: Detector, info: VideoInfo, *, video: str, threads: int | None) -> dict[str, Any]:
    """Everything; names stay the same within a major `schema_version`."""
    bundle, runtime = detector.bundle, detector.runtime
    product = speed.timings.get("matrix product")
    return {
        "schema_version": SCHEMA_VERSION,
        "video": {
            "path": video,
            "codec": info.codec,
            "width_px": info.width_px,
            "height_px": info.height_px,
            "measured_s": round(speed.duration_s, 3),
            "source_frames": speed.source_frames,
            "frames": speed.frames,
        },
        "model": {
            "name": bundle.name,
            "recipe": bundle.recipe.name,
            "precision": runtime.precision,
            "gigaflop_per_clip": speed.gigaflop_per_clip and round(speed.gigaflop_per_clip, 3),
        },
        "machine": {
            "processor": processor_name(),
            "processor_features": list(processor_features()),
            "cores": available_cores(),
            "threads": threads,
            "device": runtime.device,
            "runtime": runtime.name,
        },
        "rounds": len(speed.timings["detect"].wall_s),
        "ceilings": {
            "decode_frames_per_s": _rate(speed.source_frames, speed.timings["bare decode"].spread),
            "matrix_gigaflop_per_s": product and _rate(speed.gigaflop_per_product or 0, product.spread),
        },
        "decode": {**_stage(speed, "decode"), "frames_per_s": _rate(speed.source_frames, _wall(speed, "decode"))},
        "encode": {
            **_stage(speed, "encode"),
            "clips": speed.clips,
            "clips_timed": speed.clips_timed,
            "clips_at_once": speed.clips_at_once,
            "clips_per_s": _rate(speed.clips, _wall(speed, "encode")),
        },
        "detect": {
            **_stage(speed, "detect"),
            "times_slower_stage": round(speed.over_slower_stage.median, 3),
        },
        "binds": speed.binding,
    }


def speed_lines(speed: Speed, facts: dict[str, Any]) -> list[str]:
    """The table, line by line."""
    video, model, machine = facts["video"], facts["model"], facts["machine"]
    threads = "one thread per core" if machine["threads"] is None else counted(machine["threads"], "thread")
    head = f"{'':18}{'median':>9}{'quartiles':>17}{'real time':>11}   of its limit"
    return [
        f"{video['path']}: {clock(speed.duration_s, digits=1)}, {video['width_px']}×{video['height_px']} "
        f"{video['codec']}, {counted(speed.source_frames, 'frame')}, of which {speed.frames} are taken",
        f"{model['name']} ({model['recipe']}, {model['precision']}), {machine['device']}, {machine['runtime']}, "
        f"{machine['cores']} cores, {threads}, {', '.join([machine['processor'], *machine['processor_features']])}; "
        f"{counted(facts['rounds'], 'round')} in turn",
        "",
        head,
        *_rows(speed, facts),
        "",
        *_verdict(speed),
    ]


def _rows(speed: Speed, facts: dict[str, Any]) -> Iterator[str]:
    ceilings = facts["ceilings"]
    rate = ceilings["matrix_gigaflop_per_s"]
    limits = {
        "decode": f"of {ceilings['decode_frames_per_s']:,.0f} frames/s, decoded and dropped",
        "encode": f"of {rate or 0:,.0f} GFLOP/s, products of matrices",
        "detect": f"of the limit of {speed.binding}",
    }
    for stage, name in _NAMES.items():
        entry = facts[stage]
        low, high = entry["quartiles_s"]
        share = entry["ceiling_share"]
        limit = f"{share:4.0%} {limits[stage]}" if share is not None else "not known here"
        yield (
            f"{name:18}{entry['median_s']:>7.2f} s{f'{low:.2f} to {high:.2f} s':>17}"
            f"{times(entry['times_real_time']):>11}   {limit}"
        )


def _verdict(speed: Speed) -> Iterator[str]:
    other: _Shown = "encode" if speed.binding == "decode" else "decode"
    longer = _wall(speed, speed.binding).median / _wall(speed, other).median
    yield (
        f"{speed.binding} binds: alone it takes {longer:.1f} times as long as {other}, and all of it takes "
        f"{speed.over_slower_stage.median:.2f} times as long as {speed.binding} alone"
    )


def _stage(speed: Speed, stage: _Shown) -> dict[str, Any]:
    wall, share = _wall(speed, stage), speed.ceiling_share(stage)
    return {
        "median_s": _rounded(wall.median),
        "quartiles_s": [_rounded(wall.low), _rounded(wall.high)],
        "times_real_time": _rounded(speed.duration_s / wall.median),
        "ceiling_share": None if share is None else round(share.median, 3),
    }


def _wall(speed: Speed, stage: _Shown) -> Spread:
    return speed.timings[stage].spread


def _rate(count: float, spread: Spread) -> float:
    return _rounded(count / spread.median)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
