"""The page "Train on your own video", command by command, on a small generated folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tallformer_infer.config import preset, to_json
from tallformer_training.synthetic import SetSpec, make_dataset


def commands(root: Path) -> list[str]:
    text = (root / "docs/train.md").read_text(encoding="utf-8")
    return re.findall(r"^    (tallformer .*)$", text, re.M)


def test_train_export_detect_and_eval_work_as_the_page_says(root: Path, tmp_path: Path) -> None:
    spec = SetSpec(subset="training", videos=2, seed=5, minutes=0.5, fps=15, width_px=128, height_px=96)
    make_dataset(spec, tmp_path / "my-videos", jobs=1)
    shutil.move(tmp_path / "my-videos" / "annotations.json", tmp_path / "my.json")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    assert len(commands(root)) == 5
    for command in commands(root):
        # The suggested recipe is for real video and a GPU; here the smallest one learns for two epochs.
        shortened = command.replace("--out run", "--out run --epochs 2").replace(" --init kinetics400", "")
        done = subprocess.run(
            shortened,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if "--suggest" in command:
            suggested = json.loads((tmp_path / "recipe.json").read_text())
            assert set(suggested["classes"]) <= set(preset("tiny").classes)
            (tmp_path / "recipe.json").write_text(json.dumps(to_json(preset("tiny"))))

    assert "mAP" in done.stdout
    document = json.loads((tmp_path / "actions.json").read_text())
    assert document["model"]["trained"]
    assert len(document["videos"]) == 2
