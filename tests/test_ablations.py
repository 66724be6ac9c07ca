"""The ablations: a complete plan, runs that may be cut anywhere, and tables that say what was measured and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.ablations.__main__ import main
from benchmarks.ablations.groups import BASE, GROUPS, group_named
from benchmarks.ablations.plan import TCM, DataConfig, whole_plan
from benchmarks.ablations.results import finished_runs
from benchmarks.ablations.running import Place, is_done, run_folder, run_plan, settings_sha256
from benchmarks.ablations.starts import find_start
from tallformer_infer.config import read_recipe
from tallformer_infer.errors import CheckpointError, ConfigError
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.loop import EncoderStageConfig, TrainingConfig
from tallformer_training.loop.record import read_metrics
from tallformer_training.memory import encoded_count
from tallformer_training.model import Detector
from tallformer_training.model.point_head import PointOutputs
from tests.tiny_ablations import TINY, after, place_in, tiny_plan, write_start
from tests.training_set import CONFIG

OFTEN = {"step_s", "commit"}
"""What two measurements of one run need not share."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start") / "base.safetensors")


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny plan, done without interruption."""
    place = place_in(tmp_path_factory.mktemp("whole"), start)
    run_plan(tiny_plan(), place)
    return place


def test_every_row_of_every_group_has_its_runs() -> None:
    plan = whole_plan()
    runs = {(run.variant.name, run.seed) for run in plan.runs()}

    assert {(row.variant, seed) for group in GROUPS for row in group.rows for seed in plan.seeds} == runs
    assert len(plan.seeds) >= 3
    assert all(
        {name for pair in group.order for name in pair} <= {row.variant for row in group.rows} for group in GROUPS
    )


def test_names_of_runs_are_unique() -> None:
    names = [run.name for run in whole_plan().runs()]

    assert len(set(names)) == len(names)


def test_all_ratios_of_the_paper_are_there_with_its_numbers_of_clips() -> None:
    found = {variant.name: variant for variant in whole_plan().variants}
    group = group_named("ratio")
    assert group is not None
    ratios = [found[row.variant].config.ratio for row in group.rows]

    assert ratios == [0.0, 0.15, 0.3, 0.4, 0.6, 1.0]
    assert [encoded_count(found[BASE].recipe.window.clips, ratio) for ratio in ratios] == [0, 2, 4, 6, 9, 15]


def test_short_term_training_encodes_as_many_clips_as_the_base() -> None:
    found = {variant.name: variant for variant in whole_plan().variants}
    encoded = [
        encoded_count(found[name].recipe.window.clips, found[name].config.ratio) for name in (BASE, "short-term")
    ]

    assert encoded[0] == encoded[1] == found["short-term"].recipe.window.clips


def test_the_page_names_the_longest_anchor_of_the_base(root: Path) -> None:
    recipe = whole_plan().variants[0].recipe
    head = recipe.model.head
    frames = recipe.model.level_strides[-1] * head.scale_base * 2 ** ((head.scales - 1) / head.scales)

    said = f"longest anchor is {frames:.0f} frames, {frames / recipe.sampling.sample_fps:.1f} s"
    assert said in (root / "docs" / "ablations.md").read_text(encoding="utf-8")


def test_every_variant_but_short_term_differs_from_the_base_in_one_thing() -> None:
    base, *others = whole_plan().variants
    for other in others:
        recipes = [
            getattr(part(other.recipe), name) != getattr(part(base.recipe), name)
            for part, names in (
                (lambda recipe: recipe.model, ("backbone", "channels", "tcm", "pyramid", "head")),
                (lambda recipe: recipe, ("classes", "sampling", "window", "candidates", "suppress")),
            )
            for name in names
        ]
        configs = [getattr(other.config, name) != getattr(base.config, name) for name in vars(base.config)]
        assert sum(recipes) + sum(configs) == {"short-term": 2, "points": 3}.get(other.name, 1), other.name


def test_the_point_head_replaces_pyramid_tcm_and_head_and_nothing_else() -> None:
    found = {variant.name: variant for variant in whole_plan().variants}
    base, points = found[BASE], found["points"]
    model = points.recipe.model

    assert (model.pyramid.kind, model.head.kind, model.tcm) == ("transformer", "points", None)
    assert replace(points.recipe, model=base.recipe.model) == base.recipe
    assert replace(model, pyramid=base.recipe.model.pyramid, head=base.recipe.model.head, tcm=TCM) == base.recipe.model
    assert (points.config, points.start) == (base.config, base.start)


def test_every_variant_can_be_trained() -> None:
    for variant in whole_plan().variants:
        variant.config.require_fit(variant.recipe)
        backbone = variant.recipe.model.backbone
        outputs = Detector(variant.recipe).localize(torch.zeros(2, backbone.out_channels, variant.recipe.window_steps))
        if isinstance(outputs, PointOutputs):
            assert outputs.distances.shape == (2, 240 + 120 + 60 + 30 + 15 + 8, 2)
        else:
            assert [tuple(level.shape[:2]) for level in outputs.regressions] == 5 * [(2, 10)]


def test_runs_that_were_cut_again_and_again_come_to_the_same_lines(whole: Place, start: Path, tmp_path: Path) -> None:
    place, calls = place_in(tmp_path, start), 0
    while (progress := run_plan(tiny_plan(), place, until=after(3))).left:
        calls += 1
        assert calls < 30, progress

    found, expected = (finished_runs(folder.results) for folder in (place, whole))
    assert calls >= 4  # two runs of four steps, two steps a call
    assert [line["run"] for line in found] == ["base-seed-1", "r-1-seed-1"]
    for line, other in zip(found, expected, strict=True):
        assert {key: value for key, value in line.items() if key not in OFTEN} == {
            key: value for key, value in other.items() if key not in OFTEN
        }


def test_a_line_says_what_the_run_took(whole: Place) -> None:
    half, full = finished_runs(whole.results)

    assert (half["clips_encoded"], full["clips_encoded"], half["clips"]) == (2, 4, 4)
    assert 0.4 < half["saved_bytes"] / full["saved_bytes"] < 0.6
    assert half["steps"] == len([line for line in read_metrics(run_folder(whole, half["run"])) if "loss" in line])
    assert 0 <= half["map"] <= 1
    assert half["step_s"] > 0
    assert half["training"]["seed"] == half["seed"] == 1


def test_what_is_measured_is_not_done_again(whole: Place) -> None:
    before = whole.results.read_bytes()

    progress = run_plan(tiny_plan(), whole)

    assert progress.finished == progress.left == progress.waiting == ()
    assert whole.results.read_bytes() == before


def test_only_one_variant_or_group_is_run() -> None:
    plan = whole_plan()

    assert {run.variant.name for run in plan.runs(["tcm"])} == {BASE, "no-tcm"}
    assert {run.variant.name for run in plan.runs(["no-tcm", "px-32"])} == {"no-tcm", "px-32"}
    with pytest.raises(ConfigError, match="tmc: no such ablation"):
        list(plan.runs(["tmc"]))


def test_a_result_of_other_settings_is_refused(whole: Place, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({**finished_runs(whole.results)[0], "settings_sha256": "other"}) + "\n")

    with pytest.raises(ConfigError, match="base-seed-1 was measured with other settings; remove its line"):
        run_plan(tiny_plan(), replace(whole, results=results))


def test_a_result_of_another_machine_says_nothing_of_this_one(whole: Place, tmp_path: Path) -> None:
    plan, place = tiny_plan(), replace(whole, results=tmp_path / "results.jsonl")
    line = {**finished_runs(whole.results)[0], "processor": "Abacus", "settings_sha256": "other"}
    place.results.write_text(json.dumps(line) + "\n")

    assert [is_done(run, plan, place) for run in plan.runs()] == [False, False]


def test_a_new_setting_at_its_default_changes_no_hash(start: Path) -> None:
    (run, _) = tiny_plan().runs()
    before = settings_sha256(run, DataConfig(), start)

    def hash_with(**changes: object) -> str:
        variant = replace(run.variant, config=replace(run.variant.config, **changes))
        return settings_sha256(replace(run, variant=variant), DataConfig(), start)

    assert run.config.points == TrainingConfig().points
    assert hash_with(points=TrainingConfig().points) == before
    assert hash_with(ratio=0.75) != before
    assert settings_sha256(run, DataConfig(minutes=1.0), start) != before


def test_a_run_without_its_start_waits(tmp_path: Path) -> None:
    place = Place(out=tmp_path, results=tmp_path / "results.jsonl")

    assert run_plan(tiny_plan(), place).waiting == ("base-seed-1", "r-1-seed-1")
    assert not list(tmp_path.iterdir())


def test_a_run_starts_with_the_given_encoder_and_the_rest_of_its_seed(whole: Place, start: Path) -> None:
    (made,) = (whole.out / "runs").glob("base-seed-1-from-*.safetensors")
    state, given = load_checkpoint(made).state, load_checkpoint(start).state
    with torch.random.fork_rng():
        torch.manual_seed(1)
        own = Detector(TINY).state_dict()

    for name, value in state.items():
        assert torch.equal(value, (given if name.startswith("backbone.") else own)[name]), name


def test_a_start_that_is_not_given_is_made_first(tmp_path: Path) -> None:
    stage = EncoderStageConfig(steps=3, batch_clips=2)
    config = replace(CONFIG, encoder_stage=stage, memory_start="zeros", checkpoint_every_steps=100)
    plan = replace(tiny_plan(), start_config=config)
    place = Place(out=tmp_path, results=tmp_path / "results.jsonl")

    first = run_plan(plan, place, only=["r-1"], until=after(6))  # one run, four videos, a step
    assert (first.finished, first.left) == ((), ("r-1-seed-1",))
    assert run_plan(plan, place, only=["r-1"]).finished == ("r-1-seed-1",)

    made = find_start(BASE, plan, {}, tmp_path)
    (used,) = (tmp_path / "runs").glob("*-from-*.safetensors")
    assert made is not None
    learned, start = load_checkpoint(made).state, load_checkpoint(used).state
    assert all(torch.equal(start[name], learned[name]) for name in start if name.startswith("backbone."))
    assert [line["step"] for line in read_metrics(tmp_path / "starts" / BASE / "encoder")] == [1, 2, 3]


def test_another_encoder_is_refused(start: Path, tmp_path: Path) -> None:
    plan = tiny_plan()
    backbone = replace(TINY.model.backbone, embed_channels=32)
    other = replace(plan.variants[0], recipe=replace(TINY, model=replace(TINY.model, backbone=backbone)))

    with pytest.raises(CheckpointError, match="not the encoder of this variant"):
        run_plan(replace(plan, variants=(other,)), place_in(tmp_path, start))


def test_the_list_names_every_run_with_its_state_and_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--out", str(tmp_path), "--results", str(tmp_path / "none.jsonl"), "--threads", "1"]) == 0

    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [run.name for run in whole_plan().runs()]
    assert {tuple(line[1:]) for line in lines if line[0].startswith("px-32")} == {("to do", "from px-32", "resolution")}


def test_the_recipes_of_the_starts_can_be_read(tmp_path: Path) -> None:
    assert main(["--recipes", str(tmp_path), "--threads", "1"]) == 0

    found = {path.stem: read_recipe(path) for path in tmp_path.glob("*.json")}
    assert found == whole_plan().starts()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("px-33=a.safetensors", "no such start; there are"),
        ("missing.safetensors", "--init base=missing.safetensors: no such file"),
    ],
)
def test_a_start_that_is_not_there_is_an_error_of_one_line(
    given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--init", given, "--threads", "1"]) == 1

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
