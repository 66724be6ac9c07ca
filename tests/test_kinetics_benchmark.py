"""The benchmark of the contrast head: its film, its scores and its count of false alarms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kinetics.contrast import Found, Settings, detect
from benchmarks.kinetics.film import FILM_FPS, Shot, Truth, arrange, truths
from benchmarks.kinetics.judging import judge
from benchmarks.kinetics.page import points_table, speed_table
from benchmarks.kinetics.shipped import Features, judge_points, search, search_features
from benchmarks.kinetics.timeline import draw, place_shots
from tallformer_infer import Detector
from tallformer_infer.bundle import load_bundle
from tallformer_infer.cli import run
from tallformer_infer.config import to_json
from tallformer_infer.pipeline.encoding import EncodedClip
from tallformer_infer.pipeline.video_run import VideoCandidates, VideoFacts
from tallformer_infer.structures import Candidates, VideoInfo
from tests.contrast_recipe import CONTRAST
from tests.jax_i3d import make_tree, save_tree
from tests.videos import write_video

CLASSES = ("hugging", "side kick", "high kick")
PLAIN = Settings(
    logit_steps=1,
    shortest_s=4.0,
    longest_s=4.0,
    margins="mean",
    margin_part=0.5,
    least_margin_s=1.0,
    suppression="nms",
)


def _logits(probabilities: list[list[float]]) -> np.ndarray:
    logits: np.ndarray = np.log(np.array(probabilities))
    return logits


def test_contrast_is_the_mean_inside_less_the_mean_of_both_margins() -> None:
    """Four steps of 0.9 between two of 0.1 and two of 0.3: 0.9 - 0.2, times 0.9, and the root of it."""
    sure, before, after = [0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.3, 0.35, 0.35]
    logits = _logits([before, before, sure, sure, sure, sure, after, after])

    best = detect(logits, 1.0, PLAIN)[0]

    assert (best.start_s, best.end_s, best.kind) == (2.0, 6.0, 0)
    assert best.score == pytest.approx((0.7 * 0.9) ** 0.5)


def test_the_larger_margin_counts_where_it_is_asked_for() -> None:
    sure, before, after = [0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.3, 0.35, 0.35]
    logits = _logits([before, before, sure, sure, sure, sure, after, after])

    best = detect(logits, 1.0, replace(PLAIN, margins="larger", combination="contrast"))[0]

    assert best.score == pytest.approx(0.9 - 0.3)


def test_groups_are_counted_as_their_first_class() -> None:
    quiet, kick = [0.98, 0.01, 0.01], [0.2, 0.35, 0.45]
    logits = _logits([quiet, quiet, kick, kick, kick, kick, quiet, quiet])

    best = detect(logits, 1.0, replace(PLAIN, combination="contrast"), groups=((1, 2),))[0]

    assert best.kind == 1
    assert best.score == pytest.approx(0.8 - 0.02)


def test_barriers_keep_segments_within_a_shot() -> None:
    logits = _logits([[0.1, 0.45, 0.45]] * 2 + [[0.9, 0.05, 0.05]] * 4 + [[0.1, 0.45, 0.45]] * 2)

    found = detect(logits, 1.0, replace(PLAIN, barriers=True), cuts_s=(4.0,), least_score=0.01)

    assert all(one.start_s >= 3.0 or one.end_s <= 5.0 for one in found)


def test_a_truth_is_found_once_and_what_is_left_are_false_alarms() -> None:
    known = [Truth("hug", 10.0, 20.0), Truth("kick", 30.0, 32.0), Truth("hug", 50.0, 60.0, is_optional=True)]
    found = [
        Found(10.0, 19.0, 0, 0.9),
        Found(10.0, 20.0, 0, 0.8),  # the same again
        Found(30.0, 32.0, 2, 0.7),  # another name of a kick
        Found(52.0, 58.0, 0, 0.6),  # optional
        Found(70.0, 75.0, 1, 0.5),
    ]

    judged = judge(found, known, CLASSES, duration_s=3600)

    assert judged.finds == (0, None, 1, None)
    assert judged.at(0.75).recall == 0.5
    point = judged.best(alarms_per_hour=1)
    assert (point.threshold, point.false_alarms, point.recall) == (0.7, 1, 1.0)


def test_a_film_repeats_its_scenes_and_knows_when_actions_are() -> None:
    scenes = [[Shot("a", 90, "hug", 14, 76)], [Shot("b", 60)]]

    placed = arrange(scenes, minutes=0.2, seed=3)

    assert sum(one.frames for one in placed) >= 12 * FILM_FPS
    assert {one.is_mirrored for one in placed} == {False, True}
    at, expected = 0, []
    for one in placed:
        if one.shot.label:
            expected.append(Truth("hug", (at + 14) / 30, (at + 76) / 30))
        at += one.frames
    assert truths(placed) == expected
    assert placed == arrange(scenes, minutes=0.2, seed=3)


def test_features_of_a_film_are_the_steps_of_its_clips_without_padding() -> None:
    kept = Features([])
    kept.keep(EncodedClip(0, 16, np.array([[1.0, 2.0]], np.float32)))
    kept.keep(EncodedClip(16, 5, np.array([[3.0, 9.0]], np.float32)))

    assert kept.steps(8).tolist() == [[1.0], [2.0], [3.0]]


def test_features_that_were_kept_give_the_same_candidates(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(to_json(CONTRAST)))
    checkpoint, model = save_tree(tmp_path / "i3d.ckpt", make_tree(classes=7)), tmp_path / "model.safetensors"
    assert run(["import", str(checkpoint), "--recipe", str(tmp_path / "recipe.json"), "--out", str(model)]) == 0
    assert run(["export", str(model), "--out", str(tmp_path / "bundle")]) == 0
    noise = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8)  # each is shown for a second
    write_video(tmp_path / "film.mkv", np.kron(noise, np.ones((8, 4, 4, 1), np.uint8)), fps=8, codec="ffv1")
    detector = Detector.load(tmp_path / "bundle", device="cpu")

    found, features = search(detector, tmp_path / "film.mkv")
    again = search_features(detector, tmp_path / "film.mkv", features)

    assert len(features) == 24 * 8 // CONTRAST.model.encoder_stride
    assert again.facts.frame_count == found.facts.frame_count
    best, best_again = (one.candidates.take(np.argsort(-one.candidates.scores)[:10]) for one in (found, again))
    assert len(best) == 10
    np.testing.assert_allclose(best_again.scores, best.scores, atol=5e-3)  # features are kept in float16


def test_shipped_points_keep_what_their_thresholds_keep(tmp_path: Path) -> None:
    """`sure` takes hugs from 0.55 and all that is not in its four classes from 0.85; named classes need 0.5."""
    bundle = load_bundle("kinetics400")
    found = {"hugging": (10, 20, 0.6), "arm wrestling": (30, 40, 0.6), "tai chi": (50, 60, 0.9), "archery": (0, 9, 0.7)}
    kinds = [bundle.recipe.classes.index(name) for name in found]
    rows = np.array(list(found.values()))
    candidates = Candidates(
        segments_frames=(rows[:, :2] * 25).astype(np.float32),
        scores=rows[:, 2].astype(np.float32),
        classes=np.array(kinds, np.int64),
    )
    rows_of_truth = [("hug", 10.0, 20.0), ("arm wrestling", 30.0, 40.0), ("kick", 100.0, 110.0)]  # the last is cut off
    truths_json = [{"label": label, "start_s": start, "end_s": end} for label, start, end in rows_of_truth]
    (tmp_path / "facts.json").write_text(json.dumps({"truths": truths_json}))
    judged = judge_points(bundle, _film_of(72, candidates), tmp_path / "facts.json")

    sure, named = judged
    assert (sure["point"], sure["recall"], sure["false_alarms"], sure["false_alarms_per_h"]) == ("sure", 0.5, 1, 50.0)
    assert (named["point"], named["recall"], named["false_alarms"]) == ("named-classes", 1.0, 0)
    assert sure["of"] == {"arm wrestling": 1, "hug": 1}


def test_the_table_of_points_says_what_is_unique_in_a_film() -> None:
    line = {
        "part": "report",
        "model": "kinetics400",
        "precision": "bf16",
        "point": "sure",
        "classes": 400,
        "duration_s": 3600.0,
        "unique_s": 402.0,
        "recall": 0.5,
        "false_alarms": 10,
        "false_alarms_per_h": 10.0,
        "found": {"hug": 4},
        "of": {"hug": 8},
    }

    row = points_table([line]).splitlines()[2]

    assert "60.0 min (6.7 unique)" in row
    assert "| 4 of 8, 50 % | 10.0 |" in row


def test_the_table_of_speed_gives_wall_and_processor_time() -> None:
    inputs = {"model": "kinetics400", "runtime": "openvino", "precision": "bf16", "threads": 1}

    row = speed_table([{"inputs": inputs, "median_s": 20.4, "median_cpu_s": 8.26}]).splitlines()[2]

    assert row == "| `kinetics400` | OpenVINO | bf16 | 1 | 20 s | 8.3 s |"


def _film_of(seconds: int, candidates: Candidates) -> VideoCandidates:
    video = VideoInfo(
        path="film.mp4", width_px=480, height_px=272, codec="h264", source_fps=30.0, start_s=0.0, duration_s=None
    )
    facts = VideoFacts(
        video=video,
        sample_fps=25.0,
        frame_count=25 * seconds,
        decode_errors=0,
        missing_s=0.0,
        runtime="none",
        device="cpu",
        clips=0,
        clips_reused=0,
    )
    return VideoCandidates(facts=facts, candidates=candidates, floor=0.05)


def test_clips_and_homes_take_turns_in_the_film_of_the_readme() -> None:
    """Two clips need three homes: those without an action of Kinetics, by name; UT-Interaction is left out."""
    names = ("4_Fall_02", "2_Fall_12", "2_ADL_23", "4_Fall_01", "4_ADL_19")
    homes = [[Shot(f"gmdcsa24/Subject_{name}.mp4", 90)] for name in names]
    clips = [[Shot(f"kinetics/{name}", 60, label, 0, 60)] for name, label in (("hugging.mp4", "hug"),)]
    clips += [[Shot("kinetics/basketball.mp4", 300, "basketball", 0, 300)]]
    other = [[Shot("ut_interaction/0_11_0.avi", 90, "shake hands", 14, 76)]]

    placed = place_shots([*clips, *other, *homes])

    shown = [Path(one.shot.path).stem for one in placed]
    assert shown == ["Subject_2_ADL_23", "basketball", "Subject_4_ADL_19", "hugging", "Subject_4_Fall_01"]
    assert truths(placed) == [Truth("basketball", 3.0, 13.0), Truth("hug", 16.0, 18.0)]


def test_the_timeline_of_the_readme_shows_truth_and_findings_at_their_seconds() -> None:
    line = {
        "duration_s": 30.0,
        "truth": [{"label": "hug", "start_s": 3.0, "end_s": 5.0, "is_optional": False}],
        "found": {"all": [[8.0, 12.0, "side kick", 0.5]], "named": [[2.5, 5.5, "hugging", 0.75]]},
    }

    (axes,) = draw(line).axes

    spans = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axes.patches]
    assert np.array(spans) == pytest.approx(np.array([(3.0, 5.0, 2), (8.0, 12.0, 1), (2.5, 5.5, 0)]))
    assert [text.get_text() for text in axes.texts] == ["hug", "side\nkick\n0.50", "hugging\n0.75"]
    same, other = axes.patches[2].get_facecolor()[:3], axes.patches[1].get_facecolor()[:3]
    assert axes.patches[0].get_facecolor()[:3] == same != other
