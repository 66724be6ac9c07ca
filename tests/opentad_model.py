"""OpenTAD's Video Swin with ActionFormer, derived a second time from its configuration: names, shapes, and arithmetic.

Written apart from the model of this project, step by step and without masks that are multiplied: what lies behind the
end of a video is left out where it must not count.

Source: OpenTAD (github.com/sming256/OpenTAD, commit 3dd7b03, Apache-2.0):
`configs/re2tal/e2e_thumos_actionformer_swin_tiny.py`, `configs/_base_/models/actionformer.py`, and the parts they name;
mmaction2's `SwinTransformer3D` for the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """What decides the shapes; the defaults are those of the published THUMOS14 model."""

    embed: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: tuple[int, int, int] = (8, 7, 7)
    channels: int = 512
    classes: int = 20
    branches: int = 5
    attention_heads: int = 4


def shapes(sizes: Sizes) -> Shapes:
    """Every name of the file without `module.`, and its shape."""
    found = {f"backbone.model.backbone.{name}": shape for name, shape in _swin(sizes).items()}
    last = f"backbone.model.backbone.norm{len(sizes.depths) - 1}"
    c, seen = sizes.channels, sizes.embed * 2 ** (len(sizes.depths) - 1)
    found |= _norm(last, seen)
    for index in range(2):
        found |= _conv_norm(f"projection.embed.{index}", c if index else seen, c)
        found |= _block(f"projection.stem.{index}", c)
        found |= _conv_norm(f"rpn_head.cls_convs.{index}", c, c)
        found |= _conv_norm(f"rpn_head.reg_convs.{index}", c, c)
    for index in range(sizes.branches):
        found |= _block(f"projection.branch.{index}", c)
    for index in range(sizes.branches + 1):
        found |= _norm(f"neck.fpn_norms.{index}", c)
        found[f"rpn_head.scale.{index}.scale"] = ()
    found |= {"rpn_head.cls_head.weight": (sizes.classes, c, 3), "rpn_head.cls_head.bias": (sizes.classes,)}
    found |= {"rpn_head.reg_head.weight": (2, c, 3), "rpn_head.reg_head.bias": (2,), "rpn_head.loss_normalizer": ()}
    return found


def _swin(sizes: Sizes) -> Shapes:
    found: Shapes = {"patch_embed.proj.weight": (sizes.embed, 3, 2, 4, 4), "patch_embed.proj.bias": (sizes.embed,)}
    found |= _norm("patch_embed.norm", sizes.embed)
    deep, high, wide = sizes.window
    for stage, (depth, heads) in enumerate(zip(sizes.depths, sizes.heads, strict=True)):
        c = sizes.embed * 2**stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            found |= _norm(f"{at}.norm1", c) | _norm(f"{at}.norm2", c)
            found[f"{at}.attn.relative_position_bias_table"] = (
                (2 * deep - 1) * (2 * high - 1) * (2 * wide - 1),
                heads,
            )
            found[f"{at}.attn.relative_position_index"] = (deep * high * wide, deep * high * wide)
            found |= _linear(f"{at}.attn.qkv", c, 3 * c) | _linear(f"{at}.attn.proj", c, c)
            found |= _linear(f"{at}.mlp.fc1", c, 4 * c) | _linear(f"{at}.mlp.fc2", 4 * c, c)
        if stage < len(sizes.depths) - 1:
            found |= _norm(f"layers.{stage}.downsample.norm", 4 * c)
            found[f"layers.{stage}.downsample.reduction.weight"] = (2 * c, 4 * c)
    return found


def _block(at: str, c: int) -> Shapes:
    found = _norm(f"{at}.ln1", c) | _norm(f"{at}.ln2", c)
    for part in ("query", "key", "value"):
        found[f"{at}.attn.{part}_conv.conv.weight"] = (c, 1, 3)
        found |= _norm(f"{at}.attn.{part}_norm", c)
    for part in ("query", "key", "value", "proj"):
        found |= {f"{at}.attn.{part}.weight": (c, c, 1), f"{at}.attn.{part}.bias": (c,)}
    found |= {f"{at}.mlp.0.weight": (4 * c, c, 1), f"{at}.mlp.0.bias": (4 * c,)}
    found |= {f"{at}.mlp.3.weight": (c, 4 * c, 1), f"{at}.mlp.3.bias": (c,)}
    return found | {f"{at}.drop_path_{part}.scale": (1, c, 1) for part in ("attn", "mlp")}


def _conv_norm(at: str, inputs: int, outputs: int) -> Shapes:
    return {f"{at}.conv.weight": (outputs, inputs, 3)} | _norm(f"{at}.norm", outputs)


def _norm(at: str, c: int) -> Shapes:
    return {f"{at}.weight": (c,), f"{at}.bias": (c,)}


def _linear(at: str, inputs: int, outputs: int) -> Shapes:
    return {f"{at}.weight": (outputs, inputs), f"{at}.bias": (outputs,)}


@torch.no_grad()
def detect(
    weights: dict[str, Tensor], features: Tensor, valid: int, sizes: Sizes, *, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """What the head gives for one window: class scores (P, K), and segments in steps (P, 2), of valid positions only.

    Args:
        weights: By OpenTAD's names.
        features: Shape (C, S).
        valid: Steps that belong to the video, at least 1.
        sizes: Of the model.
        width: Of the local attention; None for all steps.
    """
    x = features
    for index in range(2):
        x = _zero_behind(_run_conv_norm(weights, f"projection.embed.{index}", x, valid), valid)
    for index in range(2):
        x = run_block(weights, f"projection.stem.{index}", x, valid, (1, sizes.attention_heads, width))
    levels, lengths = [x], [valid]
    for index in range(sizes.branches):
        shorter = (lengths[-1] + 1) // 2
        shape = (2, sizes.attention_heads, width)
        levels.append(run_block(weights, f"projection.branch.{index}", levels[-1], shorter, shape))
        lengths.append(shorter)
    scores, segments = [], []
    for index, (level, length) in enumerate(zip(levels, lengths, strict=True)):
        what = where = _layer_norm(weights, f"neck.fpn_norms.{index}", level, 1e-6)
        for conv in range(2):
            what = _zero_behind(_run_conv_norm(weights, f"rpn_head.cls_convs.{conv}", what, length), length)
            where = _zero_behind(_run_conv_norm(weights, f"rpn_head.reg_convs.{conv}", where, length), length)
        logits = _conv(weights, "rpn_head.cls_head", what, padding=1)[:, :length]
        reach = _conv(weights, "rpn_head.reg_head", where, padding=1)[:, :length]
        reach = torch.relu(reach * weights[f"rpn_head.scale.{index}.scale"]) * 2**index
        centre = torch.arange(length) * 2**index
        scores.append(logits.sigmoid().T)
        segments.append(torch.stack([centre - reach[0], centre + reach[1]], dim=1))
    return torch.cat(scores), torch.cat(segments)


def _run_conv_norm(weights: dict[str, Tensor], at: str, x: Tensor, valid: int) -> Tensor:
    convolved = F.conv1d(x[None], weights[f"{at}.conv.weight"], padding=1)[0]
    return torch.relu(_layer_norm(weights, f"{at}.norm", _zero_behind(convolved, valid), 1e-6))


def run_block(weights: dict[str, Tensor], at: str, x: Tensor, after: int, shape: tuple[int, int, int | None]) -> Tensor:
    """One transformer block.

    Args:
        weights: By OpenTAD's names.
        at: What the names of the block begin with.
        x: Shape (C, S).
        after: Steps that belong to the video behind the block.
        shape: Stride, heads, and the width of local attention (None for all steps).
    """
    stride, heads, width = shape
    normed = _layer_norm(weights, f"{at}.ln1", x, 1e-5)  # its bias is read by the convolutions behind the end, too
    mixed = _attend(weights, f"{at}.attn", normed, after, stride, heads, width)
    if stride == 2:  # the larger of each step and its neighbours
        padded = F.pad(x, (1, 1), value=-torch.inf)
        x = torch.stack([padded[:, 2 * step : 2 * step + 3].amax(dim=1) for step in range((x.shape[1] + 1) // 2)], 1)
    x = _zero_behind(x, after) + weights[f"{at}.drop_path_attn.scale"][0] * mixed
    hidden = F.gelu(_conv(weights, f"{at}.mlp.0", _layer_norm(weights, f"{at}.ln2", x, 1e-5)))
    return x + weights[f"{at}.drop_path_mlp.scale"][0] * _zero_behind(_conv(weights, f"{at}.mlp.3", hidden), after)


def _attend(
    weights: dict[str, Tensor], at: str, x: Tensor, valid: int, stride: int, heads: int, width: int | None
) -> Tensor:
    parts = {}
    for part in ("query", "key", "value"):
        kernel = weights[f"{at}.{part}_conv.conv.weight"]
        convolved = F.conv1d(x[None], kernel, stride=stride, padding=1, groups=len(kernel))[0]
        normed = _layer_norm(weights, f"{at}.{part}_norm", _zero_behind(convolved, valid), 1e-5)
        parts[part] = _conv(weights, f"{at}.{part}", normed)
    channels, steps = parts["query"].shape
    size = channels // heads
    out = torch.zeros(channels, steps)
    for step in range(valid):
        low, high = (0, valid) if width is None else (max(step - width // 2, 0), min(step + width // 2 + 1, valid))
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            alike = parts["query"][rows, step] @ parts["key"][rows, low:high] / size**0.5
            out[rows, step] = parts["value"][rows, low:high] @ alike.softmax(dim=0)
    return _zero_behind(_conv(weights, f"{at}.proj", out), valid)


def _conv(weights: dict[str, Tensor], at: str, x: Tensor, *, padding: int = 0) -> Tensor:
    return F.conv1d(x[None], weights[f"{at}.weight"], weights[f"{at}.bias"], padding=padding)[0]


def _layer_norm(weights: dict[str, Tensor], at: str, x: Tensor, epsilon: float) -> Tensor:
    centred = x - x.mean(dim=0)
    spread = centred.square().mean(dim=0).add(epsilon).sqrt()
    return centred / spread * weights[f"{at}.weight"][:, None] + weights[f"{at}.bias"][:, None]


def _zero_behind(x: Tensor, valid: int) -> Tensor:
    return torch.cat([x[:, :valid], torch.zeros_like(x[:, valid:])], dim=1)
