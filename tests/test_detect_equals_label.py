"""`detect` and `label` share one pipeline: the same options give the same result, bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.results import stored_result
from tallformer_infer.evaluation import read_class_scores
from tallformer_infer.pipeline import Detector, choose_layout, video_run
from tallformer_infer.pipeline.encoding import ClipEncoder
from tallformer_infer.structures import Result
from tests.archive_runs import label
from tests.small_bundle import WHOLE, write_bundle
from tests.videos import cut_short, damage, textured_pictures, write_video

EXAMPLE = Path(__file__).parents[1] / "docs" / "example" / "example.mp4"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One with actions; of several windows; of half a clip; from 600 s on; cut short; damaged; of one picture."""
    folder = tmp_path_factory.mktemp("videos")
    noise = functools.partial(textured_pictures, height_px=64, width_px=64)
    whole = write_video(folder / "whole.mkv", noise(200, seed=4), fps=15)
    return [
        EXAMPLE,
        write_video(folder / "long.mp4", noise(330, seed=3), fps=15),
        write_video(folder / "tiny.mp4", noise(15, seed=2), fps=15),
        write_video(folder / "late.ts", noise(150, seed=5), fps=25, start_s=600.0),
        cut_short(whole, folder / "short.mkv", keep=0.5),
        damage(whole, folder / "damaged.mkv", places=[0.3, 0.5], run_bytes=200),
        write_video(folder / "still.mkv", [next(iter(noise(1)))] * 80, fps=15, codec="ffv1"),
    ]


@pytest.fixture
def as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """`detect` rounds features as `label` does, which stores them as float16."""
    monkeypatch.setattr(video_run, "ClipEncoder", functools.partial(ClipEncoder, is_rounded=True))


def labelled(videos: list[Path], out: Path, detected: list[Result], **options: Any) -> dict[str, Result]:
    """Results of `label` with the choices that `detect` made."""
    label(*videos, out=out, selection=detected[0].selection, **options)
    with ArchiveDatabase(out) as database:
        return {row.source: stored_result(database, row) for row in database.videos()}


def without_times(result: Result) -> Result:
    return dataclasses.replace(result, timings=video_run.NO_TIME)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("demo", {}),
        ("demo", {"operating_point": "none"}),
        ("demo", {"operating_point": "all", "threshold": 0.2}),
        ("demo", {"rates": (15, 5, 1.67), "operating_point": "none"}),
        ("demo", {"windows": "reference", "operating_point": "none"}),
        ("demo", {"top_k": 3, "classes": ("grow", "orbit", "blink")}),
        ("anet-demo", {}),
        ("anet-demo", {"operating_point": "none", "top_k": 100}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("as_stored")
def test_label_gives_what_detect_gives(model: str, options: dict[str, Any], videos: list[Path], tmp_path: Path) -> None:
    detector = Detector.load(model, device="cpu", threads=1)

    expected = [detector.detect(str(video), **options) for video in videos]
    windows = options.get("windows", "shared")
    layout = choose_layout(detector.bundle.recipe, windows, options.get("rates"))
    found = labelled(videos, tmp_path, expected, model=detector.bundle.path, windows=windows, factors=layout.factors)

    assert any(result.actions for result in expected)
    for result in expected:
        assert without_times(found[result.video.path]) == without_times(result)


@pytest.mark.usefixtures("as_stored")
def test_label_gives_what_detect_gives_with_class_scores(videos: list[Path], tmp_path: Path) -> None:
    rows = {video.stem: [0.75, 0.5] for video in videos}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"class": ["wave", "jump"], "results": rows}))
    model = write_bundle(tmp_path / "bundle", recipe=WHOLE)
    detector = Detector.load(model, device="cpu", threads=1, class_scores=read_class_scores(file))

    expected = [detector.detect(str(video)) for video in videos]
    found = labelled(videos, tmp_path / "out", expected, model=model, class_scores=file)

    assert all(result.actions for result in expected)
    for result in expected:
        assert without_times(found[result.video.path]) == without_times(result)


@pytest.mark.usefixtures("as_stored")
def test_stored_features_and_candidates_lead_to_the_same_result(videos: list[Path], tmp_path: Path) -> None:
    """A run resumes after `encode` and after `localize`."""
    detector = Detector.load("demo", device="cpu", threads=1)
    expected = [detector.detect(str(video), operating_point="none") for video in videos]
    with_rates = [detector.detect(str(video), operating_point="none", rates=(15, 5)) for video in videos]
    with_point = [detector.detect(str(video), operating_point="all", threshold=0.1) for video in videos]
    labelled(videos, tmp_path, expected)

    from_features = labelled(videos, tmp_path, with_rates, factors=(1, 3))
    from_candidates = labelled(videos, tmp_path, with_point)

    for found, others in ((from_features, with_rates), (from_candidates, with_point)):
        for result in others:
            assert without_times(found[result.video.path]) == without_times(result)
