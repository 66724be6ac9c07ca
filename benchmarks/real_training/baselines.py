"""Baselines of a trained detector: no training, a linear layer, and known shot boundaries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.kinetics.contrast import Settings, detect
from benchmarks.real_training.features import FeatureStore
from benchmarks.real_training.running import Place, scored, splits
from benchmarks.real_training.videos import CLASSES, names_of
from tallformer_infer.structures import Action

KINETICS = {
    "shake hands": ("shaking hands",),
    "hug": ("hugging",),
    "kick": ("side kick", "high kick", "drop kicking"),
    "punch": ("punching person (boxing)", "slapping"),
}
"""Kinetics-400 classes for those of UT-Interaction; there is none for pointing and pushing a person."""
HEAD = Settings(shortest_s=1.3, longest_s=8.0, margin_part=0.5)
_DECAY = 1e-3
_ITERATIONS = 60


def untrained(split: str, place: Place, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> dict[str, Any]:
    """The contrast head with the classifier of Kinetics-400, restricted to the classes in `KINETICS`."""
    names = (Path(__file__).resolve().parents[3] / "shared/reference/kinetics400_classes.txt").read_text("utf-8")
    order = names.split("\n")[: len(bias)]
    groups = tuple(tuple(order.index(name) for name in names) for names in KINETICS.values())
    labels = {group[0]: label for group, label in zip(groups, KINETICS, strict=True)}
    allowed = np.isin(np.arange(len(bias)), [kind for group in groups for kind in group])
    found = {}
    for name in _tested(split):
        logits = _steps(place.store, name) @ weight.T + bias
        hits = detect(logits, place.step_s, HEAD, groups=groups, allowed=allowed, least_score=0.005)
        found[name] = [Action(start_s=h.start_s, end_s=h.end_s, label=labels[h.kind], score=h.score) for h in hits]
    return _line("contrast", split, found, place)


def linear(split: str, place: Place, *, orders: int) -> dict[str, Any]:
    """A linear classifier of feature steps, trained on the training videos, with segments by contrast."""
    found: dict[str, list[Action]] = {}
    for learned, left_out in splits(split):
        names = names_of(learned, orders)
        layer = _fit(place, names)
        allowed = np.arange(len(CLASSES) + 1) < len(CLASSES)
        for name in names_of(left_out):
            with torch.no_grad():
                logits = layer(torch.from_numpy(_steps(place.store, name))).numpy().astype(np.float64)
            hits = detect(logits, place.step_s, HEAD, allowed=allowed, least_score=0.005)
            found[name] = [
                Action(start_s=h.start_s, end_s=h.end_s, label=CLASSES[h.kind], score=min(h.score, 1.0)) for h in hits
            ]
    return _line("linear", split, found, place)


def whole_shots(split: str, place: Place) -> dict[str, Any]:
    """Whole shots that contain an action, with the correct class: what known cuts alone achieve."""
    shots = json.loads((place.truth.parent / "shots.json").read_text(encoding="utf-8"))
    found = {
        name: [Action(start_s=s, end_s=e, label=label, score=1.0) for s, e, label in shots[name] if label]
        for name in _tested(split)
    }
    return _line("shots", split, found, place)


def _fit(place: Place, names: Sequence[str]) -> torch.nn.Linear:
    inputs = torch.from_numpy(np.concatenate([_steps(place.store, name) for name in names]))
    targets = torch.from_numpy(np.concatenate([_labels(place, name) for name in names]))
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs.shape[1], len(CLASSES) + 1)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(layer(inputs), targets) + _DECAY * layer.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return layer


def _labels(place: Place, name: str) -> NDArray[np.int64]:
    """Class of each step, by its middle; the last index is background."""
    rows = json.loads(place.truth.read_text(encoding="utf-8"))["database"][name]["annotations"]
    steps = len(_steps(place.store, name))
    middles = (np.arange(steps) + 0.5) * place.step_s
    labels = np.full(steps, len(CLASSES), np.int64)
    for row in rows:
        start_s, end_s = row["segment"]
        labels[(middles >= start_s) & (middles < end_s)] = CLASSES.index(row["label"])
    return labels


def _steps(store: FeatureStore, name: str) -> NDArray[np.float32]:
    """Features of a video, shape (S, C)."""
    features, _ = store.read(name)
    return features.transpose(0, 2, 1).reshape(-1, features.shape[1])


def _tested(split: str) -> list[str]:
    return [name for _, left_out in splits(split) for name in names_of(left_out)]


def _line(variant: str, split: str, found: dict[str, list[Action]], place: Place) -> dict[str, Any]:
    facts = {"variant": variant, "split": split, "seed": 0, "orders": 0, "steps": 0, "train_s": 0.0}
    return {**facts, **scored(found, place.truth)}
