"""The picture of encoded and remembered features, before and after the TCM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablations import features_picture
from benchmarks.ablations.groups import BASE
from benchmarks.ablations.running import Place, make_videos, run_folder, run_plan
from tests.tiny_ablations import place_in, tiny_plan, write_start

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that encodes two of four clips."""
    folder = tmp_path_factory.mktemp("whole")
    place = place_in(folder, write_start(folder / "base.safetensors"))
    run_plan(tiny_plan(), place, only=[BASE])
    return place


def picture_arguments(place: Place, run: str, out: Path) -> list[str]:
    request = make_videos(tiny_plan().data, place, "training", lambda: False)
    files = {"annotations": request.annotations, "videos": request.videos, "cache": place.out / "frames", "out": out}
    return [str(run_folder(place, run)), *(text for name, path in files.items() for text in (f"--{name}", str(path)))]


def test_the_picture_shows_encoded_and_remembered_features(
    whole: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.png"

    assert features_picture.main([*picture_arguments(whole, "base-seed-1", out), "--windows", "3"]) == 0

    assert out.read_bytes().startswith(PNG)
    gaps = json.loads(capsys.readouterr().out)["gap"]
    assert list(gaps) == list(features_picture.STAGES)
    assert all(np.isfinite(gap) and gap >= 0 for gap in gaps.values())


def test_half_of_the_steps_of_a_window_are_encoded(whole: Place, tmp_path: Path) -> None:
    arguments = picture_arguments(whole, "base-seed-1", tmp_path / "none.png")
    source = features_picture.Source(
        run=Path(arguments[0]), annotations=Path(arguments[2]), videos=Path(arguments[4]), cache=Path(arguments[6])
    )

    stages = features_picture.collect(source, windows=3)

    steps = [len(stages[name].features) for name in features_picture.STAGES]
    assert steps == [3 * 32, 3 * 8, 3 * 8]
    assert [int(stages[name].is_encoded.sum()) for name in features_picture.STAGES] == [3 * 16, 3 * 4, 3 * 4]


def test_a_run_without_memory_has_no_picture(whole: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = picture_arguments(whole, "base-seed-1", tmp_path / "none.png")
    record = json.loads((Path(arguments[0]) / "run.json").read_text())
    record["training"]["ratio"] = 1.0
    (tmp_path / "run.json").write_text(json.dumps(record))

    assert features_picture.main([str(tmp_path), *arguments[1:]]) == 1

    assert "expected a run with a TCM that encodes some clips and remembers others" in capsys.readouterr().err


def test_a_picture_needs_a_window(whole: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = picture_arguments(whole, "base-seed-1", tmp_path / "none.png")

    assert features_picture.main([*arguments, "--windows", "0"]) == 1

    assert "windows=0 must be at least 1" in capsys.readouterr().err


def test_principal_components_keep_distances_in_a_plane() -> None:
    generator = np.random.default_rng(0)
    plane, _ = np.linalg.qr(generator.normal(size=(7, 2)))
    flat = generator.normal(size=(40, 2)) * (5.0, 1.0)

    points, parts = features_picture.principal_components(flat @ plane.T + 3.0)

    def distances(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None], axis=2)

    np.testing.assert_allclose(distances(points), distances(flat), atol=1e-9)
    assert parts.sum() == pytest.approx(1.0)
    assert parts[0] > 0.8


def test_the_gap_is_the_distance_of_means_in_spreads() -> None:
    features = np.array([[0.0, 1.0], [0.0, -1.0], [6.0, 1.0], [6.0, -1.0]])
    stage = features_picture.Stage(features=features, is_encoded=np.array([True, True, False, False]))

    assert stage.gap == pytest.approx(6.0)
