"""`tallformer models` and `tallformer info`: what is installed, and what a bundle holds."""

from __future__ import annotations

import json
import re

import pytest

from tallformer_infer import cli
from tallformer_infer.bundle import bundled_models
from tallformer_infer.config import RECIPES, read_recipe
from tests.small_bundle import CLASSES, write_bundle


def test_models_lists_every_recipe(capsys):
    assert cli.run(["models"]) == 0
    listed = capsys.readouterr().out

    assert cli.run(["models", "list"]) == 0
    assert capsys.readouterr().out == listed
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_that_is_shown_can_be_passed_back(name, capsys, tmp_path):
    assert cli.run(["models", "show", name, "--recipe"]) == 0
    file = tmp_path / "recipe.json"
    file.write_text(capsys.readouterr().out, encoding="utf-8")

    assert read_recipe(file) == RECIPES[name]


def test_models_lists_every_bundled_model(capsys):
    assert cli.run(["models"]) == 0

    listed = capsys.readouterr().out
    assert bundled_models()
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in bundled_models())


def test_models_show_names_the_classes(capsys):
    assert cli.run(["models", "show", "thumos14-swin-t"]) == 0

    shown = capsys.readouterr().out
    assert "20 classes" in shown
    assert "VolleyballSpiking" in shown


def test_models_show_refuses_an_unknown_name_and_lists_those_there_are(capsys):
    assert cli.run(["models", "show", "thumos15"]) == 1

    assert "thumos15: no such recipe or model; there are thumos14-swin-b, " in capsys.readouterr().err


def test_info_shows_a_bundle(tmp_path, capsys):
    bundle = write_bundle(tmp_path / "small", trained=False)

    assert cli.run(["info", str(bundle)]) == 0

    shown = capsys.readouterr().out
    assert re.search(r"^model +small *$", shown, re.MULTILINE)
    assert "random weights" in shown
    assert "wave · jump · sit, then stand" in shown


def test_info_as_json_has_everything(tmp_path, capsys):
    bundle = write_bundle(tmp_path / "small")

    assert cli.run(["info", str(bundle), "--json"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert shown["trained"] is True
    assert shown["recipe"]["classes"] == list(CLASSES)
    assert set(shown["graphs"]) == {"encoder", "localizer"}
    assert re.fullmatch("[0-9a-f]{64}", shown["bundle_sha256"])


def test_info_refuses_what_is_no_bundle_in_one_line(capsys):
    assert cli.run(["info", "nowhere"]) == 1

    assert capsys.readouterr().err.startswith("tallformer: error: nowhere: no such model")


def test_no_word_of_the_lists_is_broken_in_a_narrow_terminal(monkeypatch, capsys):
    shown = {}
    for columns in (60, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.run(["models"]) == 0
        shown[columns] = capsys.readouterr().out

    assert max(map(len, shown[60].splitlines())) <= 60
    whole = {word.strip(",") for word in shown[300].split()}
    narrow = {word.strip(",:") for word in shown[60].replace("operating points", "").split()}
    assert {word for word in narrow if "-" in word} <= whole
    assert {"anet-demo", "thumos14-swin-t-112", "precision-0.90", "Apache-2.0", "2-2-18-2"} <= narrow
