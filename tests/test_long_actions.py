"""Generated videos with long actions, and how what is found of each length is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_rates import LENGTHS_S, score
from benchmarks.tables import rates_table
from tallformer_infer.evaluation import Truth
from tallformer_infer.structures import Action
from tallformer_training.synthetic import Script, VideoSpec, write_script
from tallformer_training.synthetic.long_actions import LONG_S, lengthen
from tallformer_training.synthetic.script import Event


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Script, Script]]:
    """Scripts as they are, and lengthened."""
    scripts = [write_script(VideoSpec(subset="testing", seed=4, index=index)) for index in range(12)]
    return [(script, lengthen(script)) for script in scripts]


def seconds(event: Event) -> float:
    return (event.end_frame - event.start_frame) / 15


def test_every_shot_ends_with_a_long_action(pairs: list[tuple[Script, Script]]) -> None:
    for script, longer in pairs:
        assert len(longer.shots) == len(script.shots)
        for shot in longer.shots:
            actions = [event for sprite in shot.sprites for event in sprite.events if event.is_action]
            last = max(actions, key=lambda event: event.end_frame)
            assert LONG_S[0] - 1 <= seconds(last) <= LONG_S[1] + 1
            assert all(seconds(event) <= 30 for event in actions if event is not last)


def test_nothing_else_is_added_or_changed(pairs: list[tuple[Script, Script]]) -> None:
    for script, longer in pairs:
        assert [event.name for event in longer.actions] == [event.name for event in script.actions]
        for shot, other in zip(script.shots, longer.shots, strict=True):
            shift = other.start_frame - shot.start_frame
            assert other.scene == shot.scene
            kept = {(event.start_frame - shift, event.name) for sprite in other.sprites for event in sprite.events}
            assert kept <= {(event.start_frame, event.name) for sprite in shot.sprites for event in sprite.events}


def test_shots_fill_the_longer_video_and_hold_their_actions(pairs: list[tuple[Script, Script]]) -> None:
    for _, longer in pairs:
        ends = [0, *(shot.end_frame for shot in longer.shots)]
        assert [shot.start_frame for shot in longer.shots] == ends[:-1]
        assert ends[-1] == longer.spec.frames
        for shot in longer.shots:
            for sprite in shot.sprites:
                times = [frame for event in sprite.events for frame in (event.start_frame, event.end_frame)]
                assert times == sorted(times)
                acted = [event.end_frame for event in sprite.events if event.is_action]
                assert all(shot.start_frame < frame < shot.end_frame for frame in acted)


def test_sprites_do_not_jump_where_a_long_action_ends(pairs: list[tuple[Script, Script]]) -> None:
    for _, longer in pairs:
        for event in longer.actions:
            if event.name in ("blink", "grow", "shrink"):  # which jump by themselves
                continue
            before = event.motion.poses(event.start_pose, np.array([(event.end_frame - event.start_frame) / 15]))[0]
            assert before[:2] == pytest.approx(event.end_pose[:2])


def test_the_table_of_the_page_is_that_of_the_committed_results(root: Path) -> None:
    assert rates_table() in (root / "docs" / "demo.md").read_text(encoding="utf-8")


def action(start_s: float, end_s: float, score: float) -> Action:
    return Action(start_s=start_s, end_s=end_s, label="a", score=score)


def test_what_is_found_counts_for_the_length_of_its_truth() -> None:
    truth = Truth.of({"v": [(0.0, 4.0, "a"), (10.0, 20.0, "a"), (100.0, 140.0, "a"), (200.0, 240.0, "a")]})
    found = [action(0, 4, 0.9), action(10, 20, 0.8), action(104, 140, 0.7), action(50, 95, 0.6), action(60, 63, 0.5)]

    rows = score({"v": found}, {"v": found[:4]}, truth)

    assert [(row["from_s"], row["to_s"]) for row in rows] == [*LENGTHS_S, (0.0, None)]
    assert [row["truth"] for row in rows] == [1, 1, 2, 0, 4]
    assert [row["found"] for row in rows] == [1, 1, 1, 0, 3]
    assert [row["wrong"] for row in rows] == [0, 0, 1, 0, 1]
    assert [row["map"] for row in rows] == [1, 1, 0.5, 0, 0.75]
