"""A run of `label`: never twice, never half, and whatever is wrong with a video is in its row."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.places import ResultFolder
from tallformer_infer.archive.store import PARTIAL, FeatureWriter
from tallformer_infer.pipeline import Detector
from tallformer_infer.results import Selection
from tests.archive_runs import content_of, demo_with, label
from tests.videos import cut_short, textured_pictures, write_video


def write(path, *, seconds=5.0, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, textured_pictures(int(seconds * 15), height_px=64, width_px=64, seed=seed), fps=15)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two short videos and one of two windows."""
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "a.mp4", seed=1)
    write(folder / "below" / "b.mp4", seconds=2, seed=2)
    write(folder / "long.mp4", seconds=40, seed=3)
    return folder


@pytest.fixture(scope="module")
def first(videos, tmp_path_factory):
    """An archive of them. Not to be changed: see `archive`."""
    out = tmp_path_factory.mktemp("archive")
    return out, label(videos, out=out)


@pytest.fixture
def archive(first, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(first[0], tmp_path / "archive"))


def rows_of(out):
    with ArchiveDatabase(out) as database:
        return {Path(row.source).name: row for row in database.videos()}


def test_every_video_has_a_row_and_a_file(first, videos):
    out, done = first

    rows, files = content_of(out)

    assert {row["status"] for row in rows.values()} == {"done"}
    assert set(files) == {"results/a.mp4.json", "results/below/b.mp4.json", "results/long.mp4.json"}
    assert done.labelled == 3
    assert done.encoded == 3 + 1 + 19


def test_results_are_those_of_detect(first, videos):
    expected = Detector.load(device="cpu", threads=1).detect(videos / "long.mp4", operating_point="none")

    rows, files = content_of(first[0])

    row = rows[str(videos / "long.mp4")]
    assert len(row["actions"]) == len(expected.actions) > 5
    assert row["content"] == f"sha256:{expected.video_sha256}"
    assert files["results/long.mp4.json"]["videos"][0]["frame_count"] == expected.frame_count == 600
    for found, other in zip(row["actions"], expected.actions, strict=True):  # features are rounded to float16
        assert found.label == other.label
        assert found.score == pytest.approx(other.score, abs=1e-3)
        assert found.start_s == pytest.approx(other.start_s, abs=0.02)


def test_second_run_does_nothing(archive, videos):
    before = content_of(archive), {path: path.stat().st_mtime_ns for path in archive.rglob("*.json")}

    done = label(videos, out=archive)

    assert done.engine.tasks == []
    assert (content_of(archive), {path: path.stat().st_mtime_ns for path in archive.rglob("*.json")}) == before


def test_other_threshold_needs_neither_video_nor_model(archive, videos, tmp_path):
    selection = Selection(threshold=0.05)

    done = label(videos, out=archive, selection=selection)

    assert done.engine.tasks == []
    label(videos, out=tmp_path / "fresh", selection=selection)
    rows, files = content_of(archive)
    assert (rows, files) == content_of(tmp_path / "fresh")
    assert all(action.score >= 0.05 for row in rows.values() for action in row["actions"])


def test_other_suppression_needs_neither_video_nor_model(archive, videos, tmp_path):
    def change(description):
        description["recipe"]["suppress"].update(method="soft_gaussian", score_threshold=0.02)
        del description["graphs"]["suppress"]

    model = demo_with(tmp_path / "soft", change)

    done = label(videos, out=archive, model=model)

    assert done.engine.tasks == []
    label(videos, out=tmp_path / "fresh", model=model)
    assert content_of(archive) == content_of(tmp_path / "fresh")


def test_lower_score_of_candidates_needs_the_localizer_and_not_the_videos(archive, videos, tmp_path):
    def change(description):
        description["recipe"]["suppress"].update(score_threshold=0.001)
        del description["graphs"]["suppress"]

    model = demo_with(tmp_path / "low", change)

    done = label(videos, out=archive, model=model)

    assert done.labelled == 3
    assert done.encoded == 0
    label(videos, out=tmp_path / "fresh", model=model)
    assert content_of(archive) == content_of(tmp_path / "fresh")


def test_other_localizer_needs_its_windows_only(archive, videos, tmp_path):
    model = demo_with(tmp_path / "overlap", lambda d: d["recipe"]["window"].update(overlap=0.5))

    done = label(videos, out=archive, model=model)

    assert done.labelled == 3
    assert done.encoded == 0
    label(videos, out=tmp_path / "fresh", model=model)
    assert content_of(archive) == content_of(tmp_path / "fresh")


def test_other_encoder_needs_all(archive, videos, tmp_path):
    model = demo_with(tmp_path / "fps", lambda d: d["recipe"]["sampling"].update(sample_fps=10.0))

    done = label(videos, out=archive, model=model)

    assert done.labelled == 3
    assert done.encoded == 2 + 1 + 13
    label(videos, out=tmp_path / "fresh", model=model)
    assert content_of(archive) == content_of(tmp_path / "fresh")


def test_new_video_is_the_only_one_that_is_done(archive, videos, tmp_path):
    new = write(tmp_path / "new.mp4", seed=9)

    done = label(videos, new, out=archive)

    assert {task.source for task in done.engine.tasks} == {str(new)}
    assert rows_of(archive)["new.mp4"].status == "done"


def test_identical_files_are_labelled_once(videos, tmp_path):
    folder = tmp_path / "videos"
    for name in ("one.mp4", "two.mp4", "below/three.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(videos / "a.mp4", folder / name)

    done = label(folder, out=tmp_path / "out")

    rows, files = content_of(tmp_path / "out")
    assert done.labelled == 1
    assert done.run.totals.copied == 2
    assert len({row["actions"] for row in rows.values()}) == 1
    assert {document["videos"][0]["path"] for document in files.values()} == set(rows)


def test_file_that_moved_is_not_labelled_again(archive, videos, tmp_path):
    moved = shutil.copy(videos / "a.mp4", tmp_path / "moved.mp4")

    assert label(moved, out=archive).labelled == 0
    assert rows_of(archive)["moved.mp4"].status == "done"


def test_file_that_was_only_touched_is_not_labelled_again(videos, tmp_path):
    video = tmp_path / "a.mp4"
    shutil.copy(videos / "a.mp4", video)
    label(video, out=tmp_path / "out")
    os.utime(video, (1, 1))
    before = content_of(tmp_path / "out")[0][str(video)]

    assert label(video, out=tmp_path / "out").labelled == 0
    row = content_of(tmp_path / "out")[0][str(video)]
    assert row == {**before, "mtime_ns": 1_000_000_000}
    assert label(video, out=tmp_path / "out").engine.tasks == []


def test_file_that_changed_is_labelled_again(videos, tmp_path):
    video = tmp_path / "a.mp4"
    shutil.copy(videos / "a.mp4", video)
    label(video, out=tmp_path / "out")
    shutil.copy(videos / "long.mp4", video)

    assert label(video, out=tmp_path / "out").labelled == 1
    assert rows_of(tmp_path / "out")["a.mp4"].duration_s == 40.0
    (document,) = content_of(tmp_path / "out")[1].values()
    assert document["videos"][0]["duration_s"] == 40.0


def test_long_video_goes_on_at_the_clip_where_it_stopped(archive, videos, first, tmp_path):
    """As a kill leaves it: features of some clips, the last of them torn, and no row that says done."""
    with ArchiveDatabase(archive, writes=True) as database:
        (row,) = [row for row in database.videos() if row.source.endswith("long.mp4")]
        database.connection.execute("DELETE FROM videos WHERE id = ?", (row.id,))
    for path in archive.glob("store/*/*.candidates"):
        path.unlink()
    (features,) = [path for path in archive.glob("store/*/*.features") if path.stat().st_size > 19 * 4096]
    content = features.read_bytes()
    features.with_name(features.name + PARTIAL).write_bytes(content[: len(content) // 2])
    features.unlink()

    done = label(videos, out=archive)

    assert done.labelled == 1
    assert done.encoded == 19 - 9
    assert content_of(archive) == content_of(first[0])


def test_damaged_features_are_made_anew(archive, videos, tmp_path):
    for path in archive.glob("store/*/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    model = demo_with(tmp_path / "overlap", lambda d: d["recipe"]["window"].update(overlap=0.5))

    done = label(videos, out=archive, model=model)

    assert done.encoded == 3 + 1 + 19
    rows, _ = content_of(archive)
    assert all("stored features were damaged" in row["remarks"][0] for row in rows.values())
    label(videos, out=tmp_path / "fresh", model=model)
    assert [row["actions"] for row in rows.values()] == [
        row["actions"] for row in content_of(tmp_path / "fresh")[0].values()
    ]


def test_store_stays_within_its_budget(videos, tmp_path):
    out = tmp_path / "out"

    label(videos, out=out, store_bytes=50_000)

    assert 0 < sum(path.stat().st_size for path in out.glob("store/*/*")) <= 50_000


def test_without_a_store_everything_is_done_again_and_comes_out_the_same(videos, first, tmp_path):
    label(videos, out=tmp_path / "out", store=None)
    assert content_of(tmp_path / "out") == content_of(first[0])

    done = label(videos, out=tmp_path / "out", store=None, selection=Selection(threshold=0.05))

    assert done.encoded == 3 + 1 + 19


def test_clips_that_repeat_exactly_share_their_features(tmp_path):
    still = next(iter(textured_pictures(1, height_px=64, width_px=64)))
    video = write_video(tmp_path / "a.mkv", [still] * 15 * 20, fps=15, codec="ffv1")

    done = label(video, out=tmp_path / "out")

    assert done.encoded == 2  # and the last one, which is shorter
    detected = Detector.load(device="cpu", threads=1).detect(video, operating_point="none")
    row = content_of(tmp_path / "out")[0][str(video)]
    assert [action.label for action in row["actions"]] == [action.label for action in detected.actions]


def test_noise_within_the_tolerance_shares_features_and_without_one_does_not(tmp_path):
    still = next(iter(textured_pictures(1, height_px=64, width_px=64))).astype(int)
    chance = np.random.default_rng(0)
    frames = [np.clip(still + chance.integers(-2, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(96)]
    video = write_video(tmp_path / "a.mkv", frames, fps=15, codec="ffv1")

    assert label(video, out=tmp_path / "tolerant", static_tolerance=3.0).encoded == 1
    assert label(video, out=tmp_path / "strict").encoded == 3


def test_what_is_wrong_with_a_video_is_in_its_row_and_the_others_are_done(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(videos / "a.mp4", folder / "good.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video " * 100)
    (folder / "log.3").write_text("not a video either")
    cut_short(videos / "long.mp4", folder / "cut.mp4", keep=0.5)

    (tmp_path / "list.txt").write_text("missing.mp4\nvideos/good.mp4\n")

    done = label(folder, tmp_path / "list.txt", out=tmp_path / "out")

    rows = rows_of(tmp_path / "out")
    assert {name: row.status for name, row in rows.items()} == {
        "good.mp4": "done",
        "empty.mp4": "failed",
        "text.mp4": "failed",
        "log.3": "ignored",
        "cut.mp4": "failed",
        "missing.mp4": "failed",
    }
    assert rows["empty.mp4"].error == f"{folder / 'empty.mp4'}: empty file"
    assert rows["missing.mp4"].error == f"{tmp_path / 'missing.mp4'}: no such video"
    assert (done.run.totals.done, done.run.totals.failed, done.run.totals.ignored) == (1, 4, 1)
    assert {path.name for path in (tmp_path / "out" / "results").iterdir()} == {"good.mp4.json"}


def test_failed_video_is_not_tried_again_before_it_is_asked_for_or_changes(videos, tmp_path):
    video = tmp_path / "a.mp4"
    video.write_text("not a video")
    label(video, out=tmp_path / "out")
    assert label(video, out=tmp_path / "out").engine.tasks == []

    with ArchiveDatabase(tmp_path / "out", writes=True) as database:
        database.let_wait([1], forget_attempts=True)
    assert len(label(video, out=tmp_path / "out").engine.tasks) == 2
    assert rows_of(tmp_path / "out")["a.mp4"].attempts == 1

    shutil.copy(videos / "a.mp4", video)
    label(video, out=tmp_path / "out")
    assert rows_of(tmp_path / "out")["a.mp4"].status == "done"


def test_same_broken_content_fails_under_each_name(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("not a video")

    label(tmp_path / "a.mp4", tmp_path / "b.mp4", out=tmp_path / "out")

    for name, row in rows_of(tmp_path / "out").items():
        assert row.status == "failed"
        assert row.error.startswith(str(tmp_path / name))


def test_store_that_cannot_be_written_is_a_remark(videos, tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")

    done = label(videos / "a.mp4", out=tmp_path / "out", store=tmp_path / "store")

    assert done.run.totals.done == 1
    assert "features are not stored: Not a directory" in rows_of(tmp_path / "out")["a.mp4"].remarks


def test_video_whose_features_another_run_is_storing_is_labelled_without_storing_them(archive, first, tmp_path):
    """Two archives that share a store, at the same video."""
    video = next(row.source for row in rows_of(archive).values() if row.source.endswith("a.mp4"))
    shared = tmp_path / "store"
    label(video, out=tmp_path / "before", store=shared)
    for path in shared.glob("*/*.candidates"):
        path.unlink()
    (whole,) = shared.glob("*/*.features")
    whole.unlink()

    writer = FeatureWriter(whole, (256, 16))
    done = label(video, out=tmp_path / "out", store=shared)
    writer.close()

    (row,) = rows_of(tmp_path / "out").values()
    assert (done.run.totals.done, row.remarks) == (1, ("features are being stored by another worker",))
    assert content_of(tmp_path / "out")[1] == content_of(tmp_path / "before")[1]
    assert not whole.exists()


class MeetingPlace(ResultFolder):
    """A folder in which no file is written before another one is being written, too."""

    def __init__(self, out):
        super().__init__(out)
        self._both = threading.Barrier(2, timeout=30)

    def write(self, name, content):
        self._both.wait()
        super().write(name, content)


def test_result_files_are_written_beside_each_other_and_beside_the_workers(videos, first, tmp_path):
    """One at a time, the first would wait for ever."""
    chosen = [videos / "a.mp4", videos / "below" / "b.mp4"]

    done = label(*chosen, out=tmp_path / "out", place=MeetingPlace(tmp_path / "out"))

    assert done.run.totals.done == 2
    expected, _ = content_of(first[0])
    found, files = content_of(tmp_path / "out")
    assert {source: row["actions"] for source, row in found.items()} == {
        str(source): expected[str(source)]["actions"] for source in chosen
    }
    assert len(files) == 2


def test_results_that_cannot_be_written_fail_and_are_tried_again(videos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results").write_text("a file where the folder should be")

    done = label(videos / "a.mp4", out=out)

    row = rows_of(out)["a.mp4"]
    assert (done.run.totals.failed, row.status, row.error_kind) == (1, "failed", "output")
    (out / "results").unlink()
    again = label(videos / "a.mp4", out=out)
    assert rows_of(out)["a.mp4"].status == "done"
    assert again.encoded == 0


def test_result_file_that_is_gone_is_written_again(archive, videos):
    (archive / "results" / "a.mp4.json").unlink()

    done = label(videos, out=archive)

    assert done.engine.tasks == []
    assert json.loads((archive / "results" / "a.mp4.json").read_text())["videos"][0]["actions"]


def test_videos_of_one_name_have_their_own_results(videos, tmp_path):
    one, other = write(tmp_path / "1" / "a.mp4", seed=5), write(tmp_path / "2" / "a.mp4", seed=6)

    label(one, other, out=tmp_path / "out")

    _, files = content_of(tmp_path / "out")
    assert {document["videos"][0]["path"] for document in files.values()} == {str(one), str(other)}


def test_result_file_of_a_run_that_was_killed_before_its_row_is_put_right(archive, videos, first):
    """Killed between the two: the file has another threshold than the row."""
    with ArchiveDatabase(archive, writes=True) as database:
        (row,) = [row for row in database.videos() if row.source.endswith("a.mp4")]
        database.forget_outputs([row.id])
    (archive / "results" / "a.mp4.json").write_text("{}")

    done = label(videos, out=archive)

    assert done.engine.tasks == []
    assert content_of(archive) == content_of(first[0])


def test_windows_of_the_official_code_give_what_detect_gives(videos, tmp_path):
    expected = Detector.load(device="cpu", threads=1).detect(
        videos / "long.mp4", windows="reference", operating_point="none"
    )

    label(videos / "long.mp4", out=tmp_path / "out", windows="reference")
    again = label(videos / "long.mp4", out=tmp_path / "out", windows="reference")

    (row,) = content_of(tmp_path / "out")[0].values()
    assert again.engine.tasks == []
    found, wanted = (
        sorted((-action.score, action.label, action.start_s) for action in actions)[:30]
        for actions in (row["actions"], expected.actions)
    )
    assert [label for _, label, _ in found] == [label for _, label, _ in wanted]
    assert [score for score, _, _ in found] == pytest.approx([score for score, _, _ in wanted], abs=1e-3)
