"""Classes of whole videos from a file: as `detect` gives them, and another file costs neither videos nor localizer."""

from __future__ import annotations

import json
import shutil

import pytest

from tallformer_infer import cli
from tallformer_infer.evaluation import read_class_scores
from tallformer_infer.pipeline import Detector
from tests.archive_runs import content_of, label
from tests.small_bundle import WHOLE, write_bundle
from tests.videos import textured_pictures, write_video

NAMES = ("v_a", "b", "c")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("whole") / "bundle", recipe=WHOLE)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three, of which the last holds what the one before does."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(NAMES[:2]):
        write_video(folder / f"{name}.mp4", textured_pictures(90, height_px=48, width_px=64, seed=seed), fps=15)
    shutil.copy(folder / "b.mp4", folder / "c.mp4")
    return folder


def scores(folder, name="scores.json", **rows):
    path = folder / name
    path.write_text(json.dumps({"class": ["wave", "jump"], "results": rows}))
    return path


FIRST = {"a": [0.75, 0.5], "b": [0.0, 0.25], "c": [1.0, 0.0]}


def actions_of(out):
    return {row["name"].removesuffix(".mp4"): row["actions"] for row in content_of(out)[0].values()}


def test_actions_are_those_of_detect_with_the_same_file(model, videos, tmp_path):
    file = scores(tmp_path, **FIRST)
    detector = Detector.load(model, device="cpu", threads=1, class_scores=read_class_scores(file))

    done = label(videos, out=tmp_path / "out", model=model, class_scores=file)

    rows, _ = content_of(tmp_path / "out")
    assert done.labelled == 3  # equal files may show different things
    assert done.run.totals.done == 3
    for source, row in rows.items():
        expected = detector.detect(source)
        assert row["result"]["provenance"]["class_scores"] == str(file) == expected.provenance.class_scores
        assert len(row["actions"]) == len(expected.actions) > 1
        wanted = sorted((action.label, -action.score, action.start_s) for action in expected.actions)
        found = sorted((action.label, -action.score, action.start_s) for action in row["actions"])
        assert [one[0] for one in found] == [one[0] for one in wanted]
        assert [one[1] for one in found] == pytest.approx([one[1] for one in wanted], abs=1e-3)
    labels = {name: {action.label for action in found} for name, found in actions_of(tmp_path / "out").items()}
    assert labels == {"v_a": {"wave", "jump"}, "b": {"jump"}, "c": {"wave"}}


def test_other_scores_need_neither_video_nor_model(model, videos, tmp_path):
    label(videos, out=tmp_path / "out", model=model, class_scores=scores(tmp_path, **FIRST))
    other = scores(tmp_path, "other.json", **{**FIRST, "a": [0.25, 1.0]})

    done = label(videos, out=tmp_path / "out", model=model, class_scores=other)

    assert done.engine.tasks == []
    label(videos, out=tmp_path / "fresh", model=model, class_scores=other)
    assert actions_of(tmp_path / "out") == actions_of(tmp_path / "fresh")
    assert max(actions_of(tmp_path / "out")["v_a"], key=lambda action: action.score).label == "jump"
    assert label(videos, out=tmp_path / "out", model=model, class_scores=other).run.totals.planned == 0


def test_scores_that_are_taken_away_need_the_localizer_and_not_the_videos(model, videos, tmp_path):
    label(videos, out=tmp_path / "out", model=model, class_scores=scores(tmp_path, **FIRST))

    done = label(videos, out=tmp_path / "out", model=model)

    assert (done.run.totals.done, done.encoded) == (3, 0)
    label(videos, out=tmp_path / "fresh", model=model)
    assert actions_of(tmp_path / "out") == actions_of(tmp_path / "fresh")


def test_video_that_the_file_does_not_have_fails_and_is_done_once_it_has(model, videos, tmp_path):
    file = scores(tmp_path, a=[1.0, 0.0], b=[0.0, 1.0])
    done = label(videos, out=tmp_path / "out", model=model, class_scores=file)

    (failed,) = [row for row in content_of(tmp_path / "out")[0].values() if row["status"] == "failed"]
    assert (done.run.totals.done, failed["error_kind"]) == (2, "scores")
    assert failed["error"] == f"{file}: has no class scores for the video c"

    again = label(videos, out=tmp_path / "out", model=model, class_scores=scores(tmp_path, **FIRST))

    assert (again.run.totals.done, again.run.totals.failed, again.encoded) == (3, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"class": ["wav"], "results": {"a": [1.0]}}, "the model has no class 'wav'; did you mean 'wave'?"),
        ({"class": ["wave"], "results": {"a": []}}, "results.a: expected 1 scores"),
    ],
)
def test_file_that_does_not_fit_is_one_line(model, videos, tmp_path, capsys, content, message):
    (tmp_path / "s.json").write_text(json.dumps(content))

    options = ["--model", str(model), "--class-scores", str(tmp_path / "s.json")]
    code = cli.run(["label", str(videos), "--out", str(tmp_path / "out"), *options])

    assert code in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_model_that_scores_segments_itself_takes_no_file(videos, tmp_path, capsys):
    options = ["--class-scores", str(scores(tmp_path, a=[1.0, 0.0]))]

    assert cli.run(["label", str(videos), "--out", str(tmp_path / "out"), *options]) == 2

    assert "this one scores every segment itself" in " ".join(capsys.readouterr().err.split())


def test_equal_files_are_encoded_once_by_two_workers(model, videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("b", "c"):
        shutil.copy(videos / f"{name}.mp4", folder)
    options = ["--model", model, "--class-scores", scores(tmp_path, **FIRST), "--workers", 2, "--json-logs"]

    assert cli.run([str(argument) for argument in ["label", folder, "--out", tmp_path / "out", *options]]) == 0

    finished = json.loads(capsys.readouterr().err.splitlines()[-1])
    clips = label(folder / "b.mp4", out=tmp_path / "one", model=model).encoded
    assert (finished["done"], finished["clips_encoded"]) == (2, clips)
    labels = {name: {action.label for action in found} for name, found in actions_of(tmp_path / "out").items()}
    assert labels == {"b": {"jump"}, "c": {"wave"}}


def test_workers_and_a_shared_device_give_the_same(model, videos, tmp_path):
    file = scores(tmp_path, **FIRST)
    label(videos, out=tmp_path / "expected", model=model, class_scores=file)

    for number, more in enumerate((["--workers", "2"], ["--share-device"])):
        out = tmp_path / str(number)
        options = ["--model", model, "--class-scores", file, "--threads", 1, "--quiet", *more]
        assert cli.run([str(argument) for argument in ["label", videos, "--out", out, *options]]) == 0
        assert actions_of(out) == actions_of(tmp_path / "expected")
