"""Which videos to label next, in archives where the right answer is known by how they were made."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tallformer_infer import cli
from tallformer_infer.archive.suggesting import choose, uncertainty
from tallformer_infer.structures import Action
from tallformer_training.synthetic import VideoSpec, write_script, write_video
from tests.videos import write_video as write_pictures


def _recoded(source: Path, target: Path) -> None:
    """The same film in another codec and quality."""
    with av.open(str(source)) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    write_pictures(target, pictures, fps=15)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three generated films, two copies of the first, and one of noise, labelled with `demo`."""
    videos, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("archive")
    for index in range(3):
        spec = VideoSpec(subset="testing", seed=0, index=index, minutes=0.3, fps=15, width_px=96, height_px=96)
        write_video(write_script(spec), videos / f"film{index}.mp4")
    shutil.copyfile(videos / "film0.mp4", videos / "copy.mp4")
    _recoded(videos / "film0.mp4", videos / "recoded.mkv")
    noise = np.random.default_rng(0).integers(0, 256, (200, 96, 96, 3), np.uint8)
    write_pictures(videos / "noise.mp4", list(noise), fps=15)
    command = [sys.executable, "-m", "tallformer_infer", "label", str(videos), "--out", str(out), "--model", "demo"]
    subprocess.run([*command, "--threshold", "0.2", "--quiet"], check=True, timeout=300)
    return out


@pytest.fixture
def copied(archive: Path, tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    """An archive of one's own, whose scores may be changed."""
    folder = Path(shutil.copytree(archive, tmp_path / "archive"))
    with sqlite3.connect(folder / "archive.db") as connection:
        yield folder, connection


def suggested(capsys: pytest.CaptureFixture[str], archive: Path, *options: str) -> dict[str, Any]:
    assert cli.run(["suggest-next", str(archive), "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [Path(one["path"]).stem for one in found["videos"]]


def test_the_odd_one_comes_first_and_of_copies_there_is_one(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = suggested(capsys, archive)

    order = names(found)
    assert order[0] == "noise"
    assert len({"film0", "copy", "recoded"} & set(order)) == 1
    assert {"film1", "film2"} <= set(order)
    assert len(order) == 4
    assert (found["candidates"], found["labelled"], found["without_features"]) == (6, 0, 0)
    values = [one["value"] for one in found["videos"]][1:]  # the first is measured from the middle
    assert values == sorted(values, reverse=True)
    assert found["videos"][0]["reasons"][0] == "far from the middle of the archive"
    assert len(names(suggested(capsys, archive, "--count", "2"))) == 2


def test_labelled_videos_and_their_copies_are_left_out(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.json"
    labelled = {"film0": {"subset": "training", "annotations": []}, "noise": {"subset": "testing", "annotations": []}}
    truth.write_text(json.dumps({"database": labelled}))

    found = suggested(capsys, archive, "--labelled", str(truth))

    assert sorted(names(found)) == ["film1", "film2"]
    assert (found["candidates"], found["labelled"]) == (4, 2)
    assert Path(found["videos"][0]["nearest"]).stem in {"film0", "copy", "noise"}


def test_of_equal_videos_the_doubtful_one_is_suggested(
    copied: tuple[Path, sqlite3.Connection], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, connection = copied
    for score, name in ((0.99, "film0"), (0.99, "recoded"), (0.55, "copy")):
        where = "video_id = (SELECT id FROM videos WHERE name LIKE ?)"
        assert connection.execute(f"UPDATE actions SET score = ? WHERE {where}", (score, f"%{name}%")).rowcount
    connection.commit()

    found = suggested(capsys, folder)

    (own,) = [one for one in found["videos"] if Path(one["path"]).stem in {"film0", "copy", "recoded"}]
    assert Path(own["path"]).stem == "copy"
    assert own["uncertainty"] == pytest.approx(0.9)  # 1 - |2 * 0.55 - 1|
    assert "least sure: " in own["reasons"][1]
    assert " 0.55 at " in own["reasons"][1]


def test_nothing_in_the_archive_changes(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in archive.rglob("*")
            if path.is_file() and not path.name.startswith("archive.db-")
        }

    before = state()
    suggested(capsys, archive)

    assert state() == before
    assert any(name.endswith(".features") for name in before)


def test_the_table_is_for_people(
    archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    assert cli.run(["suggest-next", str(archive), "-n", "1"]) == 0

    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("value novelty uncertainty video why")
    assert "far from the middle of the archive" in shown


def test_without_stored_features_it_says_what_to_do(
    copied: tuple[Path, sqlite3.Connection], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = copied
    features = sorted((folder / "store").rglob("*.features"))
    features[0].write_bytes(features[0].read_bytes()[:-10])  # torn

    found = suggested(capsys, folder)
    assert found["without_features"] >= 1
    assert features[0].exists()

    shutil.rmtree(folder / "store")
    assert cli.run(["suggest-next", str(folder)]) == 1
    assert "has no stored features; run `tallformer label` again" in capsys.readouterr().err


def test_features_of_two_models_are_refused(
    copied: tuple[Path, sqlite3.Connection], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, connection = copied
    connection.execute("UPDATE videos SET encoder_hash = 'other' WHERE id = 1")
    connection.commit()

    assert cli.run(["suggest-next", str(folder)]) == 1
    assert "features of several models" in capsys.readouterr().err


def test_of_equal_distances_the_least_sure_comes_first_and_the_value_is_that_of_the_formula() -> None:
    corners = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    doubt = np.array([0.1, 0.9, 0.5, 0.0])

    chosen = choose(corners, doubt, np.zeros(4, bool), 4)

    assert chosen[0].row == 1
    # Two corners are sqrt 2 (four times) or 2 (twice) apart: s = sqrt 2. The middle is 1 away.
    assert chosen[0].value == pytest.approx(1 / (1 + np.sqrt(2)) * 1.9 / 2)
    assert chosen[0].nearest is None
    # Row 0 is 2 from row 1: 2 / (2 + sqrt 2) * 1.1 / 2 = 0.32; row 2 is sqrt 2 from it: 0.5 * 1.5 / 2 = 0.375.
    assert [one.row for one in chosen[1:]] == [2, 0, 3]
    assert chosen[1].value == pytest.approx(0.375)
    assert chosen[1].nearest == 1


def test_an_archive_of_one_or_of_equal_videos_gives_one() -> None:
    assert [one.row for one in choose(np.ones((1, 3), np.float32), np.zeros(1), np.zeros(1, bool), 5)] == [0]
    assert [one.row for one in choose(np.ones((4, 3), np.float32), np.zeros(4), np.zeros(4, bool), 5)] == [0]
    labelled = np.array([True, False])
    assert choose(np.ones((2, 3), np.float32), np.zeros(2), labelled, 5) == []


def test_uncertainty_is_the_mean_margin_from_a_half() -> None:
    actions = tuple(Action(start_s=0, end_s=1, label="wave", score=score) for score in (0.5, 1.0, 0.25))

    assert uncertainty(actions) == pytest.approx((1 + 0 + 0.5) / 3)
    assert uncertainty(()) == 0
