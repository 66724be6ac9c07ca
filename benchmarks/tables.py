"""Tables of the docs from committed measurements; `python -m benchmarks.tables` writes them into the pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import full_size
from benchmarks.ablations.groups import GROUPS, Group
from benchmarks.ablations.page import group_page
from benchmarks.ablations.results import by_machine, finished_runs, summarise
from benchmarks.afsd import page as afsd
from benchmarks.afsd.workload import ACTIVITYNET, THUMOS14
from benchmarks.goals import goals_tables
from benchmarks.kinetics import page as kinetics_page
from benchmarks.measure import processor_of, read_results
from benchmarks.real_training import page as real_page
from benchmarks.scale import page as scale_page
from tallformer_infer.evaluation import Protocol, protocol_named

ROOT = Path(__file__).resolve().parent.parent
NOT_MEASURED = "Not measured yet."
PAGES = (
    "docs/cpu.md",
    "docs/precision.md",
    "docs/ablations.md",
    "docs/demo.md",
    "docs/kinetics.md",
    "docs/real.md",
    "docs/anet-demo.md",
    "docs/reproduce.md",
    "docs/scale.md",
    "docs/speed.md",
    "docs/tensorrt.md",
)


def main() -> None:
    """Rewrite all tables of all pages."""
    for name in PAGES:
        page = ROOT / name
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")


def fill(text: str) -> str:
    """Text with every `<!-- table: NAME -->` … `<!-- end -->` filled from the committed lines."""
    return re.sub(
        r"<!-- table: (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- table: {match[1]} -->\n{_table(match[1])}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def _table(name: str) -> str:
    """A table, or a placeholder if there are no lines for it yet."""
    try:
        return TABLES[name]()
    except FileNotFoundError:
        return NOT_MEASURED


def detect_table() -> str:
    """Speed of `detect` per recipe, with the time of each stage."""
    lines = read_results("detect")
    head = "| recipe | × real time | decode | encode | localize | suppress | whole | machine |"
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    for line in lines:
        stages = line["inputs"]["stages_s"]
        cells = [
            line["inputs"]["recipe"],
            f"{line['inputs']['speed_x_real_time']:.1f}",
            *(f"{stages[f'{name}_s']:.2f} s" for name in ("decode", "encode", "localize", "suppress")),
            f"{line['median_s']:.1f} s",
            f"{line['device']}: {line['cpus']} cores, {line['processor']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    repeats = min(line["repeats"] for line in lines)
    note = f"Random weights; {lines[0]['inputs']['video']}; float32; medians of {repeats} runs or more."
    return "\n".join([note, "", *rows])


def encoder_table() -> str:
    """Seconds per clip of encoders on CPUs: a table for each recipe and processor."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in read_results("encoder"):
        groups.setdefault((line["inputs"]["recipe"], processor_of(line)), []).append(line)
    return "\n\n".join(map(_encoder_table, groups.values()))


def _encoder_table(lines: list[dict[str, Any]]) -> str:
    head = "| way | precision | s per clip | quartiles | times torch | of the matrix rate |"
    rows = [head, "|---|---|---|---|---|---|"]
    for line in lines:
        low, high = line["quartiles_s"]
        cells = [
            line["inputs"]["way"],
            line["inputs"]["precision"],
            f"{line['s_per_clip']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{line['times_torch']:.1f}",
            f"{line['share_of_matrix_rate']:.0%}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    first = lines[0]
    rates = {line.get("matrix_precision", "fp32"): line["matrix_gigaflop_per_s"] for line in lines}
    note = (
        f"{first['inputs']['recipe']}, clips of {first['gigaflop_per_clip']:.0f} GFLOP, "
        f"{first['inputs']['threads']} threads, {first['rounds']} rounds, {processor_of(first)}; "
        f"large matrix products: {', '.join(f'{name} {rate:.0f}' for name, rate in rates.items())} GFLOP/s; medians."
    )
    return "\n".join([note, "", *rows])


def precision_table() -> str:
    """mAP of the demo model in each precision, and its difference from torch."""
    head = "| precision | average mAP | encoder | features differ by | actions that stay the same |"
    rows = [head, "|---|---|---|---|---|"]
    for line in read_results("precision"):
        actions = line["actions"]
        cells = [
            line["inputs"]["precision"],
            f"{100 * line['map']:.2f} %",
            f"{line['encoder_bytes'] / 1e6:.1f} MB",
            f"{line['parity']['encoder.features']['worst']:.1e} of the largest",
            f"{actions['matched']} of {actions['in_torch']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def nncf_table() -> str:
    """Encoders in int8 by NNCF beside bfloat16 and other ways: time, error, actions."""
    heads = ("model", "encoder computes in", "processor s per clip", "clips in the time of one in bf16")
    rows = [f"| {' | '.join(heads)} | relative error (L2) | actions of float32 found again |", f"|{'---|' * 6}"]
    lines = read_results("nncf")
    for line in lines:
        facts = line["inputs"]
        for way, seconds in line["cpu_s_per_clip"].items():
            actions = line.get("actions", {}).get(way)
            cells = [
                f"`{facts['model']}`, {facts['sample_clips']} clips of sample",
                way,
                f"{seconds:.2f}",
                f"{line['times_bf16'][way]:.2f}",
                f"{line['features_l2'][way]:.1e}" if way in line["features_l2"] else "",
                "" if actions is None else f"{actions['found_again']} of {actions['in_fp32']}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"One clip on one thread, all ways in turn; {lines[0]['processor']}; medians."])


def suppress_table() -> str:
    """Time of suppression per way and size."""
    rows = [
        "| suppression (NMW), one core | pairs | limit | actions | median | quartiles |",
        "|---|---|---|---|---|---|",
    ]
    for line in read_results("nms"):
        facts = line["inputs"]
        low, high = line["quartiles_s"]
        rows.append(
            f"| {line['name'].removeprefix('suppress_').removeprefix('nmw_')} | {facts['pairs']:,} "
            f"| {facts.get('limit') or ''} | {facts.get('actions', '')} "
            f"| {line['median_s'] * 1e3:.1f} ms | {low * 1e3:.1f}-{high * 1e3:.1f} ms |"
        )
    return "\n".join(rows)


def evaluation_table() -> str:
    """Time of `eval` on a set as large as ActivityNet-1.3's validation set."""
    lines = read_results("evaluation")
    facts = lines[0]["inputs"]
    size = (
        f"{facts['videos']:,} videos × {facts['classes']} classes × {facts['predictions_per_video']} predictions, "
        f"{facts['thresholds']} overlaps"
    )
    rows = [f"| `eval`, {size}, one core | median | quartiles |", "|---|---|---|"]
    for line in sorted(lines, key=lambda line: list(_EVALUATION).index(line["name"])):
        low, high = line["quartiles_s"]
        rows.append(f"| {_EVALUATION[line['name']]} | {line['median_s']:.2f} s | {low:.2f}-{high:.2f} s |")
    return "\n".join(rows)


_EVALUATION = {
    "evaluation_one_by_one": "score, one prediction after another as the official algorithm is stated",
    "evaluation_score": "score",
    "evaluation_floor_of_scoring": "floor of it: sort scores and groups",
    "evaluation_read": "read the predictions",
    "evaluation_floor_of_reading": "floor of it: `json.loads`",
    "evaluation_files_to_map": "files to mAP, all in all",
}


def training_table() -> str:
    """Memory and time of a training step for each share r of encoded clips."""
    parts = ("kept for backward", "of r = 1", "processor time", "of r = 1", "wall time", "of r = 1")
    rows = [f"| recipe | r | clips encoded | {' | '.join(parts)} |", "|---|---|---|---|---|---|---|---|---|"]
    lines = read_results("training")
    for line in lines:
        facts = line["inputs"]
        cells = [
            f"{facts['recipe']}, {facts['crop_px']} px, batch {facts['batch_windows']}, {facts['precision']}",
            f"{facts['ratio']:g}",
            f"{facts['clips_encoded']} of {facts['clips']}",
            f"{facts['saved_bytes'] / 2**20:.1f} MiB",
            f"{facts['saved_part']:.3f}",
            f"{line['median_cpu_s']:.3g} s",
            f"{facts['cpu_part']:.3f}",
            f"{line['median_s']:.3g} s",
            f"{facts['step_part']:.3f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    facts = lines[0]["inputs"]
    repeats = min(line["repeats"] for line in lines)
    note = f"{facts['threads']} thread; medians of {repeats} steps or more; {lines[0]['processor']}."
    return "\n".join([note, "", *rows])


def engine_build_table() -> str:
    """Time and memory to build TensorRT engines ahead of time."""
    lines = read_results("engine_build")
    rows = [
        "| model, precision | graph | batch | ONNX file | engine | build | processor time | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        facts = line["inputs"]
        cells = [
            f"{facts['recipe']}, {facts['precision']}",
            facts["graph"],
            facts["batch"],
            f"{line['onnx_mb']:.0f} MB",
            f"{line['engine_mb']:.0f} MB",
            f"{line['build_s']:.1f} s",
            f"{line['build_cpu_s']:.1f} s",
            f"{line['peak_mb'] / 1024:.2f} GiB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    line = lines[0]
    note = f"{line['library']}, random weights; medians of {line['repeats']} builds; {line['processor']}, no GPU."
    return "\n".join([note, "", *rows])


def rates_table() -> str:
    """Actions found by length, at one rate and at several, and processor time of localizing."""
    lines, plain = ([line for line in read_results("rates") if line["long_actions"] is kind] for kind in (True, False))
    names = [", ".join(f"{rate:g}" for rate in line["rates"]) for line in lines]
    heads = [*(f"mAP at {name}" for name in names), *(f"found (wrong) at {name}" for name in names)]
    rows = [f"| length | actions | {' | '.join(heads)} |", f"|{'---|' * (2 + len(heads))}"]
    named = [*zip(*(line["lengths"] for line in lines), strict=True), [line["lengths"][-1] for line in plain]]
    for index, same in enumerate(named):
        first = same[0]
        length = "all" if first["to_s"] is None else f"{first['from_s']:g} to {first['to_s']:g} s"
        length = "all, in videos without long actions" if index == len(named) - 1 else length
        maps = [f"{100 * row['map']:.1f} %" for row in same]
        counts = [f"{row['found']} ({row['wrong']})" for row in same]
        rows.append(f"| {' | '.join([length, str(first['truth']), *maps, *counts])} |")
    costs = [
        f"{line['localize_cpu_s']:.1f} s at {name} ({line['localize_cpu_s'] / line['clips'] / line['clip_cpu_s']:.1%})"
        for name, line in zip(names, lines, strict=True)
    ]
    first = lines[0]
    note = (
        f"{first['inputs']['videos']} videos of the {first['inputs']['subset']} looks, {first['minutes']:g} minutes; "
        f"without long actions {plain[0]['inputs']['videos']}, {plain[0]['minutes']:g} minutes. Processor time of "
        f"localizing and suppressing the former, and its part of that of encoding: {', '.join(costs)}. One thread, "
        f"{first['processor']}."
    )
    return "\n".join([*rows, "", note])


def decode_table() -> str:
    """Rate and processor time of every reader, per picture size."""
    lines = read_results("decode")
    measured = [line for line in lines if line["name"] == "decode"]
    heads = ("way", "to", "source frames per s", "processor time per source frame", "wall time over ours (quartiles)")
    rows = [f"| {' | '.join(heads)} | pixels differ by (mean, most) |", f"|{'---|' * 6}"]
    for line in measured:
        facts = line["inputs"]
        low, middle, high = facts["times_ours"]
        cells = [
            f"{_DECODE_WAYS.get(facts['way'], facts['way'])} ({facts['version']})",
            f"{facts['side_px']} px",
            f"{facts['source_frames_per_s']:.0f}",
            f"{facts['cpu_ms_per_source_frame']:.2f} ms",
            f"{middle:.2f} ({low:.2f}-{high:.2f})",
            f"{facts['compared']['mean_levels']:.2f}, {facts['compared']['most_levels']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    first = measured[0]
    missing = [f"{line['way']}: {line['reason']}" for line in lines if line["name"] == "decode_left_out"]
    note = (
        f"{first['inputs']['video']}, to {first['inputs']['sample_fps']} per second; {first['cpus']} cores, "
        f"{first['processor']}; medians of {first['repeats']} rounds; levels of 0 to 255."
    )
    return "\n".join([*rows, "", note, *(f"Left out: {reason}." for reason in missing)])


def growth_table() -> str:
    """Time at each number of candidates, ours and the loop's, and its exponent."""
    lines = read_results("growth")
    counts = sorted({count for line in lines for count in line["ours_s"]}, key=int)
    heads = [f"{int(count):,}" for count in counts]
    rows = [f"| ms for so many candidates | | {' | '.join(heads)} | exponent |", f"|{'---|' * (len(counts) + 3)}"]
    for line in lines:
        for name, shown in (("ours", "ours"), ("loop", "loop")):
            seconds, exponent = line[f"{name}_s"], line[f"{name}_exponent"]
            cells = [_milliseconds(seconds.get(count)) for count in counts]
            case = line["case"] if name == "ours" else ""
            rows.append(f"| {case} | {shown} | {' | '.join(cells)} | {'' if exponent is None else exponent} |")
    return "\n".join([*rows, "", f"One core, {lines[0]['processor']}; medians of processor time."])


def length_table() -> str:
    """Time and memory of `detect` by the length of the video."""
    lines = [line for line in read_results("memory") if line["name"] == "memory"]
    fits = [line for line in read_results("memory") if line["name"] == "memory_fit"]
    if not fits:  # lines older than the measurement of time
        raise FileNotFoundError("memory.jsonl: no line `memory_fit`")
    rows = ["| length | frames | processor time | per minute | peak memory |", "|---|---|---|---|---|"]
    for line in lines:
        cells = [
            f"{line['minutes']} min",
            f"{line['frames']:,}",
            f"{line['cpu_s']:.1f} s",
            f"{line['cpu_s'] / line['minutes']:.3f} s",
            f"{line['peak_mb']:.0f} MB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    (fit,) = fits
    note = (
        f"Straight line: R² = {fit['r2']:.4f}, exponent {fit['exponent']:.2f}; the longest needs "
        f"{fit['peak_mb_longest_over_shortest']:.2f} times the memory of the shortest. {lines[0]['processor']}."
    )
    return "\n".join([*rows, "", note])


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


_DECODE_WAYS = {"everything": "tallformer, decoding frames that it never shows"}


def demo_table() -> str:
    """mAP of the demo model on unseen videos, and its training time."""
    return demo_rows(read_results("train_demo")[0], protocol_named("thumos14"))


def anet_demo_table() -> str:
    """The same for the small model of whole videos."""
    return demo_rows(read_results("train_anet_demo")[0], protocol_named("activitynet"))


def demo_rows(line: dict[str, Any], protocol: Protocol) -> str:
    """mAP per overlap and class of a small model, and its training time."""
    test, tious = line["test"], protocol.tiou_thresholds
    best = sorted(test["average_precision_per_class"].items(), key=lambda entry: -entry[1])
    cores = f"{line['cpus']} cores" if line.get("cores", 2) > 1 else "1 core"
    rows = [
        f"| tIoU | {' | '.join(f'{tiou:g}' for tiou in tious)} | mean |",
        f"|---|{'---|' * (len(tious) + 1)}",
        f"| mAP % | {' | '.join(f'{100 * value:.1f}' for value in (*test['map_per_tiou'], test['average_map']))} |",
        "",
        f"| class | {' | '.join(name for name, _ in best)} |",
        f"|---|{'---|' * len(best)}",
        f"| AP %, mean over tIoU | {' | '.join(f'{100 * value:.1f}' for _, value in best)} |",
        "",
        f"{test['truth']} actions of generated videos with a seed, looks and places of their own. Trained in "
        f"{line['minutes_together']:.0f} minutes on {cores} ({line['processor']}): "
        f"{', '.join(f'{name} {minutes:.1f}' for name, minutes in line['minutes'].items())}.".replace("_", " "),
    ]
    return "\n".join(rows)


def ablation_table(group: Group) -> str:
    """One ablation: mAP over seeds, memory and time of each setting, and the order in the paper."""
    machines = by_machine(finished_runs(), {row.variant for row in group.rows})
    shown, *elsewhere = [summarise(lines) for lines in machines] or [{}]
    return group_page(group, shown, elsewhere)


def goals_of_all() -> str:
    """The goals, and the results on each processor."""
    return goals_tables(read_results("goals"))


TABLES: dict[str, Callable[[], str]] = {
    "detect": detect_table,
    "encoder": encoder_table,
    "precision": precision_table,
    "nncf": nncf_table,
    "suppress": suppress_table,
    "evaluation": evaluation_table,
    "training": training_table,
    "rates": rates_table,
    "demo": demo_table,
    "anet_demo": anet_demo_table,
    "engine_build": engine_build_table,
    "goals": goals_of_all,
    "afsd_activitynet": partial(afsd.stage_table, ACTIVITYNET),
    "afsd_activitynet_ratio": partial(afsd.ratio_table, ACTIVITYNET),
    "afsd_thumos": partial(afsd.stage_table, THUMOS14),
    "afsd_thumos_ratio": partial(afsd.ratio_table, THUMOS14),
    "afsd_targets": afsd.target_table,
    "afsd_share": afsd.share_table,
    "afsd_full": afsd.full_table,
    "decode": decode_table,
    "growth": growth_table,
    "length": length_table,
    "scale_cores": scale_page.core_table,
    "scale_gpus": scale_page.gpu_table,
    "scale_storage": scale_page.storage_table,
    "scale_money": scale_page.money_table,
    "scale_failures": scale_page.simulation_table,
    "full_size_cost": full_size.cost_table,
    "full_size_rate": full_size.rate_table,
    "kinetics_settings": lambda: kinetics_page.settings_table(read_results("kinetics")),
    "kinetics_encodings": lambda: kinetics_page.encodings_table(read_results("kinetics"), "tuning"),
    "kinetics_sizes": lambda: kinetics_page.encodings_table(read_results("kinetics"), "half"),
    "kinetics_report": lambda: kinetics_page.encodings_table(read_results("kinetics"), "report"),
    "kinetics_points": lambda: kinetics_page.points_table(read_results("kinetics_points")),
    "kinetics_point_classes": lambda: kinetics_page.point_classes_table(read_results("kinetics_points")),
    "kinetics_speed": lambda: kinetics_page.speed_table(read_results("kinetics_speed")),
    "real_heads": lambda: real_page.heads_table(read_results("real_training")),
    "real_short": lambda: real_page.heads_table(read_results("real_training"), is_short=True),
    "real_end_to_end": lambda: real_page.end_to_end_table(read_results("real_end_to_end")),
    "real_stale": lambda: real_page.stale_table(read_results("real_stale")),
    "real_classes": lambda: real_page.classes_table(read_results("real_training")),
    "real_tcm_beginning": lambda: real_page.beginning_table(read_results("real_tcm_beginning")),
    "real_cost": lambda: real_page.cost_table(read_results("real_end_to_end")),
    "real_tcm": lambda: real_page.curves_table(read_results("real_tcm")),
    **{f"ablation_{group.name}": partial(ablation_table, group) for group in GROUPS},
}


if __name__ == "__main__":
    main()
