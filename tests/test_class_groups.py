"""Named groups of classes: `--classes @sports`, and lists of classes in a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tallformer_infer import cli
from tallformer_infer.config.class_groups import CLASS_GROUPS, expand_groups, groups_of
from tallformer_infer.errors import ConfigError
from tests.small_bundle import RECIPE, write_bundle
from tests.videos import noise_pictures, write_video

CLASSES = ("yoga", "salsa dancing", "zumba")
"""Of a model; it finds the first at 0.9, the second at 0.4, the third at 0.2."""


def test_every_class_of_kinetics_is_in_a_group_and_no_other() -> None:
    file = Path(__file__).parents[2] / "shared" / "reference" / "kinetics400_classes.txt"
    if not file.is_file():
        pytest.skip("needs ../shared/reference")

    classes = set(file.read_text().splitlines()) - {""}

    assert len(classes) == 400
    assert {label for members in CLASS_GROUPS.values() for label in members} == classes


def test_groups_are_few_and_have_each_class_once() -> None:
    assert 10 <= len(CLASS_GROUPS) <= 15
    for name, members in CLASS_GROUPS.items():
        assert name.isalpha(), name
        assert name.islower(), name
        assert 15 <= len(members) == len(set(members)), name
    assert "playing tennis" in CLASS_GROUPS["sports"]
    assert "flipping pancake" in CLASS_GROUPS["cooking"]
    assert "playing piano" in CLASS_GROUPS["music"]


def test_a_group_stands_for_those_of_its_classes_that_the_model_knows() -> None:
    assert expand_groups(["@dance", "yoga"], CLASSES) == ("salsa dancing", "zumba", "yoga")
    assert expand_groups(["@Fitness", "@dance"], CLASSES) == ("yoga", "zumba", "salsa dancing")
    assert groups_of(CLASSES) == {"fitness": 2, "dance": 2}


def test_a_class_that_begins_with_an_at_sign_is_a_class() -> None:
    assert expand_groups(["@dance"], ("@dance", "zumba")) == ("@dance",)


def test_a_group_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="group '@sprots': no such group; there are @sports, @fitness"):
        expand_groups(["@sprots"], CLASSES)
    with pytest.raises(ConfigError, match="group '@snow': the model knows none of its 18 classes; it knows classes of"):
        expand_groups(["@snow"], CLASSES)
    with pytest.raises(ConfigError, match="it knows no class of any group"):
        expand_groups(["@snow"], ("wave",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has a video `a.mp4` and a model `model` that finds one action of each of `CLASSES`."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", noise_pictures(40, height_px=48, width_px=64), fps=2)
    bundle = write_bundle(tmp_path / "model")
    description = json.loads((bundle / "bundle.json").read_text())
    description["recipe"]["classes"] = list(CLASSES)
    (bundle / "bundle.json").write_text(json.dumps(description))
    assert len(dataclasses.replace(RECIPE, classes=CLASSES).classes) == 3
    return tmp_path


def labels(folder: Path, *arguments: str) -> set[str]:
    assert cli.run(["detect", "a.mp4", "--model", "model", "-o", "x.json", "--device", "cpu", "-q", *arguments]) == 0
    document = json.loads((folder / "x.json").read_text())
    return {action["label"] for action in document["videos"][0]["actions"]}


def test_detect_keeps_the_classes_of_a_group_and_of_a_file(folder: Path) -> None:
    (folder / "wanted.txt").write_text("# what we look for\nyoga\n\n@dance  # all of it\n")
    (folder / "one.txt").write_text("yoga\n")

    assert labels(folder, "--classes", "@dance") == {"salsa dancing", "zumba"}
    assert labels(folder, "--classes-file", "one.txt") == {"yoga"}
    assert labels(folder, "--classes-file", "one.txt", "--classes", "zumba") == {"yoga", "zumba"}
    assert labels(folder, "--classes-file", "wanted.txt") == set(CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--classes-file wanted.txt: No such file or directory"),
        (b"# nothing\n", "no class in it; expected one per line"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"@snow", "the model knows none of its 18 classes"),
        (b"joga", "class 'joga': no such class; did you mean 'yoga'?"),
    ],
)
def test_a_list_of_classes_that_is_wrong_is_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    if content is not None:
        (folder / "wanted.txt").write_bytes(content)

    assert cli.run(["detect", "a.mp4", "--model", "model", "--classes-file", "wanted.txt", "--device", "cpu"]) == 2

    assert message in capsys.readouterr().err


def test_label_takes_groups_too(folder: Path) -> None:
    arguments = ["--model", "model", "--out", "labels", "--device", "cpu", "--workers", "1", "-q"]

    assert cli.run(["label", "a.mp4", *arguments, "--classes", "@dance"]) == 0

    (file,) = (folder / "labels" / "results").glob("*.json")
    found = json.loads(file.read_text())
    assert {action["label"] for action in found["videos"][0]["actions"]} == {"salsa dancing", "zumba"}


def test_info_lists_the_groups_that_a_model_knows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info", "model"]) == 0
    assert "@fitness (2) · @dance (2); for --classes" in " ".join(capsys.readouterr().out.split())

    assert cli.run(["info", "demo"]) == 0
    assert "@" not in capsys.readouterr().out
