"""The bundled model of whole videos, on videos of another seed than it was measured on."""

from __future__ import annotations

from pathlib import Path

from tallformer_infer import Detector
from tallformer_training.synthetic import SetSpec, write_script, write_video

VIDEOS = 3


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    shared = max(min(one[1], other[1]) - max(one[0], other[0]), 0.0)
    return shared / (max(one[1], other[1]) - min(one[0], other[0]))


def test_the_bundled_model_finds_long_actions_in_whole_videos(tmp_path: Path) -> None:
    detector = Detector.load("anet-demo", device="cpu", threads=1)
    spec = SetSpec(subset="testing", videos=VIDEOS, seed=41, style="activitynet")

    wanted = found = 0
    for index in range(VIDEOS):
        script = write_script(spec.video(index))
        write_video(script, tmp_path / f"{index}.mp4")
        actions = detector.detect(tmp_path / f"{index}.mp4").actions
        likely = [action for action in actions if action.score > 0.2]
        for event in script.actions:
            truth = (event.start_frame / 15, event.end_frame / 15)
            wanted += 1
            found += any(
                action.label == event.name and overlap((action.start_s, action.end_s), truth) > 0.7 for action in likely
            )
        assert len(likely) <= 8

    assert wanted >= 5
    assert found >= 0.7 * wanted, (found, wanted)
