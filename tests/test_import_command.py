"""`tallformer import`, from a foreign file to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose

from tallformer_infer.config import to_json
from tallformer_infer.errors import CheckpointError, TallformerError
from tallformer_training.checkpoint import load_checkpoint, load_detector
from tallformer_training.commands.import_checkpoint import app
from tests import model_golden as g
from tests.official_file import edited, official, saved
from tests.small_detector import SMALL


def run(*arguments: object) -> None:
    app(args=[str(argument) for argument in arguments], prog_name="tallformer import", standalone_mode=False)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    (tmp_path / "small.json").write_text(json.dumps(to_json(SMALL)))
    return tmp_path / "small.json"


def test_the_command_writes_nothing_when_something_is_missing(
    tmp_path: Path, recipe_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, edited(head__retina_reg__bias=None, head__odd=torch.zeros(1)))

    with pytest.raises(CheckpointError):
        run(path, "--recipe", recipe_file, "--out", tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()
    out, err = capfd.readouterr()
    assert out == ""
    assert "missing: 1\n  head.retina_reg.bias\n" in err
    assert "unexpected: 1\n  head.odd\n" in err
    assert "reshaped: 0\n" in err
    assert "loaded: " in err


def test_the_command_marks_a_model_with_fresh_weights_as_untrained(tmp_path: Path, recipe_file: Path) -> None:
    path = saved(tmp_path, {name: tensor for name, tensor in official().items() if not name.startswith("head.")})

    run(path, "--recipe", recipe_file, "--out", tmp_path / "o.safetensors", "--allow-missing", "head.*")

    provenance = load_checkpoint(tmp_path / "o.safetensors").provenance
    assert provenance["trained"] is False
    assert "head.retina_cls.bias" in provenance["initialised"]


def test_the_command_refuses_an_unknown_recipe(tmp_path: Path) -> None:
    with pytest.raises(TallformerError, match="resnet: no such recipe; there are thumos14-swin-b"):
        run(tmp_path / "x.pth", "--recipe", "resnet", "--out", tmp_path / "o.safetensors")


def test_the_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")

    text = capsys.readouterr().out
    assert "tallformer import epoch_900_weights.pth --recipe thumos14-swin-b" in text
    assert "--allow-missing" in text


def test_the_golden_weights_import_and_give_the_official_scores(golden: Path, tmp_path: Path) -> None:
    frames, arrays = g.tiny_window(golden, "w1")
    recipe = g.tiny_recipe(golden, crop_px=64)
    path = saved(tmp_path, g.official_weights(golden), "epoch_1000_weights.pth")
    (tmp_path / "tiny.json").write_text(json.dumps(to_json(recipe)))
    out = tmp_path / "tiny.safetensors"

    run(path, "--recipe", tmp_path / "tiny.json", "--out", out)

    detector, checkpoint = load_detector(out)
    assert checkpoint.recipe == recipe
    assert checkpoint.provenance["trained"] is True
    assert checkpoint.provenance["source"]["file"] == "epoch_1000_weights.pth"
    assert len(checkpoint.provenance["source"]["sha256"]) == 64
    with torch.no_grad():
        decoded = detector.decode(detector(frames), torch.tensor([72]), torch.tensor([78]))
    assert_allclose(decoded.segments_frames[0], arrays["segments"], **g.SEGMENTS)
    assert_allclose(decoded.scores[0], arrays["scores"][:, :-1], **g.SCORES)
