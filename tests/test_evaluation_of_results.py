"""What `detect` writes is what `eval` reads, in both dialects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tallformer_infer.evaluation import Truth, evaluate, protocol_named, read_predictions
from tallformer_infer.labels.activitynet import activitynet_document
from tallformer_infer.results import actions_document, write_document
from tallformer_infer.structures import Action, Provenance, Result, StageSeconds, VideoInfo

PROVENANCE = Provenance(
    tool_version="1.2.3",
    model_name="demo",
    model_trained=True,
    bundle_sha256="0" * 64,
    recipe_name="demo",
    runtime="onnxruntime 1.22",
    device="cpu",
    precision="fp32",
    windows="shared",
)


def result(path: str, *actions: Action) -> Result:
    return Result(
        video=VideoInfo(
            path=path, width_px=96, height_px=96, codec="h264", source_fps=15.0, start_s=0.0, duration_s=40.0
        ),
        actions=actions,
        sample_fps=15.0,
        frame_count=600,
        duration_s=40.0,
        decode_errors=0,
        video_sha256=None,
        timings=StageSeconds(decode_s=0, encode_s=0, localize_s=0, suppress_s=0, total_s=0),
        provenance=PROVENANCE,
    )


@pytest.mark.parametrize("document", [actions_document, activitynet_document])
def test_a_written_result_scores_as_it_should(
    tmp_path: Path, document: Callable[[Sequence[Result]], dict[str, Any]]
) -> None:
    found = [
        result("videos/one.mp4", Action(start_s=1, end_s=2, label="a", score=0.25)),
        result("two.webm", Action(start_s=0, end_s=5, label="a", score=0.5)),
    ]
    truth = Truth.of({"one": [(1, 2, "a")], "two": [(5, 10, "a")]})
    write_document(document(found), tmp_path / "actions.json")

    evaluation = evaluate(read_predictions(tmp_path / "actions.json"), truth, protocol_named("thumos14"))

    assert evaluation.videos.scored == ("one", "two")
    assert evaluation.average == pytest.approx(0.25)  # wrong, then right, one of two truths
