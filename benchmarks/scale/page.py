"""The tables of docs/scale.md, from committed lines."""

from __future__ import annotations

from benchmarks.measure import read_results
from benchmarks.scale.costs import (
    CHANNELS,
    CORE_HOUR_EXAMPLE,
    CORES_PER_GPU,
    DAY_S,
    GPU_PEAKS,
    GPU_SHARE,
    HEIGHTS_PX,
    cost,
    decode_core_s,
    encoder_flop,
    feature_bytes,
    ways,
)


def core_table() -> str:
    """Hours of video per core and day, and what 1,000 hours cost."""
    heads = ("model", "height", "decode", "encode, localize", "hours of video per core-day")
    rows = [f"| {' | '.join(heads)} | core-hours per 1,000 hours | binds |", "|---|---|---|---|---|---|---|"]
    for backbone, precision in ways():
        for height_px in HEIGHTS_PX:
            found = cost(backbone, precision, height_px)
            cells = [
                f"{backbone} {precision}",
                f"{height_px}p",
                f"{found.decode_s:.0f} s",
                f"{found.encode_s:.0f} s",
                f"{found.hours_per_core_day:.1f}",
                f"{1000 * found.whole_s / 3600:.0f}",
                f"{found.binds} ({max(found.decode_s, found.encode_s) / found.whole_s:.0%})",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    decode, encode = read_results("decode_heights")[0], read_results("afsd")[0]
    bits = {line["inputs"]["height_px"]: line["inputs"]["megabit_per_s"] for line in read_results("decode_heights")}
    note = (
        f"Core seconds per hour of video: decode on {decode['processor']} (one thread; h264, 30 fps, "
        f"{', '.join(f'{height}p {rate:g} Mbit/s' for height, rate in bits.items())}), encode on {encode['processor']} "
        f"({encode['cpus']} cores)."
    )
    return "\n".join([*rows, "", note])


def gpu_table() -> str:
    """Estimates for a GPU with cores beside it."""
    heads = ("GPU (estimate)", "model", "height", "encoder alone", f"{CORES_PER_GPU} cores decode", "hours per GPU-day")
    rows = [f"| {' | '.join(heads)} | binds | cores to feed it |", "|---|---|---|---|---|---|---|---|"]
    for name, peak in GPU_PEAKS.items():
        for backbone in CHANNELS:
            for height_px in HEIGHTS_PX:
                encode = DAY_S * GPU_SHARE * peak / encoder_flop(backbone)
                decode = DAY_S * CORES_PER_GPU / decode_core_s(height_px)
                cells = [
                    name,
                    backbone,
                    f"{height_px}p",
                    f"{encode:,.0f} h",
                    f"{decode:,.0f} h",
                    f"**{min(encode, decode):,.0f}**",
                    "decode" if decode < encode else "encoder",
                    f"{CORES_PER_GPU * encode / decode:.0f}",
                ]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def storage_table() -> str:
    """Bytes of features, compared with those of the video."""
    rows = ["| | per hour of video | 1,000 hours | a million hours |", "|---|---|---|---|"]
    for backbone in CHANNELS:
        size = feature_bytes(backbone)
        rows.append(
            f"| features of {backbone}, float16 | {size / 1e6:.0f} MB | {size / 1e6:.0f} GB | {size / 1e6:.0f} TB |"
        )
    for rate in (1, 3, 6):
        size = rate * 1e6 / 8 * 3600
        cells = [f"{size / 1e6:,.0f} {unit}" for unit in ("MB", "GB", "TB")]
        rows.append(f"| the video itself at {rate} Mbit/s | {' | '.join(cells)} |")
    return "\n".join(rows)


def money_table() -> str:
    """Core-hours per 1,000 hours of video at 720p, with the example price."""
    rows = ["| 1,000 hours of 720p | core-hours | at p per core-hour | example, p = $0.0425 |", "|---|---|---|---|"]
    for backbone, precision in ways():
        core_hours = 1000 * cost(backbone, precision, 720).whole_s / 3600
        example = f"${core_hours * CORE_HOUR_EXAMPLE:.0f}"
        rows.append(f"| {backbone} {precision} | {core_hours:.0f} | {core_hours:.0f} p | {example} |")
    return "\n".join(rows)


def simulation_table() -> str:
    """Cost of failures for a million hours of video."""
    heads = ("machines fail every", "resumes", "order", "wall time", "machines lost", "driver lost")
    parts = ("decoded again", "work lost", "down", "idle", "set aside", "not finished")
    rows = [f"| {' | '.join([*heads, *parts])} |", f"|{'---|' * 12}"]
    lines = read_results("scale")
    for line in lines:
        fleet, work = line["fleet"], line["work"]
        workers_s = fleet["nodes"] * fleet["workers_per_node"] * line["wall_s"]
        shares = [f"{line[name] / workers_s:.2%}" for name in ("decoded_again_s", "lost_s", "down_s", "idle_s")]
        mtbf_s = fleet["node_mtbf_s"]
        cells = [
            "never"
            if mtbf_s is None
            else f"{mtbf_s / DAY_S:g} days"
            if mtbf_s >= DAY_S
            else f"{mtbf_s / 3600:g} hours",
            "at the clip" if work["resumes"] else "from the start",
            line["inputs"]["order"],
            f"{line['wall_s'] / 3600:.1f} h",
            f"{line['node_failures']:,}",
            f"{line['driver_failures']}",
            *shares,
            f"{line['set_aside']:,}",
            f"{line['unfinished']:,}" if line["unfinished"] else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    facts, fleet = lines[0]["inputs"], lines[0]["fleet"]
    note = (
        f"{facts['hours']:,} hours in {facts['videos']:,} videos, {facts['model']}, {facts['height_px']}p, "
        f"{fleet['nodes']:,} machines of {fleet['workers_per_node']} workers; parts are of all workers' time; "
        f"seed {facts['seed']}."
    )
    return "\n".join([*rows, "", note])
