"""Reading official detectors: the golden one, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tallformer_infer.config import TcmConfig
from tallformer_infer.errors import CheckpointError
from tallformer_training.importing import import_checkpoint, match_checkpoint
from tests import model_golden as g
from tests.official_file import edited, official, saved
from tests.small_detector import SMALL, build

CONTAINERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 3}, "optimizer": {"lr": [0.1]}},
    "averaged": lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state, "epoch": 1},
    "parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "parallel inside": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_official_files_load_whatever_they_are_wrapped_in(tmp_path: Path, container: str) -> None:
    path = saved(tmp_path, CONTAINERS[container](official()))

    state, report = import_checkpoint(path, SMALL)

    expected = build().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert len(report.loaded) == len(expected)
    assert not report.initialised
    assert {reason.rpartition("(")[2] for _, reason in report.ignored} == {
        "dummy_tensor)",
        "relative_position_index)",
        "pe.pe)",
    }


def test_a_safetensors_file_loads(tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in official().items()}, tmp_path / "official.safetensors")

    state, report = import_checkpoint(tmp_path / "official.safetensors", SMALL)

    assert torch.equal(state["tcm.layers.1.mlp.fc1.weight"], build().state_dict()["tcm.layers.1.mlp.fc1.weight"])
    assert report.layout == "TALLFormer detector"


def test_all_354_golden_names_are_accounted_for(golden: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, g.official_weights(golden))

    _, report = import_checkpoint(path, g.tiny_recipe(golden))

    assert len(report.loaded) + len(report.ignored) == 354
    assert len(report.ignored) == 8 + 11 + 1  # dummy tensors, index tables, sinusoids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head__retina_reg__bias": None}, r"1 missing \(head\.retina_reg\.bias\); allow missing parts"),
        ({"head__extra": torch.zeros(2)}, r"1 unexpected \(head\.extra\)$"),
        ({"cls_head__fc_cls__weight": torch.zeros(2)}, r"1 unexpected \(cls_head\.fc_cls\.weight\)$"),
        ({"neck__0__conv1__bias": torch.zeros(3)}, r"1 of another shape \(neck\.0\.conv1\.bias is \[3\], .*\[32\]\)"),
        (
            {"neck__1__encoder__layers__0__attn__relative_position_bias_table": torch.zeros(39, 4)},
            r"the file was trained with model\.tcm\.max_steps = 20",
        ),
        (
            {"neck__1__encoder__layers__0__attn__relative_position_index": torch.zeros(16, 16, dtype=torch.int64)},
            "1 contradictory .*relative_position_index differs from this model's",
        ),
        (
            {"backbone__layers__0__blocks__1__attn__relative_position_index": torch.zeros(3, 3, dtype=torch.int64)},
            "1 contradictory .*relative_position_index differs from this model's",
        ),
        ({"neck__2__pe__pe": torch.zeros(5000, 1, 32)}, "1 contradictory .*not the usual table of sinusoids"),
        ({"neck__2__pe__pe": torch.zeros(7)}, "1 contradictory .*not the usual table of sinusoids"),
        ({"head__retina_reg__bias": torch.full((10,), torch.nan)}, "holds NaN or infinity"),
        ({"head__retina_reg__bias": torch.zeros(10, dtype=torch.int64)}, r"holds torch\.int64 where torch\.float32"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Tensor | None], message: str) -> None:
    path = saved(tmp_path, edited(**changes))

    with pytest.raises(CheckpointError, match=message) as caught:
        import_checkpoint(path, SMALL)
    assert str(caught.value).startswith(f"{path}: does not fit recipe small: ")
    assert "\n" not in str(caught.value)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() and "pe.pe" not in k else v for k, v in official().items()}

    state, _ = import_checkpoint(saved(tmp_path, halves), SMALL)

    assert state["head.retina_cls.weight"].dtype == torch.float32
    assert torch.equal(state["head.retina_cls.weight"], build().state_dict()["head.retina_cls.weight"].half().float())


def test_counters_of_batch_norm_may_be_absent(tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in official().items() if not name.endswith("num_batches_tracked")}

    state, report = import_checkpoint(saved(tmp_path, without), SMALL)

    assert state["head.cls_convs.0.bn.num_batches_tracked"] == 0
    assert (
        "head.cls_convs.0.bn.num_batches_tracked",
        "absent: counts training steps; not used",
    ) in report.ignored


@pytest.mark.parametrize("patterns", [("head.*",), ("head.retina_*", "head.*_convs.*"), ("h*",)])
def test_what_may_be_missing_gets_the_same_fresh_weights_every_time(tmp_path: Path, patterns: tuple[str, ...]) -> None:
    path = saved(tmp_path, {name: tensor for name, tensor in official().items() if not name.startswith("head.")})

    first, report = import_checkpoint(path, SMALL, allow_missing=patterns)
    torch.rand(3)
    second, _ = import_checkpoint(path, SMALL, allow_missing=patterns)

    assert all(name.startswith("head.") for name in report.initialised)
    assert torch.equal(first["head.retina_cls.weight"], second["head.retina_cls.weight"])
    assert first["head.retina_cls.weight"].std().item() == pytest.approx(0.01, rel=0.2)


def test_importing_leaves_the_random_numbers_of_the_caller_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, official())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    import_checkpoint(path, SMALL)

    assert torch.equal(torch.rand(1), expected)


def test_a_tcm_for_another_window_is_refused_with_its_length(tmp_path: Path) -> None:
    longer = replace(SMALL, model=replace(SMALL.model, tcm=TcmConfig(layers=2, heads=4, max_steps=24)))

    _, report = match_checkpoint(saved(tmp_path, official()), longer)

    assert len(report.reshaped) == 2
    assert "trained with model.tcm.max_steps = 16" in report.reshaped[0]
    assert len(report.conflicts) == 2  # the index tables of both layers
    assert not report.complete
