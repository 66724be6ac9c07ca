"""Every export is compared with torch: what is measured, what is refused, and what the bundle says of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tallformer_export.exporting import export_random
from tallformer_export.parity import FP32_LIMITS, check_parity, compare_actions, measure_at_run_time, measure_parity
from tallformer_export.sample import sample_video
from tallformer_infer import cli
from tallformer_infer.bundle import DESCRIPTION, Bundle, load_bundle
from tallformer_infer.bundle.writing import write_calibration
from tallformer_infer.config import (
    Difference,
    MatchedActions,
    ParityReport,
    ParitySample,
)
from tallformer_infer.errors import BundleError, ConfigError, ExportError
from tallformer_infer.pipeline import Detector as Pipeline
from tallformer_infer.runtime import OnnxRuntime
from tallformer_infer.runtime.openvino import has_bf16
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.datasets import TrainingVideo
from tallformer_training.datasets.frames import DecodedFrames
from tallformer_training.loop.validation import detect_actions
from tallformer_training.model import Detector
from tests.calibration_samples import calibration
from tests.small_bundle import CLASSES, write_bundle
from tests.small_detector import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

GRAPHS = {
    "encoder": ["features", "portable_features"],
    "localizer": ["segments", "scores", "classes"],
    "suppress": ["action_segments", "action_scores", "action_classes"],
}
OUTPUTS = {f"{graph}.{output}" for graph, outputs in GRAPHS.items() for output in outputs}
OF_ACTIONS = {"actions.unmatched", "actions.unmatched_score", "actions.scores"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "small.zip"
    export_random(SMALL, out, seed=0, on_step=lambda _: None)
    return out


@pytest.fixture
def detector() -> Detector:
    """The one that was exported."""
    torch.manual_seed(0)
    return Detector(SMALL).eval()


def compared(detector: Detector, bundle: Bundle) -> ParityReport:
    with sample_video(detector) as sample:
        return measure_parity(detector, bundle, sample, FP32_LIMITS)


def changed(detector: Detector, part: str, factor: float) -> Detector:
    """The detector with the weights of one part multiplied."""
    with torch.no_grad():
        for name, weight in detector.named_parameters():
            if name.startswith(part) and weight.dim() > 1:
                weight.mul_(factor)
    return detector


def test_the_bundle_holds_the_difference_of_every_output_and_of_the_actions(exported: Path) -> None:
    parity = load_bundle(exported).parity

    assert parity is not None
    assert set(parity.differences) == OUTPUTS | OF_ACTIONS
    for name in OUTPUTS:
        found = parity.differences[name]
        assert found.worst is not None
        assert found.mean is not None
        assert 0 <= found.mean <= found.worst <= found.limit
    assert parity.beyond == parity.accepted == ()
    assert parity.actions.in_torch > 0
    assert parity.actions.tiou_threshold == 0.95
    assert parity.sample == ParitySample(source="generated", sha256=None, frames=120)


def test_the_same_model_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    export_random(SMALL, tmp_path / "again.zip", seed=0, on_step=lambda _: None)

    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize(
    ("part", "beyond", "same"),
    [("backbone", "encoder.features", "localizer.scores"), ("head", "localizer.scores", "encoder.features")],
)
def test_what_differs_is_named_and_nothing_else(
    exported: Path, detector: Detector, part: str, beyond: str, same: str
) -> None:
    report = compared(changed(detector, part, 3.0), load_bundle(exported))

    assert beyond in report.beyond
    assert same not in report.beyond
    with pytest.raises(ExportError, match=rf"{beyond} by .* \(.*; limit 0\.0001\).* nothing was written.* --accept"):
        check_parity(report, accept=False)
    assert check_parity(report, accept=True).accepted == report.beyond


def test_a_fault_in_the_graph_that_gpus_load_is_found_though_the_one_for_the_cpu_is_right(
    exported: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA and TensorRT load is the file; the CPU runs another graph that is made of it, and kept."""
    right = load_bundle(exported)
    runtime = OnnxRuntime(right, device="cpu")
    model = onnx.load_from_string(right.read_graph("encoder"))
    weight = next(item for item in model.graph.initializer if numpy_helper.to_array(item).ndim == 5)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    monkeypatch.setattr("tallformer_export.parity.OnnxRuntime", lambda *_, **__: runtime)
    read = Bundle.read_graph
    monkeypatch.setattr(
        Bundle, "read_graph", lambda self, name: model.SerializeToString() if name == "encoder" else read(self, name)
    )

    report = compared(detector, right)

    assert report.beyond == ("encoder.portable_features",)


def test_the_actions_of_torch_are_those_that_validation_finds(exported: Path, detector: Detector) -> None:
    bundle = load_bundle(exported)
    with sample_video(detector) as sample:
        source = DecodedFrames(SMALL.sampling)
        frames = source.count_frames(sample.path)
        video = TrainingVideo("a", sample.path, 0.0, np.inf, np.zeros((0, 2)), np.zeros(0, np.int64))
        here = detect_actions(detector, source, video, frames)
        there = Pipeline(bundle, OnnxRuntime(bundle, device="cpu")).detect(sample.path).actions

    matched, differences = compare_actions(here, there, FP32_LIMITS)
    parity = bundle.parity
    assert parity is not None
    assert frames == parity.sample.frames
    assert matched == parity.actions
    assert differences["actions.scores"].is_within


def test_weights_that_give_no_numbers_are_the_checkpoint_s_fault(exported: Path, detector: Detector) -> None:
    with pytest.raises(ExportError, match="the model gives features that are not finite, in torch already"):
        compared(changed(detector, "backbone", float("nan")), load_bundle(exported))


# From a checkpoint to a refusal, and past it.


@pytest.fixture(scope="module")
def cancelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that adds a large number and takes it away again: what is left is rounding, different in each."""
    torch.manual_seed(0)
    detector = Detector(SMALL)
    norm, predictor = detector.head.cls_convs[-1].get_submodule("bn"), detector.head.retina_cls
    with torch.no_grad():
        norm.get_parameter("bias").add_(1e7)
        predictor.get_parameter("bias").sub_(1e7 * predictor.weight.sum(dim=(1, 2)))
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, detector.state_dict(), SMALL, provenance={"trained": True})
    return path


def test_an_export_beyond_the_limits_fails_and_leaves_what_was_there(
    cancelling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = write_bundle(tmp_path / "model")
    before = load_bundle(older).sha256

    assert cli.run(["export", str(cancelling), "--out", str(older)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert "parity: differences from torch exceed their limits: localizer.scores by " in line
    assert load_bundle(older).sha256 == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_accepted_difference_is_recorded_and_shown(
    cancelling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"

    assert cli.run(["export", str(cancelling), "--out", str(out), "--accept-parity"]) == 0

    assert "tallformer: --accept-parity: localizer.scores" in capsys.readouterr().err
    parity = load_bundle(out).parity
    assert parity is not None
    assert "localizer.scores" in parity.accepted == parity.beyond
    assert cli.run(["info", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "beyond the limit, accepted" in shown


# The section in the bundle

REPORT = ParityReport(
    sample=ParitySample(source="generated", sha256=None, frames=240),
    differences={
        "encoder.features": Difference(worst=3e-7, mean=1e-8, limit=1e-4, unit="part of the largest"),
        "localizer.scores": Difference(worst=None, mean=None, limit=1e-4, unit="score"),
    },
    actions=MatchedActions(in_torch=9, in_bundle=8, matched=7, tiou_threshold=0.95),
    accepted=("localizer.scores",),
)


@pytest.fixture
def reported(tmp_path: Path) -> Path:
    """A bundle with that report."""
    folder = write_bundle(tmp_path / "small")
    description = dataclasses.replace(load_bundle(folder).description, parity=REPORT)
    (folder / DESCRIPTION).write_text(json.dumps(description.as_json()))
    return folder


def edit(bundle: Path, change: Callable[[dict[str, object]], object]) -> None:
    description = json.loads((bundle / DESCRIPTION).read_text())
    del description["description_sha256"]
    change(description)
    (bundle / DESCRIPTION).write_text(json.dumps(description))


def test_a_report_is_read_as_it_was_written(reported: Path) -> None:
    assert load_bundle(reported).parity == REPORT
    assert REPORT.beyond == ("localizer.scores",)


def test_a_bundle_of_before_has_no_report(reported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(reported, lambda description: description.pop("parity"))

    assert load_bundle(reported).parity is None
    assert "parity" not in load_bundle(reported).description.as_json()
    assert cli.run(["info", str(reported)]) == 0
    assert "parity" not in capsys.readouterr().out


@pytest.mark.parametrize("out", [None, "copy.zip"])
def test_operating_points_leave_the_report_in_place(reported: Path, tmp_path: Path, out: str | None) -> None:
    points = calibration(dict.fromkeys(CLASSES, 0.3))

    after = write_calibration(reported, points, out=None if out is None else tmp_path / out)

    assert after.calibration is not None
    assert after.parity == REPORT


def test_a_report_of_another_version_is_refused_in_one_line(reported: Path) -> None:
    edit(reported, lambda description: description.update(parity={"version": 2, "graphs": []}))

    with pytest.raises(BundleError, match=r'parity has version 2, this tallformer reads 1; .* remove "parity" from'):
        load_bundle(reported)


def test_a_report_that_does_not_hang_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"accepted='encoder\.weights': no such difference; there are encoder\.feat"):
        dataclasses.replace(REPORT, accepted=("encoder.weights",))
    with pytest.raises(ConfigError, match=r"limit=-1 must be at least 0"):
        Difference(worst=0.0, mean=0.0, limit=-1, unit="score")


def test_info_shows_the_report(reported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info", str(reported)]) == 0

    shown = " ".join(capsys.readouterr().out.split())
    assert "parity 7 of torch's 9 actions are found again at tIoU 0.95, in 240 frames (generated)" in shown
    assert "encoder.features differ by 3e-07 at most, on average 1e-08 (part of the largest; limit 0.0001)" in shown
    assert "localizer.scores differ by unknown at most (score; limit 0.0001): beyond the limit, accepted" in shown


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
def test_report_says_what_becomes_of_actions_in_bfloat16(exported: Path) -> None:
    parity = load_bundle(exported).parity

    assert parity is not None
    assert set(parity.at_run_time) == {"bf16"}
    assert set(parity.at_run_time["bf16"]) == OF_ACTIONS
    assert parity.holds_in("bf16")
    assert not parity.holds_in("int8")


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
def test_actions_that_are_others_in_bfloat16_do_not_hold(exported: Path, detector: Detector) -> None:
    """Against actions that all come a second later."""
    bundle = load_bundle(exported)
    with sample_video(detector) as sample:
        found = Pipeline(bundle, OnnxRuntime(bundle, device="cpu")).detect(sample.path).actions
        later = [dataclasses.replace(one, start_s=one.start_s + 1, end_s=one.end_s + 1) for one in found]

        measured = measure_at_run_time(bundle, sample, later)

    assert len(found) > 3
    assert not measured["bf16"]["actions.unmatched"].is_within


def test_nothing_is_measured_of_an_encoder_that_is_reduced_already(exported: Path, detector: Detector) -> None:
    bundle = load_bundle(exported)
    graphs = {**bundle.graphs, "encoder": dataclasses.replace(bundle.graphs["encoder"], precision="int8")}
    reduced = dataclasses.replace(bundle, description=dataclasses.replace(bundle.description, graphs=graphs))

    with sample_video(detector) as sample:
        assert measure_at_run_time(reduced, sample, []) == {}
