"""The commands of docs/real.md, as users type them: from annotated films to a detector, and its mAP on other films.

    python -m benchmarks.real_training.commands --work FOLDER [--recipe kinetics400-i3d] [--precision bf16] [--seed 0]

FOLDER is that of `python -m benchmarks.real_training`, whose videos are used: those of the parking lot for training,
those of the lawn for `eval`. One line with the time of every command is appended to `--out`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, append_line, children_cpu_s
from benchmarks.real_training.running import splits
from benchmarks.real_training.videos import ORDERS, names_of, subset
from tallformer_training.loop.record import read_metrics


def main() -> None:
    """Run the commands, and write a line."""
    options = _options()
    videos, folder = options.work / "videos", options.work / "commands"
    shutil.rmtree(folder, ignore_errors=True)
    ((learned, left_out),) = splits("across")
    films = names_of(learned, ORDERS)
    tested = names_of(left_out)
    truth = subset(videos / "truth.json", films, folder / "truth.json")
    other = subset(videos / "truth.json", tested, folder / "other.json")
    (folder / "films").mkdir()
    for name in films:
        (folder / "films" / f"{name}.mp4").symlink_to(videos / f"{name}.mp4")
    recipe, run, model, actions = (folder / name for name in ("recipe.json", "run", "my-model", "actions.json"))
    data = ["--annotations", truth, "--videos", folder / "films"]
    start = ["--recipe", recipe, "--init", "kinetics400", "--ratio", "0"]
    precision = ["--precision", options.precision]

    spent: dict[str, dict[str, float]] = {}
    suggested = ["train", "--suggest", "--recipe", options.recipe, "--annotations", truth]
    recipe.write_text(_timed(spent, "suggest", suggested), encoding="utf-8")
    _timed(spent, "train", ["train", *data, *start, *precision, "--seed", options.seed, "--out", run])
    _timed(spent, "export", ["export", run / "model.safetensors", "--out", model])
    _timed(
        spent, "detect", ["detect", *(videos / f"{name}.mp4" for name in tested), "--model", model, "--out", actions]
    )
    found = json.loads(_timed(spent, "eval", ["eval", actions, other, "--json"]))
    line: dict[str, Any] = {
        "recipe": options.recipe,
        "precision": options.precision,
        "seed": options.seed,
        "films": len(films),
        "steps": read_metrics(run)[-1]["step"],
        "spent": spent,
        "map": [round(100 * value, 2) for value in found["mAP"]],
        "average_map": round(100 * found["average_mAP"], 2),
    }
    append_line(options.out, line)
    print(json.dumps(line))


def _timed(spent: dict[str, dict[str, float]], name: str, arguments: list[object]) -> str:
    """Run a command of `tallformer`, keep its wall and processor time; returns what it prints."""
    wall_s, cpu_s = time.perf_counter(), children_cpu_s()
    command = [sys.executable, "-m", "tallformer_infer", *map(str, arguments)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    spent[name] = {"s": round(time.perf_counter() - wall_s, 1), "cpu_s": round(children_cpu_s() - cpu_s, 1)}
    return printed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training.commands", description=main.__doc__)
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder with the videos")
    parser.add_argument("--recipe", default="kinetics400-i3d-fast", help="recipe that the suggestion starts from")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="number format of training")
    parser.add_argument("--seed", type=int, default=0, help="seed of training")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_commands.jsonl", help="file to append lines to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
