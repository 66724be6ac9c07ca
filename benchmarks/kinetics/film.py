"""Untrimmed films composed of real shots: actions with known times between background, deterministic for a seed.

# Note [content of a film]
UT-Interaction provides shaking hands, hugging, kicking and punching, with the interval inside each clip, pointing and
pushing, for which Kinetics-400 has no class, and background; clips of one sequence are consecutive. GMDCSA24 provides
people at home, and five clips contain Kinetics actions that fill a shot. All shots get the same frame size (bars at the
sides, no crop), frame rate and encoding. There are about 8 minutes of unique footage per part: a longer film repeats it
in other orders, every other pass mirrored, with background starting up to half a second later, so that clips are
aligned differently. There is a cut every three seconds, more than in nearly any user's video.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

FILM_FPS = 30
WIDTH, HEIGHT = 480, 272
Picture = NDArray[np.uint8]
Part = Literal["tuning", "report"]

UT_ACTIONS = {0: "shake hands", 1: "hug", 2: "kick", 4: "punch"}
"""UT-Interaction classes with a counterpart in Kinetics-400, by number."""
UT_BACKGROUND = 6
"""Number of the background class."""
UT_MARGIN_FRAMES = 14
"""Frames of an action's clip before and after its annotated interval."""
ACCEPTED = {
    "shake hands": ("shaking hands",),
    "hug": ("hugging",),
    "kick": ("side kick", "high kick", "drop kicking"),
    "punch": ("punching person (boxing)", "slapping"),
    "arm wrestling": ("arm wrestling",),
    "basketball": ("playing basketball", "shooting basketball", "dribbling basketball", "dunking basketball"),
    "cleaning pool": ("cleaning pool",),
    "eye makeup": ("filling eyebrows", "applying cream"),
    "reading": ("reading book", "reading newspaper"),
    "drinking": ("drinking", "drinking beer", "drinking shots"),
}
"""Kinetics-400 classes accepted for each action of the films."""
KINETICS_CLIPS = {
    "arm_wrestling.mp4": "arm wrestling",
    "basketball.mp4": "basketball",
    "cleaning_pool.mp4": "cleaning pool",
    "eye_makeup.avi": "eye makeup",
    "hugging.mp4": "hug",
}
HOME_ACTIONS = {"Subject_1_ADL_10": "reading", "Subject_3_ADL_15": "reading", "Subject_2_Fall_12": "drinking"}
"""Home videos that do show an action of Kinetics-400: detections of it do not count."""
TUNING_SEQUENCES = range(1, 11)
TUNING_BACKGROUND = (1, 3, 4, 5, 6)
"""Sequences whose background clips are for tuning; those of others are for the report (11-20 have none)."""
TUNING_HOMES = (1, 3)
"""Subjects whose homes are for tuning."""


@dataclass(frozen=True)
class Shot:
    """A file used in a film without a cut; times in frames of the film."""

    path: str
    """Path relative to the folder of real footage."""
    frames: int
    label: str | None = None
    """Action, a key of `ACCEPTED`."""
    start_frame: int = 0
    """First frame of the action."""
    end_frame: int = 0
    """End frame of the action (exclusive)."""
    is_optional: bool = False
    """Whether detections of the action do not count."""


@dataclass(frozen=True)
class Truth:
    """An action of a film."""

    label: str
    start_s: float
    end_s: float
    is_optional: bool = False


@dataclass(frozen=True)
class Placed:
    """A shot in a film."""

    shot: Shot
    first_frame: int
    """First frame of the shot that is shown."""
    is_mirrored: bool

    @property
    def frames(self) -> int:
        """Number of frames that are shown."""
        return self.shot.frames - self.first_frame


def read_scenes(real: Path, part: Part) -> list[list[Shot]]:
    """Scenes of a part of the footage, each a list of shots of one place.

    Args:
        real: Folder of the footage.
        part: `tuning`: UT-Interaction's sequences 1-10, homes of subjects 1 and 3; `report`: 11-20, subjects 2 and 4.
            The five Kinetics clips are in both.
    """
    scenes: dict[str, list[Shot]] = {}
    for path in sorted((real / "ut_interaction").glob("*.avi")):
        _, sequence, kind = map(int, re.findall(r"\d+", path.stem))
        if (sequence in (TUNING_BACKGROUND if kind == UT_BACKGROUND else TUNING_SEQUENCES)) != (part == "tuning"):
            continue
        frames, label = count_frames(path), UT_ACTIONS.get(kind)
        span = (UT_MARGIN_FRAMES, frames - UT_MARGIN_FRAMES) if label else (0, 0)
        scenes.setdefault(f"sequence {sequence}", []).append(Shot(f"ut_interaction/{path.name}", frames, label, *span))
    for path in sorted((real / "gmdcsa24").glob("*.mp4")):
        if (int(path.stem.split("_")[1]) in TUNING_HOMES) == (part == "tuning"):
            frames, label = count_frames(path), HOME_ACTIONS.get(path.stem)
            end = frames if label else 0
            scenes[path.stem] = [Shot(f"gmdcsa24/{path.name}", frames, label, 0, end, is_optional=label is not None)]
    for name, label in KINETICS_CLIPS.items():
        frames = count_frames(real / "kinetics" / name)
        scenes[name] = [Shot(f"kinetics/{name}", frames, label, 0, frames)]
    return list(scenes.values())


def arrange(scenes: list[list[Shot]], *, minutes: float, seed: int = 0) -> list[Placed]:
    """Shots of a film of at least `minutes`: all scenes, repeated in other orders."""
    chance = random.Random(seed)
    placed: list[Placed] = []
    passes = 0
    while sum(one.frames for one in placed) < minutes * 60 * FILM_FPS:
        for scene in chance.sample(scenes, len(scenes)):
            for shot in chance.sample(scene, len(scene)):
                late = 0 if shot.label is not None else chance.randrange(FILM_FPS // 2)
                placed.append(Placed(shot, min(late, shot.frames // 4), is_mirrored=passes % 2 == 1))
        passes += 1
    return placed


def truths(placed: list[Placed]) -> list[Truth]:
    """Actions of a film."""
    found: list[Truth] = []
    at = 0
    for one in placed:
        shot = one.shot
        if shot.label is not None:
            start, end = (at + frame - one.first_frame for frame in (shot.start_frame, shot.end_frame))
            found.append(Truth(shot.label, start / FILM_FPS, end / FILM_FPS, shot.is_optional))
        at += one.frames
    return found


def write_film(real: Path, placed: list[Placed], out: Path) -> None:
    """Encode a film as H.264."""
    with av.open(str(out), "w") as container:
        options = {"preset": "veryfast", "crf": "20", "g": "60"}
        stream = container.add_stream("libx264", rate=FILM_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for one in placed:
            for number, picture in enumerate(_pictures(real / one.shot.path)):
                if number >= one.first_frame:
                    image = np.ascontiguousarray(picture[:, ::-1] if one.is_mirrored else picture)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def source_fps(path: Path) -> Fraction:
    """Frames per second of a file; 30 for UT-Interaction, regardless of its background files."""
    if path.parent.name == "ut_interaction":
        return Fraction(30)
    with av.open(str(path)) as container:
        return Fraction(container.streams.video[0].average_rate or FILM_FPS)


def count_frames(path: Path) -> int:
    """Frames of a file at the film's rate."""
    with av.open(str(path)) as container:
        own = sum(1 for _ in container.decode(video=0))
    return -int(-own * FILM_FPS // source_fps(path))


def _pictures(path: Path) -> Iterator[Picture]:
    """Frames of a file at the film's rate and size, with bars if the aspect ratio differs."""
    rate, due = source_fps(path), 0
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            picture: Picture | None = None
            while Fraction(due, FILM_FPS) < (number + 1) / rate:  # it is shown until the next one starts
                picture = _fitted(frame) if picture is None else picture
                yield picture
                due += 1


def _fitted(frame: av.VideoFrame) -> Picture:
    scale = min(WIDTH / frame.width, HEIGHT / frame.height)
    width, height = (2 * round(side * scale / 2) for side in (frame.width, frame.height))
    inside = frame.reformat(width, height, "rgb24", interpolation="AREA" if scale < 1 else "BICUBIC").to_ndarray()
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    picture[top : top + height, left : left + width] = inside
    return picture
