"""`tallformer import`, from a foreign file to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import save_file

from tallformer_infer import cli
from tallformer_infer.config import to_json
from tallformer_infer.errors import CheckpointError, OutputError, TallformerError
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


@pytest.mark.parametrize("suffix", [".pth", "", ".SAFETENSORS"])
def test_the_command_writes_only_safetensors_files(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(OutputError, match=r"expected a name that ends in \.safetensors"):
        run(tmp_path / "missing.pth", "--recipe", "tiny", "--out", tmp_path / f"o{suffix}")


def test_the_command_does_not_write_over_what_it_reads(tmp_path: Path, recipe_file: Path) -> None:
    path = tmp_path / "official.safetensors"
    save_file({name: tensor.clone() for name, tensor in official().items()}, path)
    before = path.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(path)

    for out in (path, tmp_path / "link.safetensors"):
        with pytest.raises(OutputError, match="is what this run reads"):
            run(path, "--recipe", recipe_file, "--out", out)
    assert path.read_bytes() == before


@pytest.mark.parametrize("out", ["gone/o.safetensors", "folder.safetensors"])
def test_the_command_refuses_a_destination_before_it_reads(tmp_path: Path, out: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()

    with pytest.raises(OutputError, match=r"there is no folder|is a folder; .*model\.safetensors"):
        run(tmp_path / "missing.pth", "--recipe", "tiny", "--out", tmp_path / out)


def test_the_command_can_be_quiet(tmp_path: Path, recipe_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(saved(tmp_path, official()), "--recipe", recipe_file, "--out", tmp_path / "o.safetensors", "--quiet")

    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "o.safetensors").exists()


def test_the_command_tells_programs_what_became_of_the_names(
    tmp_path: Path, recipe_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, edited(head__odd=torch.zeros(1)))

    code = cli.run(
        ["import", str(path), "--recipe", str(recipe_file), "--out", str(tmp_path / "o.safetensors"), "--json-logs"]
    )

    assert code == 1
    step, matched, error = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert step["event"] == "step"
    assert (matched["event"], matched["layout"], matched["missing"]) == ("matched", "TALLFormer detector", [])
    assert matched["unexpected"] == ["head.odd"]
    assert (error["event"], "1 unexpected (head.odd)" in error["message"]) == ("error", True)


def test_a_written_checkpoint_is_told_of(tmp_path: Path, recipe_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.safetensors"

    run(saved(tmp_path, official()), "--recipe", recipe_file, "--out", out)
    assert capfd.readouterr().err.endswith(f"\ntallformer: wrote {out}\n")

    run(saved(tmp_path, official()), "--recipe", recipe_file, "--out", out, "--json-logs")
    written = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (written["event"], written["out"], written["trained"]) == ("written", str(out), True)


def test_our_own_checkpoint_needs_no_import(tmp_path: Path, recipe_file: Path) -> None:
    run(saved(tmp_path, official()), "--recipe", recipe_file, "--out", tmp_path / "o.safetensors")

    with pytest.raises(CheckpointError, match=r"o\.safetensors: is a tallformer checkpoint already"):
        run(tmp_path / "o.safetensors", "--recipe", recipe_file, "--out", tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


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
