"""The benchmark of training on real footage: its splits, its scores and its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.real_training import page
from benchmarks.real_training.end_to_end import continued
from benchmarks.real_training.features import FeatureStore
from benchmarks.real_training.pictures import collect, draw_timelines
from benchmarks.real_training.running import load, quiet_start, scored, splits
from benchmarks.real_training.stale_memory import drift, mixed
from benchmarks.real_training.tcm import variant_named
from benchmarks.real_training.variants import encoder_recipe, frozen_config, generated_recipe, heads
from benchmarks.real_training.videos import LAWN, PARKING_LOT, SEQUENCES, subset
from tallformer_infer.bundle import load_bundle
from tallformer_infer.structures import Action


def test_folds_leave_out_each_sequence_once_and_two_of_each_place() -> None:
    parts = splits("both")

    assert sorted(sequence for _, left_out in parts for sequence in left_out) == list(SEQUENCES)
    for learned, left_out in parts:
        assert sorted([*learned, *left_out]) == list(SEQUENCES)
        assert sum(sequence in LAWN for sequence in left_out) == 2
        assert sum(sequence in PARKING_LOT for sequence in left_out) == 2


def test_across_learns_in_one_place_and_is_tested_in_the_other() -> None:
    assert splits("across") == [(list(PARKING_LOT), list(LAWN))]


def test_a_subset_keeps_the_annotations_of_its_videos(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"database": {"a": {"annotations": [1]}, "b": {"annotations": []}}}))

    path = subset(truth, ["a"], tmp_path / "out" / "some.json")

    assert json.loads(path.read_text()) == {"database": {"a": {"annotations": [1]}}}


def test_map_counts_only_videos_that_were_looked_at(tmp_path: Path) -> None:
    rows = {name: {"annotations": [{"segment": [1.0, 3.0], "label": "hug"}]} for name in ("seen", "other")}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"database": rows}))

    line = scored({"seen": [Action(start_s=1.0, end_s=2.0, label="hug", score=0.9)]}, truth)

    assert line["truth"] == 1
    assert line["map"] == [100.0, 100.0, 100.0, 0.0, 0.0]  # tIoU 0.5 counts at 0.5


def test_a_table_gives_mean_and_deviation_over_seeds() -> None:
    line = {
        "variant": "points",
        "encoder": "kinetics400",
        "split": "both",
        "steps": 500,
        "train_s": 9.0,
        "train_cpu_s": 4.0,
    }
    runs = [{**line, "map": [value] * 5, "average_map": value} for value in (60.0, 70.0)]

    row = page.heads_table(runs).splitlines()[2]

    assert "| 2 | 65.0 ± 7.1 |" in row
    assert row.endswith("| 500 | 4 s |")
    assert row.startswith("| point head (ActionFormer) | (a)")


def test_short_runs_have_a_table_of_their_own() -> None:
    line = {"variant": "points", "encoder": "kinetics400", "split": "both", "train_s": 9.0, "train_cpu_s": 4.0}
    runs = [{**line, "steps": steps, "map": [50.0] * 5, "average_map": 50.0} for steps in (120, 500)]

    steps = [
        [row.split(" | ")[9] for row in page.heads_table(runs, is_short=short).splitlines()[2:]]
        for short in (False, True)
    ]

    assert steps == [["500"], ["120"]]


def test_heads_on_another_encoder_have_rows_of_their_own() -> None:
    line = {"variant": "points", "split": "both", "steps": 500, "train_s": 9.0, "train_cpu_s": 4.0}
    runs = [{**line, "encoder": name, "map": [50.0] * 5, "average_map": 50.0} for name in ("demo", "kinetics400")]

    rows = page.heads_table(runs).splitlines()[2:]

    assert [row.split(" | ")[0] for row in rows] == [
        "| point head (ActionFormer)",
        "| point head (ActionFormer), encoder of generated video",
    ]


def test_a_quiet_tcm_first_passes_on_what_it_gets(tmp_path: Path) -> None:
    (variant,) = (one for one in heads(encoder_recipe(side_px=64), frozen_config()) if one.has_quiet_tcm)
    detector = load(variant, quiet_start(variant, tmp_path / "start.safetensors", seed=3))
    steps = torch.randn(1, 128, 60, generator=torch.Generator().manual_seed(0))

    assert detector.tcm is not None
    with torch.no_grad():
        assert torch.equal(detector.tcm(steps), steps)
    assert float(detector.tcm.layers[0].attn.qkv.weight.detach().std()) > 0.01  # it can learn


def test_the_encoder_of_generated_video_sees_windows_of_the_same_length() -> None:
    recipes = generated_recipe(), encoder_recipe(side_px=112)

    assert [one.window.window_frames / one.sampling.sample_fps for one in recipes] == [19.2, 19.2]
    assert recipes[0].model.backbone == load_bundle("demo").recipe.model.backbone


def test_long_runs_differ_in_what_they_are_named_for() -> None:
    plain = variant_named("anchor-tcm", 3000, 250).config

    assert plain.epochs == 600  # 10 sequences, 2 orders, 2 windows of each in batches of 8: 5 steps
    assert variant_named("anchor-tcm-slow", 3000, 250).config.optimiser.base_lr == plain.optimiser.base_lr / 3
    assert variant_named("anchor-tcm-warm", 3000, 250).config.schedule.warmup_steps == 500
    assert variant_named("anchor", 3000, 250).recipe.model.tcm is None


def test_a_table_of_long_runs_gives_loss_and_map_on_the_way() -> None:
    runs = [
        {"variant": "anchor-tcm", "curve": [{"step": 250, "loss": loss, "map": [0, 0, value, 0, 0]}]}
        for loss, value in ((0.2, 60.0), (0.4, 70.0))
    ]

    assert page.curves_table(runs, (250, 500)).splitlines()[2] == "| with TCM | 2 | 0.300, 65.0 ± 7.1 |  |"


def test_end_to_end_takes_as_many_steps_as_asked_for() -> None:
    variant = continued(0.15, 100, videos=20, precision="bf16")

    assert variant.config.epochs * 20 / variant.config.batch_windows == 100
    assert variant.config.ratio == 0.15
    variant.config.require_fit(variant.recipe)


def test_timelines_show_what_is_above_a_score(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text(
        json.dumps({"sequence-12-0": [[1.0, 2.0, "hug", 0.9], [4.0, 5.0, "kick", 0.29]]})
    )
    rows = {"sequence-12-0": {"duration": 8.0, "annotations": [{"segment": [1.5, 2.5], "label": "hug"}]}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": rows}))

    (line,) = collect(tmp_path / "points.json", tmp_path / "truth.json", ["sequence-12-0"])

    assert (line["run"], line["duration_s"]) == ("points", 8.0)
    assert line["truth"] == [[1.5, 2.5, "hug"]]
    assert line["found"] == [[1.0, 2.0, "hug", 0.9]]
    bars = [(bar.get_x(), bar.get_width(), bar.get_y()) for bar in draw_timelines([line]).axes[0].patches]
    assert bars == [(1.5, 1.0, 0.65), (1.0, 1.0, -0.35)]


def test_a_table_of_costs_says_what_a_step_encodes() -> None:
    line = {"part": "cost", "ratio": 0.15, "clips": 4, "clip_frames": 32, "side_px": 112, "precision": "bf16"}

    rows = page.cost_table([{**line, "step_cpu_s": 2.149}, {"part": "first"}]).splitlines()

    assert rows[2:] == ["| 0.15 | 4 of 32 frames, 112 px | bf16 | 2.15 s |"]


def test_a_table_of_end_to_end_has_a_row_for_each_part() -> None:
    line = {"steps": 500, "train_s": 9.0, "train_cpu_s": 4.0, "map": [50.0] * 5, "average_map": 50.0}
    runs = [{**line, "part": part, "ratio": ratio} for part, ratio in (("frozen", 0.0), ("end-to-end", 0.15))]

    rows = page.end_to_end_table([*runs, {"part": "cost"}]).splitlines()[2:]

    assert [row.split(" | ")[:2] for row in rows] == [
        ["| … continued, head only", "0"],
        ["| … continued, end to end", "0.15"],
    ]


def test_a_table_of_stale_memories_compares_them_with_fresh_ones() -> None:
    runs = [
        {"variant": "anchor-tcm", "fresh_share": share, "map": [0, 0, value, 0, 0]}
        for share, value in ((1.0, 60.0), (1.0, 70.0), (0.15, 40.0), (0.15, 40.0))
    ]

    rows = page.stale_table(runs).splitlines()

    assert rows[0] == "| mAP at tIoU 0.5 | seeds | 100% of the clips fresh | 15% of the clips fresh |"
    assert rows[2:] == ["| with TCM | 2 | 65.0 ± 7.1 | 40.0 ± 0.0 |"]


def test_a_stale_memory_has_the_given_share_of_fresh_clips(tmp_path: Path) -> None:
    stores = []
    for name, value in (("before", 0), ("after", 1)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "a.npz", features=np.full((20, 3, 4), value, np.float32), frames=640)
        np.save(tmp_path / name / "empty.npy", np.full((1, 3, 4), value, np.float32))
        stores.append(FeatureStore(tmp_path / name))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"video")
    (tmp_path / "videos" / "truth.json").write_text(json.dumps({"database": {"a": {"annotations": []}}}))

    place, names = mixed(tmp_path, stores[0], stores[1], ["a"], share=0.15, seed=0)

    drawn = [place.store.read(name)[0] for name in names]
    assert [clips.mean() for clips in drawn] == [pytest.approx(0.15)] * 4
    assert len({clips.tobytes() for clips in drawn}) > 1
    assert all((place.videos / f"{name}.mp4").read_bytes() == b"video" for name in names)
    assert json.loads(place.truth.read_text())["database"].keys() == set(names)
    assert drift(stores[1], stores[0], ["a"]) == 1.0
