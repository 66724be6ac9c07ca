"""Rewrite parts of a graph so that OpenVINO's kernels for processors fit them; results differ by rounding only.

Note [masks of shifted windows]
    OpenVINO runs product, bias, softmax and product of attention as one kernel, unless a reshape lies between. Video
    Swin's shifted windows have one: scores are taken apart into clips and windows, to add a mask that all clips share.
    With one clip the mask can be added to the scores as they are. Swin-T at 224 px takes 6 % less time for it in
    bfloat16, and 12 % less in float32.

Note [stems in blocks]
    AMX multiplies 32 channels at a time, and I3D's first convolution has three: half of the encoder's time went into
    it. So blocks of 2 x 2 x 2 pixels become 24 channels. A convolution of 7 x 7 x 7 with stride 2 is then one of
    4 x 4 x 4 with stride 1, whose eighth taps are zero. `kinetics400` takes 0.26 s per clip in place of 0.38 for it
    (one thread). Without AMX it would take longer: zeros are multiplied, too.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK, _TAPS = 2, 7
_BEFORE = 2
"""Pixels of padding before the first one, a block."""


def rewrite(model: Any, *, has_amx: bool) -> None:
    """Rewrite a graph that was read by OpenVINO and fixed to one clip, see the notes of this module.

    Args:
        model: An `openvino.Model`, changed in place.
        has_amx: Whether it will be computed in bfloat16 on a processor with AMX.
    """
    passes = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())  # shapes, and zeros that only pad
    manager.run_passes(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Softmax":
            _add_mask_in_place(node)
        elif node.get_type_name() == "Convolution" and has_amx:
            _put_stem_in_blocks(node)
    model.validate_nodes_and_infer_types()


def _add_mask_in_place(softmax: Any) -> None:
    """See Note [masks of shifted windows]; leaves anything else alone."""
    joined = _source(softmax)
    if joined.get_type_name() != "Reshape" or (added := _source(joined)).get_type_name() != "Add":
        return
    parted, mask = (added.input(at).get_source_output() for at in (0, 1))
    if parted.get_node().get_type_name() != "Reshape":
        return
    scores = parted.get_node().input(0).get_source_output()
    windows, heads, tokens, others = _shape(scores) if len(_shape(scores)) == len("wnqk") else (0, 0, 0, 0)
    fits = _shape(softmax.input(0)) == [windows, heads, tokens, others]
    fits = fits and _shape(parted) == [1, windows, heads, tokens, others]
    if fits and _shape(mask) == [windows, 1, tokens, others]:
        softmax.input(0).replace_source_output(_opset().add(scores, mask).output(0))


def _put_stem_in_blocks(convolution: Any) -> None:
    """See Note [stems in blocks]; leaves anything else alone."""
    weights, says = _constant(convolution, 1), convolution.get_attributes()
    if weights is None or weights.shape[1:] != (3, _TAPS, _TAPS, _TAPS):
        return
    if says["strides"] != [2, 2, 2] or says["dilations"] != [1, 1, 1] or says["pads_begin"] != [_BEFORE] * 3:
        return
    pixels = _without_zeros_behind(convolution)
    sizes, out = _shape(pixels)[2:], _shape(convolution.output(0))[2:]
    if any(size % _BLOCK for size in sizes):
        return
    before = _BEFORE // _BLOCK
    behind = [wanted - size // _BLOCK + _TAPS // _BLOCK - before for size, wanted in zip(sizes, out, strict=True)]
    opset = _opset()
    blocks = opset.space_to_depth(pixels, "blocks_first", _BLOCK)
    stem = opset.convolution(blocks, opset.constant(_of_blocks(weights)), [1] * 3, [before] * 3, behind, [1] * 3)
    for reader in convolution.output(0).get_target_inputs():
        reader.replace_source_output(stem.output(0))


def _of_blocks(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (out, 3, 7, 7, 7) for blocks: (out, 8 x 3, 4, 4, 4), the place in a block before the colour."""
    out, colours = weights.shape[:2]
    even = np.pad(weights, [(0, 0), (0, 0), *[(0, 1)] * 3])
    half = even.shape[-1] // _BLOCK
    parted = even.reshape(out, colours, *(half, _BLOCK) * 3)
    return np.ascontiguousarray(parted.transpose(0, 3, 5, 7, 1, 2, 4, 6).reshape(out, -1, half, half, half))


def _without_zeros_behind(convolution: Any) -> Any:
    """What a convolution reads, before zeros were put behind it, axis by axis."""
    found = convolution.input(0).get_source_output()
    while (node := found.get_node()).get_type_name() == "Concat":
        parts = [node.input(at) for at in range(node.get_input_size())]
        zeros = _constant(node, 1) if len(parts) == len("ab") else None
        if zeros is None or zeros.any():
            return found
        found = parts[0].get_source_output()
    return found


def _constant(node: Any, at: int) -> NDArray[np.float32] | None:
    """Values of an input, if they are known."""
    source = _source(node, at)
    if source.get_type_name() == "Convert":  # of weights that are stored in float16
        source = _source(source)
    return source.get_data().astype(np.float32) if source.get_type_name() == "Constant" else None


def _source(node: Any, at: int = 0) -> Any:
    return node.input(at).get_source_output().get_node()


def _shape(port: Any) -> list[int]:
    """Sizes; -1 for one that is open."""
    return [size.get_length() if size.is_static else -1 for size in port.get_partial_shape()]


def _opset() -> Any:
    return importlib.import_module("openvino.opset13")
