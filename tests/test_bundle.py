"""A bundle is read strictly, or refused with one line."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from tallformer_infer.bundle import DESCRIPTION, bundled_models, load_bundle
from tallformer_infer.config import preset
from tallformer_infer.errors import BundleError
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import OnnxRuntime


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the bundled model, to damage."""
    return Path(shutil.copytree(bundled_models()["demo"], tmp_path / "copied"))


def rewrite(bundle: Path, **changes: object) -> None:
    """Change a description by hand, which takes its own hash away."""
    description = json.loads((bundle / DESCRIPTION).read_text())
    description.pop("description_sha256", None)
    (bundle / DESCRIPTION).write_text(json.dumps({**description, **changes}))


def test_the_default_model_is_bundled_trained_and_calibrated() -> None:
    bundle = load_bundle()

    assert bundle.name == "demo"
    assert bundle.trained
    assert bundle.recipe == preset("demo")
    assert bundle.calibration is not None
    assert bundle.calibration.default == "max-f1"
    assert len(bundle.read_graph("encoder")) > 0


@pytest.mark.parametrize("name", ["demo", "anet-demo"])
def test_the_sample_models_say_that_they_know_generated_videos_only(name: str) -> None:
    bundle = load_bundle(name)

    assert bundle.footage == "generated"
    assert bundle.intended_use is not None
    assert "eight motions of generated videos" in bundle.intended_use
    assert "does not work on real footage" in bundle.intended_use


def test_a_bundle_without_an_intended_use_loads(copied: Path) -> None:
    description = json.loads((copied / DESCRIPTION).read_text())
    for key in ("intended_use", "footage", "description_sha256"):
        del description[key]
    (copied / DESCRIPTION).write_text(json.dumps(description))

    bundle = load_bundle(copied)

    assert bundle.intended_use is None
    assert bundle.footage is None
    assert "intended_use" not in bundle.description.as_json()


def test_every_bundled_model_is_at_most_12_mb_and_kinetics400_26() -> None:
    for name, folder in bundled_models().items():
        assert sum(file.stat().st_size for file in folder.iterdir()) <= (26e6 if name == "kinetics400" else 12e6)


def test_a_folder_and_its_zip_are_the_same_bundle(copied: Path, tmp_path: Path) -> None:
    flat, nested = tmp_path / "flat.zip", tmp_path / "nested.zip"
    with zipfile.ZipFile(flat, "w") as archive_flat, zipfile.ZipFile(nested, "w") as archive_nested:
        for file in copied.iterdir():
            archive_flat.write(file, file.name)
            archive_nested.write(file, f"copied/{file.name}")

    for path in (flat, nested):
        assert load_bundle(path).sha256 == load_bundle(copied).sha256
        assert load_bundle(path).read_graph("suppress") == load_bundle(copied).read_graph("suppress")


def test_a_changed_graph_is_refused(copied: Path) -> None:
    with (copied / "encoder.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\0")

    with pytest.raises(BundleError, match=r"encoder\.onnx has sha256 .* was changed or damaged"):
        load_bundle(copied).read_graph("encoder")


def test_a_missing_graph_is_refused(copied: Path) -> None:
    (copied / "localizer.onnx").unlink()

    with pytest.raises(BundleError, match=r"bundle has no localizer\.onnx"):
        load_bundle(copied).read_graph("localizer")


def test_another_schema_version_is_refused(copied: Path) -> None:
    rewrite(copied, schema_version=2)

    with pytest.raises(BundleError, match="bundle has schema version 2, this tallformer reads 1"):
        load_bundle(copied)


@pytest.mark.parametrize("file", ["../secret.onnx", "/etc/passwd", "a/b.onnx", "..", ""])
def test_a_graph_outside_the_bundle_is_refused(copied: Path, file: str) -> None:
    graphs = json.loads((copied / DESCRIPTION).read_text())["graphs"]
    graphs["encoder"]["file"] = file
    rewrite(copied, graphs=graphs)

    with pytest.raises(BundleError, match="expected a plain file name"):
        load_bundle(copied)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", '{"schema_version": 1}', '{"schema_version": 1, "wheels": 4}']
)
def test_what_is_not_a_description_is_refused_in_one_line(copied: Path, content: str) -> None:
    (copied / DESCRIPTION).write_text(content)

    with pytest.raises(BundleError) as caught:
        load_bundle(copied)
    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no-such: no such model; .* demo"):
        load_bundle("no-such")
    with pytest.raises(BundleError, match=r"bundle has no bundle\.json"):
        load_bundle(tmp_path)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_text("not a zip")

    with pytest.raises(BundleError, match=r"expected a bundle folder or a readable \.zip"):
        load_bundle(tmp_path / "model.zip")


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(DESCRIPTION, json.dumps({"schema_version": 1, "padding": "x" * 5000}))
    content = bytearray(path.read_bytes())
    content[50:60] = bytes(10)
    path.write_bytes(content)

    with pytest.raises(BundleError, match="expected a bundle folder or a readable"):
        load_bundle(path)


def test_a_device_file_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="/dev/zero: no such model"):
        load_bundle("/dev/zero")


def test_a_graph_for_other_settings_than_the_recipe_is_refused(copied: Path) -> None:
    recipe = json.loads((copied / DESCRIPTION).read_text())["recipe"]
    recipe["suppress"]["tiou_threshold"] = 0.7
    rewrite(copied, recipe=recipe)

    with pytest.raises(BundleError, match="graph suppress was made for other settings than the recipe's"):
        OnnxRuntime(load_bundle(copied), device="cpu")


def test_a_recipe_without_a_graph_for_its_suppression_must_have_none(copied: Path) -> None:
    recipe = json.loads((copied / DESCRIPTION).read_text())["recipe"]
    recipe["suppress"]["method"] = "soft_linear"
    rewrite(copied, recipe=recipe)

    with pytest.raises(BundleError, match="method=soft_linear has no graph, yet there is one"):
        load_bundle(copied)


def test_a_class_that_the_recipe_does_not_name_is_refused(copied: Path, root: Path) -> None:
    recipe = json.loads((copied / DESCRIPTION).read_text())["recipe"]
    recipe["classes"] = recipe["classes"][:2]
    rewrite(copied, recipe=recipe, calibration=None)

    with pytest.raises(BundleError, match="graph localizer gives class 7, the recipe names 2 classes"):
        Detector.load(copied, device="cpu").detect(root / "docs/example/example.mp4")


def test_a_graph_that_does_not_fit_the_recipe_is_refused(copied: Path) -> None:
    recipe = json.loads((copied / DESCRIPTION).read_text())["recipe"]
    recipe["sampling"]["crop_px"] = 48
    rewrite(copied, recipe=recipe)

    with pytest.raises(
        BundleError, match=r"input 'clips' is \[32, 64, 64, 3\] per item, the recipe says \[32, 48, 48, 3\]"
    ):
        OnnxRuntime(load_bundle(copied), device="cpu")
