"""Export the two trained graphs to ONNX: torch modules with the inputs and outputs of runtimes, and a dynamic batch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, assert_never

import onnx
import torch
from torch import Tensor, nn

from tallformer_export.precision import calibrated, quantised, with_precision
from tallformer_infer.bundle import Precision
from tallformer_infer.config import RefinedHeadConfig
from tallformer_infer.errors import ExportError
from tallformer_infer.timeline import Clip
from tallformer_training.model import Detector, RefinedOutputs, Segments
from tallformer_training.model.refined_head import with_classes

Dim = Any
"""Name of a size that torch's exporter leaves open."""
OPSET = 20
"""Newest opset that TensorRT 10 and ONNX Runtime 1.22 both read; 17 is silently written as 18 by torch 2.13."""
_MOST_PLACES = 64
"""Names of height and width of the encoder's last map, if the picture size is open."""

PROPOSAL_OUTPUTS = ("proposal_segments", "proposal_scores", "class_scores")
"""Outputs of the localizer of a refined head besides candidates."""


def encoder_onnx(
    detector: Detector,
    precision: Precision = "fp32",
    *,
    clips: Callable[[], Iterable[Clip]] = tuple,
    any_size: bool = False,
) -> onnx.ModelProto:
    """Graph 1: `clips` uint8 (N, F, H, W, 3), `real_frames` (N,) to `features` (N, C, S), float32 in any precision.

    `clips` yields calibration data for `int8-static`. With `any_size`, height and width of pictures are left open, for
    encoders that accept any multiple of their stride.
    """
    recipe = detector.recipe
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    inputs = {
        "clips": torch.zeros((2, frames, side, side, 3), dtype=torch.uint8),
        "real_frames": torch.full((2,), frames),
    }
    if precision in ("fp16", "bf16"):
        detector = with_precision(detector, precision)
    open_axes: dict[int, Dim] = {}
    if any_size:
        stride = recipe.model.backbone.stride_px
        inputs["clips"] = torch.zeros(
            (2, frames, 2 * stride, 3 * stride, 3), dtype=torch.uint8
        )  # sizes of 1 stay fixed
        open_axes = {
            axis: stride * torch.export.Dim(name, min=1, max=_MOST_PLACES) for axis, name in ((2, "h"), (3, "w"))
        }
    graph = EncoderGraph(detector).eval()
    model = _to_onnx(graph, inputs, ["features"], batch="clips_count", open_axes={"clips": open_axes})
    match precision:
        case "int8":
            return quantised(model)
        case "int8-static":
            return calibrated(model, clips())
        case _:
            return model


def localizer_onnx(detector: Detector) -> onnx.ModelProto:
    """Graph 2: `features` (B, C, S), `start_frames`, `real_frames` (B,) to `segments`, `scores`, `classes`.

    For a refined head it also has `PROPOSAL_OUTPUTS`.
    """
    recipe = detector.recipe
    inputs = {
        "features": torch.zeros((2, recipe.model.backbone.out_channels, recipe.window_steps)),
        "start_frames": torch.zeros(2, dtype=torch.int64),
        "real_frames": torch.full((2,), recipe.window.window_frames),
    }
    graph = LocalizerGraph(detector).eval()
    return _to_onnx(graph, inputs, graph.output_names, batch="windows")


def _to_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    output_names: Sequence[str],
    *,
    batch: str,
    open_axes: Mapping[str, Mapping[int, Dim]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Export a module whose inputs have a dynamic batch and, in `open_axes`, named dynamic sizes."""
    dimension = torch.export.Dim(batch, min=1, max=4096)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(output_names),
            dynamic_shapes=[{0: dimension, **open_axes.get(name, {})} for name in inputs],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip_traces(model)
    if any(open_axes.values()):
        del model.graph.value_info[:]  # runtimes infer them for the actual sizes
    _check(model, inputs, open_axes)
    return model


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which contain paths of this machine."""
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")


def _check(model: onnx.ModelProto, inputs: dict[str, Tensor], open_axes: Mapping[str, Mapping[int, Dim]]) -> None:
    """Refuse shapes that the exporter silently fixed or left open."""
    onnx.checker.check_model(model, full_check=True)
    if model.opset_import[0].version != OPSET:
        raise ExportError(f"requested opset {OPSET}, the exporter wrote {model.opset_import[0].version}")
    for declared in model.graph.input:
        dims = declared.type.tensor_type.shape.dim
        shape = [dim.dim_param or dim.dim_value for dim in dims]
        wanted: list[int | str] = list(inputs[declared.name].shape)
        for axis in open_axes.get(declared.name, ()):
            wanted[axis] = shape[axis] if isinstance(shape[axis], str) else "open"
        if not isinstance(shape[0], str) or shape[1:] != wanted[1:]:
            raise ExportError(f"input {declared.name}: exported as {shape}, expected a dynamic batch and {wanted[1:]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress and developer warnings, which users cannot act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class EncoderGraph(nn.Module):
    """Graph 1: pixels to feature steps, including all pixel arithmetic."""

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        sampling = detector.recipe.sampling
        self.detector = detector
        self.fill = sampling.fill
        self.register_buffer("mean", torch.tensor(sampling.mean)[:, None, None, None])
        self.register_buffer("std", torch.tensor(sampling.std)[:, None, None, None])
        self.register_buffer("positions", torch.arange(detector.recipe.window.clip_frames))

    def forward(self, clips: Tensor, real_frames: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: RGB pixels, uint8, shape (N, F, H, W, 3).
            real_frames: Frames of each clip that belong to the video, int64, shape (N,).

        Returns:
            Features, shape (N, C, F / encoder stride).
        """
        # Channels first, so that one number is subtracted per plane instead of three per pixel.
        pixels = clips.float().permute(0, 4, 1, 2, 3)
        is_real = (self.positions < real_frames[:, None]).float()[:, None, :, None, None]
        match self.fill:
            case "mean":  # zero after normalisation, not black before it: spec §4.4
                normalised = (pixels - self.mean) / self.std * is_real
            case "black":  # spec §7.1
                normalised = (pixels * is_real - self.mean) / self.std
            case "edge":
                behind = last_frames(pixels, real_frames) * (1 - is_real)
                normalised = (pixels * is_real + behind - self.mean) / self.std
            case _:
                assert_never(self.fill)
        return self.detector.encode(normalised).float()


def last_frames(pixels: Tensor, real_frames: Tensor) -> Tensor:
    """The last real frame of each clip, black if it has none.

    Args:
        pixels: Shape (N, 3, F, H, W).
        real_frames: Real frames of each clip, shape (N,).

    Returns:
        Shape (N, 3, 1, H, W).
    """
    row = (real_frames - 1).clamp(min=0)[:, None, None, None, None]
    last = pixels.gather(2, row.expand(-1, 3, 1, *pixels.shape[3:]))
    return last * (real_frames > 0).float()[:, None, None, None, None]


class LocalizerGraph(nn.Module):
    """Graph 2: windows of feature steps to candidates."""

    classes: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.per_window = detector.recipe.candidates.per_window
        head = detector.recipe.model.head
        self.classes_per_proposal = head.classes_per_proposal if isinstance(head, RefinedHeadConfig) else 0
        self.register_buffer("classes", torch.arange(len(detector.recipe.classes)))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the results of `forward`."""
        names = ("segments", "scores", "classes")
        return (*names, *PROPOSAL_OUTPUTS) if self.classes_per_proposal else names

    def forward(self, features: Tensor, start_frames: Tensor, real_frames: Tensor) -> tuple[Tensor, ...]:
        """Localize windows.

        Args:
            features: Shape (B, C, S).
            start_frames: First frame of each window, int64, shape (B,).
            real_frames: Frames of each window that belong to the video, int64, shape (B,).

        Returns:
            Segments in frames of the whole video (B, P, 2), scores (B, P) and class indices (B, P): one row for each
            (anchor, class), classes varying fastest, or the best `per_window` of them. For a refined head also the
            proposals without classes, and the scores of classes, see `Proposals`.
        """
        outputs = self.detector.localize(features, real_frames)
        if not isinstance(outputs, RefinedOutputs):
            return self._best(self.detector.decode(outputs, start_frames, real_frames))
        proposals = self.detector.propose(outputs, start_frames, real_frames)
        decoded = with_classes(proposals, classes_per_proposal=self.classes_per_proposal)
        return (*self._best(decoded), *proposals)

    def _best(self, decoded: Segments) -> tuple[Tensor, Tensor, Tensor]:
        kinds = len(self.classes)
        anchors = decoded.scores.shape[1]
        scores = decoded.scores.flatten(1)  # (B, A * K)
        if self.per_window is None or self.per_window >= anchors * kinds:
            segments = decoded.segments_frames.repeat_interleave(kinds, dim=1)
            return segments, scores, self.classes.repeat(anchors).expand(scores.shape[0], -1)
        scores, rows = scores.topk(self.per_window, dim=1)
        anchor = (rows // kinds)[..., None].expand(-1, -1, 2)
        return decoded.segments_frames.gather(1, anchor), scores, rows % kinds
