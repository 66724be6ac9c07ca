"""What every step looks at: decided by seed and epoch alone, the same for any number of processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tallformer_infer.errors import ConfigError
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.loop.config import TrainingConfig
from tallformer_training.loop.plan import MIRRORED, PlannedWindow, Planner, memory_clips, share
from tests.training_set import CONFIG, RECIPE

FRAMES = {"long": 500, "odd": 131, "exact": 64, "short": 40, "one": 1}
MIRRORING = AugmentationConfig(flip=0.5, mirrored_classes=(("run", "run left"),))


def plan(config: TrainingConfig = CONFIG, *, processes: int = 1, epochs: int = 1) -> list[list[PlannedWindow]]:
    planner = Planner(RECIPE, config, FRAMES, processes=processes)
    return [step for epoch in range(epochs) for step in planner.draw_epoch(epoch)]


@pytest.mark.parametrize("sampling", ["random", "uniform", "jittered", "stratified"])
def test_windows_lie_in_their_videos_on_feature_steps(sampling: str) -> None:
    config = replace(CONFIG, sampling=sampling, windows_per_video=20)
    for window in (window for step in plan(config, epochs=3) for window in step):
        frames = FRAMES[window.video]
        assert window.start_frame % RECIPE.model.encoder_stride == 0
        assert 0 <= window.start_frame <= max(frames - 64, 0)
        assert window.real_frames == min(frames, 64)
        assert (0 if sampling == "jittered" else 1) <= len(window.encoded_clips) <= 2
        assert all(window.start_frame + 16 * clip < frames for clip in window.encoded_clips)


def test_windows_start_at_every_feature_step() -> None:
    config = replace(CONFIG, windows_per_video=400)
    starts = {window.start_frame for step in plan(config) for window in step if window.video == "odd"}

    assert starts == set(range(0, 131 - 64 + 1, 2))


def test_every_video_gives_its_windows_in_every_epoch() -> None:
    steps = plan()

    assert len(steps) == 5  # 5 videos x 2 windows in batches of 2
    videos = [window.video for step in steps for window in step]
    assert {video: videos.count(video) for video in FRAMES} == dict.fromkeys(FRAMES, 2)


def test_a_last_step_is_filled_up() -> None:
    steps = plan(replace(CONFIG, windows_per_video=1))

    assert [len(step) for step in steps] == [2, 2, 2]


def test_epochs_differ_and_the_same_seed_gives_the_same() -> None:
    config = replace(CONFIG, seed=3)
    planner = Planner(RECIPE, config, FRAMES, processes=1)

    assert planner.draw_epoch(0) != planner.draw_epoch(1)
    assert plan(config) == plan(config)
    assert plan(config) != plan(replace(config, seed=4))


def test_an_epoch_drawn_again_from_the_samplers_state_is_the_same() -> None:
    planner = Planner(RECIPE, CONFIG, FRAMES, processes=1)
    planner.draw_epoch(0)
    state = planner.sampler.state()
    expected = planner.draw_epoch(1)

    other = Planner(RECIPE, CONFIG, FRAMES, processes=1)
    other.sampler.restore(state)

    assert other.draw_epoch(1) == expected


@pytest.mark.parametrize("accumulation", [1, 2])
def test_several_processes_see_together_what_one_sees_with_a_larger_batch(accumulation: int) -> None:
    one = replace(CONFIG, batch_windows=4, accumulation=accumulation)
    two = replace(CONFIG, batch_windows=2, accumulation=accumulation)

    alone, together = plan(one), plan(two, processes=2)

    assert alone == together
    for windows in alone:
        whole = share(windows, one, rank=0)
        parts = [share(windows, two, rank=rank) for rank in range(2)]
        assert len(whole) == accumulation
        assert whole == [first + second for first, second in zip(*parts, strict=True)]
        assert [window for batch in whole for window in batch] == windows


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (1.0, 4), (0.25, 1)])
def test_both_ends_of_the_ratio_are_planned(ratio: float, count: int) -> None:
    windows = [window for step in plan(replace(CONFIG, ratio=ratio)) for window in step if window.video == "long"]

    assert {len(window.encoded_clips) for window in windows} == {count}


def test_mirrored_videos_have_rows_of_their_own_only_where_labels_change() -> None:
    plain, mirroring = replace(CONFIG, windows_per_video=40), replace(CONFIG, augmentation=MIRRORING)

    for window in (window for step in plan(plain) for window in step):
        assert window.entry == window.video
    for window in (window for step in plan(replace(mirroring, windows_per_video=40)) for window in step):
        assert window.entry == window.video + (MIRRORED if window.is_mirrored else "")
    assert memory_clips(FRAMES, CONFIG, clip_frames=16)["odd"] == 9
    assert len(memory_clips(FRAMES, mirroring, clip_frames=16)) == 2 * len(FRAMES)


@pytest.mark.parametrize(("flip", "low", "high"), [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.4, 0.6)])
def test_as_many_windows_are_mirrored_as_asked_for(flip: float, low: float, high: float) -> None:
    config = replace(CONFIG, windows_per_video=100, augmentation=AugmentationConfig(flip=flip))

    part = np.mean([window.is_mirrored for step in plan(config) for window in step])

    assert low <= part <= high


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.1}, "ratio=0.1 of 4 clips is less than one clip; use at least 0.25, or 0 to freeze"),
        (
            {"augmentation": AugmentationConfig(mirrored_classes=(("run", "walk"),))},
            "names 'walk', which is no class of the recipe",
        ),
    ],
)
def test_settings_that_do_not_fit_the_recipe_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings).require_fit(RECIPE)  # type: ignore[arg-type]
