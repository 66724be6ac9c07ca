"""From candidates to what a user gets: suppression, operating point, selection."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tallformer_infer import __version__
from tallformer_infer.archive.given_classes import with_classes
from tallformer_infer.archive.store import StoredCandidates
from tallformer_infer.archive.tasks import LabelSettings
from tallformer_infer.bundle import Bundle
from tallformer_infer.nms import suppress
from tallformer_infer.pipeline.operating import at_point
from tallformer_infer.pipeline.rates import rates_of
from tallformer_infer.pipeline.video_run import name_actions
from tallformer_infer.results import Selection, select_actions
from tallformer_infer.structures import Layout, Provenance, Result, StageSeconds

NO_TIME = StageSeconds(decode_s=0.0, encode_s=0.0, localize_s=0.0, suppress_s=0.0, total_s=0.0)


@dataclass(frozen=True)
class GivenClasses:
    """What a whole video shows."""

    source: str
    """File that says so."""
    scores: Mapping[str, float]
    """By name."""


def given_classes(settings: LabelSettings, scores: Mapping[str, float] | None) -> GivenClasses | None:
    """What a video shows, by its task or its file; None where the model says it."""
    if settings.scores is None:
        return None
    assert scores is not None, "who gives tasks has looked"
    return GivenClasses(settings.scores.source, scores)


def conclude(
    stored: StoredCandidates,
    bundle: Bundle,
    *,
    layout: Layout,
    selection: Selection,
    content: str,
    timings: StageSeconds = NO_TIME,
    classes: GivenClasses | None = None,
) -> Result:
    """The result of a video, as `Detector.detect` gives it.

    Suppression is that of `tallformer_infer.nms` on every device: it is done again in a moment without one.

    Args:
        stored: Candidates, and what is known of the video.
        bundle: The model.
        layout: How the video was laid out for the localizer.
        selection: Which actions are kept.
        content: What the video holds.
        timings: Of the stages before.
        classes: What the video shows, where the model does not say it.
    """
    started = time.perf_counter()
    facts, recipe = stored.facts, bundle.recipe
    candidates = stored.candidates
    if classes is not None:
        candidates = with_classes(candidates, recipe, classes.scores)
    named = name_actions(
        suppress(candidates, recipe.suppress),
        recipe.classes,
        layout.windows,
        start_s=facts.video.start_s,
        sample_fps=facts.sample_fps,
    )
    suppress_s = time.perf_counter() - started
    actions = select_actions(
        at_point(named, bundle, selection.operating_point),
        threshold=selection.threshold,
        top_k=selection.top_k,
        classes=selection.classes,
    )
    return Result(
        video=facts.video,
        actions=actions,
        sample_fps=facts.sample_fps,
        frame_count=facts.frame_count,
        duration_s=facts.frame_count / facts.sample_fps,
        decode_errors=facts.decode_errors,
        missing_s=facts.missing_s,
        notes=facts.notes,
        video_sha256=content.removeprefix("sha256:") if content.startswith("sha256:") else None,
        timings=StageSeconds(
            decode_s=timings.decode_s,
            encode_s=timings.encode_s,
            localize_s=timings.localize_s,
            suppress_s=suppress_s,
            total_s=timings.total_s + suppress_s,
        ),
        provenance=Provenance(
            tool_version=__version__,
            model_name=bundle.name,
            model_trained=bundle.trained,
            bundle_sha256=bundle.sha256,
            recipe_name=recipe.name,
            runtime=facts.runtime,
            device=facts.device,
            precision=facts.precision or bundle.graphs["encoder"].precision,
            windows=layout.windows,
            rates=rates_of(layout, recipe),
            class_scores=None if classes is None else classes.source,
            intended_use=bundle.intended_use,
        ),
    )
