"""Models that see whole videos: at which rate frames are taken, windows of wanted lengths, classes from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tallformer_infer.config import SamplingConfig, preset
from tallformer_infer.errors import AnnotationError, ConfigError, MediaError
from tallformer_infer.evaluation import read_class_scores
from tallformer_infer.media import open_video, video_rate
from tallformer_infer.nms import proposals_with_classes, reference_actions, suppress, without_class
from tallformer_infer.pipeline import choose_windows
from tallformer_infer.structures import Proposals
from tests.videos import noise_pictures, write_video

WHOLE = SamplingConfig(resize="none", crop_px=32, most_frames=60, sample_fps=30, fill="black")


def rate(*, source_fps: float | None, covered_s: float | None) -> float:
    return video_rate(WHOLE, "a.mp4", source_fps=source_fps, covered_s=covered_s)


def test_a_video_with_few_frames_keeps_its_rate_and_a_longer_one_gets_as_many_as_there_may_be() -> None:
    assert rate(source_fps=25, covered_s=2) == 25
    assert rate(source_fps=30, covered_s=2) == 30  # exactly as many
    assert rate(source_fps=25, covered_s=10) == 6
    assert rate(source_fps=None, covered_s=1) == 30
    assert rate(source_fps=131_102, covered_s=1) == rate(source_fps=0.0001, covered_s=1) == 30  # damaged headers
    assert video_rate(SamplingConfig(), "a.mp4", source_fps=60, covered_s=None) == 15


@pytest.mark.parametrize("covered_s", [None, 1e5])
def test_videos_of_unknown_or_endless_length_need_windows(covered_s: float | None) -> None:
    with pytest.raises(
        MediaError, match=r"^a\.mp4: .*use windows of a fixed length \(`tallformer detect --windows \d+`\)"
    ):
        rate(source_fps=25, covered_s=covered_s)


@pytest.mark.parametrize(("frames", "fps", "taken", "rate_fps"), [(40, 20, 40, 20), (60, 20, 60, 20), (200, 20, 60, 6)])
def test_a_file_gives_no_more_frames_than_there_may_be(
    tmp_path: Path, frames: int, fps: int, taken: int, rate_fps: float
) -> None:
    path = write_video(tmp_path / "a.mkv", noise_pictures(frames, height_px=32, width_px=32), fps=fps, codec="ffv1")

    with open_video(path, WHOLE) as stream:
        count = sum(1 for _ in stream)

        assert (count, stream.sample_fps) == (taken, rate_fps)
        assert stream.position_s == pytest.approx(frames / fps, abs=0.01)


def test_a_header_that_is_too_short_does_not_give_more_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mkv", noise_pictures(200, height_px=32, width_px=32), fps=20, codec="ffv1")
    monkeypatch.setattr("tallformer_infer.media.reader.video_rate", lambda *_, **__: 6.5)

    with open_video(path, WHOLE) as stream:
        assert sum(1 for _ in stream) == 60


def test_a_span_takes_that_many_frames_for_its_seconds(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", noise_pictures(200, height_px=32, width_px=32), fps=20, codec="ffv1")

    with open_video(path, WHOLE, span_s=5) as stream:
        assert sum(1 for _ in stream) == 120
        assert stream.sample_fps == 12


def test_only_models_of_whole_videos_take_windows_of_some_seconds() -> None:
    assert choose_windows(preset("anet-swin-b"), 60.0) == ("shared", 60.0)
    assert choose_windows(preset("anet-swin-b"), "reference") == ("reference", None)
    with pytest.raises(ConfigError, match=r"windows=60: the recipe demo always has windows of 34\.1333 s"):
        choose_windows(preset("demo"), 60.0)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="expected shared, reference, or seconds above 0"):
            choose_windows(preset("anet-swin-b"), seconds)


def write(folder: Path, content: object) -> Path:
    path = folder / "scores.json"
    path.write_text(json.dumps(content))
    return path


def test_class_scores_are_found_by_name_with_or_without_v(tmp_path: Path) -> None:
    path = write(tmp_path, {"class": ["b", "a"], "results": {"one": [0.25, 0], "v_two": [1, 0.5]}})

    scores = read_class_scores(path)

    assert scores.of("v_one") == {"b": 0.25, "a": 0.0}
    assert scores.of("two") == {"b": 1.0, "a": 0.5}
    with pytest.raises(AnnotationError, match="has no class scores for the video three"):
        scores.of("three")


def test_labels_are_class_scores_of_one(tmp_path: Path) -> None:
    rows = [{"label": "a", "segment": [0, 1]}, {"label": "a", "segment": [3, 4]}, {"label": "b", "segment": [0, 1]}]

    assert read_class_scores(write(tmp_path, {"database": {"x": {"annotations": rows}}})).of("x") == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"results": {}}, "class: expected a list of distinct names, got null"),
        ({"class": ["a", "a"], "results": {}}, "expected a list of distinct names"),
        ({"class": ["a"], "results": []}, "results: expected an object with a key per video"),
        ({"class": ["a"], "results": {"v": [1, 2]}}, r"results\.v: expected 1 scores, one per class"),
        ({"class": ["a"], "results": {"v": [-1]}}, r"results\.v: expected scores from 0 on, got -1"),
        ({"class": ["a"], "results": {"v": ["1"]}}, r"results\.v: expected scores from 0 on"),
        ({"database": []}, "database: expected an object"),
        ({"database": {"v": {"annotations": [{}]}}}, r'database\.v: expected "annotations" with a "label" each'),
    ],
)
def test_wrong_class_scores_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_class_scores(write(tmp_path, content))


PROPOSALS = Proposals(
    np.array([[0, 10], [1, 11], [50, 60]], np.float32),
    np.array([0.9, 0.8, 0.5], np.float32),
    np.array([0.05, 0.7, 0.2, 0.05], np.float32),
)
SUPPRESS = preset("anet-swin-b").suppress


def test_proposals_get_the_likeliest_classes_and_none_without_score() -> None:
    found = proposals_with_classes(PROPOSALS, np.array([0.1, 0.0, 0.6], np.float32), most_classes=2)

    assert found.classes.tolist() == [2, 0, 2, 0, 2, 0]
    np.testing.assert_allclose(found.scores, [0.54, 0.09, 0.48, 0.08, 0.3, 0.05], rtol=1e-6)
    assert len(proposals_with_classes(PROPOSALS, np.array([0, 1], np.float32), most_classes=2)) == 3


def test_suppressing_pairs_by_class_is_suppressing_proposals_first() -> None:
    scores = PROPOSALS.class_scores[1:]
    pairs = suppress(proposals_with_classes(PROPOSALS, scores, most_classes=2), SUPPRESS)
    alone = suppress(without_class(PROPOSALS), SUPPRESS)

    expected = sorted((alone.scores[:, None] * scores[:2]).ravel().tolist())
    np.testing.assert_allclose(sorted(pairs.scores.tolist()), expected, rtol=1e-6)


def test_the_reference_drops_the_last_proposal_and_takes_background_for_the_last_class() -> None:
    background = np.array([0.6, 0.3, 0.1, 0.0], np.float32)

    found = reference_actions(without_class(PROPOSALS), background, SUPPRESS, most_classes=2)

    assert found.segments_frames.tolist() == [[0, 10], [0, 10], [50, 60], [50, 60]]
    assert found.classes.tolist() == [2, 0, 2, 0]


def test_one_proposal_alone_is_kept_by_default_and_dropped_by_the_reference() -> None:
    one = Proposals(PROPOSALS.segments_frames[:1], PROPOSALS.scores[:1], PROPOSALS.class_scores)

    assert len(suppress(proposals_with_classes(one, one.class_scores[1:], most_classes=1), SUPPRESS)) == 1
    assert len(reference_actions(without_class(one), one.class_scores, SUPPRESS, most_classes=1)) == 0
