"""Operating points in a bundle: read strictly, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import pytest

from tallformer_infer.bundle import DESCRIPTION, Bundle, bundled_models, load_bundle
from tallformer_infer.bundle.writing import write_calibration
from tallformer_infer.commands.tables import describe_calibration
from tallformer_infer.config import Calibration, Cut
from tallformer_infer.errors import BundleError, ConfigError, OutputError
from tests.calibration_samples import calibration
from tests.small_bundle import CLASSES, write_bundle

POINTS = calibration(dict.fromkeys(CLASSES, 0.3))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a licence beside its graphs."""
    folder = write_bundle(tmp_path / "small")
    (folder / "LICENCE.txt").write_text("free", encoding="utf-8")
    return folder


@pytest.fixture
def zipped(bundle: Path, tmp_path: Path) -> Path:
    """The same as a file manager zips it: inside its folder."""
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, f"small/{file.name}")
    return path


def files(path: Path) -> dict[str, bytes]:
    """Name and content of what is in a bundle, but for its description."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir() if file.name != DESCRIPTION}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != DESCRIPTION}


def without_points(bundle: Bundle) -> object:
    return dataclasses.replace(bundle.description, calibration=None)


def assert_has_points(bundle: Bundle) -> None:
    assert bundle.calibration is not None
    assert dataclasses.replace(bundle.calibration, uncalibrated_sha256=None) == POINTS


def test_a_bundle_without_points_reads_as_ever(bundle: Path) -> None:
    assert load_bundle(bundle).calibration is None
    assert "calibration" not in load_bundle(bundle).description.as_json()


def test_points_are_written_into_the_bundle_and_nothing_else_changes(bundle: Path) -> None:
    before, contents = load_bundle(bundle), files(bundle)

    after = write_calibration(bundle, POINTS)

    assert_has_points(after)
    assert after.path == bundle
    assert without_points(after) == before.description
    assert files(bundle) == contents
    assert after.sha256 != before.sha256


@pytest.mark.parametrize("source", ["bundle", "zipped"])
@pytest.mark.parametrize("name", ["new", "new.zip"])
def test_a_copy_has_everything_and_the_source_stays(
    source: str, name: str, request: pytest.FixtureRequest, tmp_path: Path, bundle: Path
) -> None:
    given = request.getfixturevalue(source)
    before = load_bundle(given)

    copy = write_calibration(given, POINTS, out=tmp_path / name)

    assert_has_points(copy)
    assert copy.path == tmp_path / name
    assert without_points(copy) == before.description
    assert files(copy.path) == files(bundle)
    assert load_bundle(given).sha256 == before.sha256
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_zip_is_written_in_place(zipped: Path, bundle: Path) -> None:
    after = write_calibration(zipped, POINTS)

    assert after.path == zipped
    assert_has_points(after)
    assert files(zipped) == files(bundle)


def test_points_are_replaced_by_new_ones_and_the_first_hash_stays(bundle: Path) -> None:
    first = load_bundle(bundle).sha256
    write_calibration(bundle, dataclasses.replace(POINTS, default="none"))

    again = write_calibration(bundle, POINTS)

    assert_has_points(again)
    assert again.calibration is not None
    assert again.calibration.uncalibrated_sha256 == first


def test_the_same_points_give_the_same_bundle_byte_for_byte(bundle: Path, tmp_path: Path) -> None:
    one = write_calibration(bundle, POINTS, out=tmp_path / "one")
    two = write_calibration(bundle, POINTS, out=tmp_path / "two")

    assert one.sha256 == two.sha256


def test_an_older_bundle_at_the_destination_is_replaced(bundle: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", trained=False)

    assert write_calibration(bundle, POINTS, out=other).trained
    assert "LICENCE.txt" in files(other)


def test_what_is_no_bundle_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "notes").write_text("mine")

    for name in ("videos", "notes"):
        with pytest.raises(OutputError, match=rf"{name}: exists and is not a bundle"):
            write_calibration(bundle, POINTS, out=tmp_path / name)
    with pytest.raises(OutputError, match="there is no folder"):
        write_calibration(bundle, POINTS, out=tmp_path / "no" / "new")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_model_of_the_package_stays_as_it_is(tmp_path: Path) -> None:
    before = load_bundle("demo")
    points = calibration(dict.fromkeys(before.recipe.classes, 0.3))

    with pytest.raises(BundleError, match="demo: is installed with tallformer and cannot be changed; use --out"):
        write_calibration("demo", points)
    copy = write_calibration("demo", points, out=tmp_path / "mine")

    assert copy.calibration is not None
    assert load_bundle("demo").sha256 == before.sha256
    assert not load_bundle(copy.path).is_bundled
    assert load_bundle(bundled_models()["demo"]).is_bundled


def test_a_stop_while_writing_leaves_the_old_bundle(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(_descriptor: int) -> None:
        raise KeyboardInterrupt

    before = load_bundle(bundle)
    old = write_bundle(tmp_path / "old", trained=False)
    monkeypatch.setattr(os, "fsync", stop)

    for out in (None, old, tmp_path / "new.zip"):
        with pytest.raises(KeyboardInterrupt):
            write_calibration(bundle, POINTS, out=out)

    assert load_bundle(bundle).sha256 == before.sha256
    assert not load_bundle(old).trained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "small"]
    assert sorted(path.name for path in bundle.iterdir()) == sorted([DESCRIPTION, *files(bundle)])


def test_a_damaged_graph_is_not_copied(bundle: Path, tmp_path: Path) -> None:
    (bundle / "encoder.onnx").write_bytes(b"broken")

    with pytest.raises(BundleError, match=r"encoder\.onnx has sha256 .* was changed or damaged"):
        write_calibration(bundle, POINTS, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_points_of_another_model_are_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="calibration is for swim; expected the classes of the recipe: wave, jump"):
        write_calibration(bundle, calibration({"swim": 0.5}))


def rewrite(bundle: Path, section: object) -> None:
    description = json.loads((bundle / DESCRIPTION).read_text())
    (bundle / DESCRIPTION).write_text(json.dumps({**description, "calibration": section}))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"version": 2, "bands": []},
            "calibration has version 2, this tallformer reads 1; update tallformer, or remove",
        ),
        ({}, "calibration has version None, this tallformer reads 1"),
        ("max-f1", "bundle.calibration: expected an object"),
        ({"version": 1, "default": "all"}, r"bundle.calibration.tiou_threshold: missing"),
    ],
)
def test_another_form_of_points_is_refused_in_one_line(bundle: Path, section: object, message: str) -> None:
    rewrite(bundle, section)

    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)


def change(**changes: object) -> Calibration:
    return dataclasses.replace(POINTS, **changes)  # type: ignore[arg-type]


def test_points_that_do_not_hang_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="default='best': no such operating point; there are max-f1, precision"):
        change(default="best")
    with pytest.raises(ConfigError, match="operating point 'all': that name is taken"):
        change(points={"all": POINTS.points["max-f1"]})
    with pytest.raises(ConfigError, match=r"class 'wave': has cuts for \['max-f1', 'precision-0.90'\], expected"):
        change(points={"max-f1": POINTS.points["max-f1"]})
    with pytest.raises(ConfigError, match=r"threshold=1\.5 must be in \[0, 1\]"):
        Cut(threshold=1.5, precision=None, recall=None)


@pytest.mark.parametrize(
    ("made_from", "expected"), [({"videos": 1}, " in 1 video"), ({}, ""), ({"videos": "many"}, "")]
)
def test_what_is_said_of_the_labelled_set_is_what_the_bundle_says(made_from: dict[str, object], expected: str) -> None:
    said = describe_calibration(change(made_from=made_from))

    assert said == f"with 36 truths{expected}, right from tIoU 0.5 on"


def test_a_cut_keeps_its_threshold_and_what_is_above() -> None:
    cut = Cut(threshold=0.5, precision=None, recall=None)

    assert (cut.keeps(0.5), cut.keeps(0.499)) == (True, False)
    assert not Cut(threshold=None, precision=None, recall=None).keeps(1.0)
