"""Whether a TensorRT engine really runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tallformer_infer.diagnosis.smallest_graph import INPUTS, OUTPUT, SIDE, smallest_graph
from tallformer_infer.errors import DeviceError
from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
from tallformer_infer.runtime.tensorrt.keys import BatchProfile, check_runs_here, target_of
from tallformer_infer.runtime.tensorrt.library import load_library, require_gpu
from tallformer_infer.runtime.tensorrt.running import EngineLoader, GpuSession


def run_engine() -> dict[str, Any]:
    """Build an engine of the smallest graph for the GPU that is here, run it, and check its numbers.

    Raises:
        TallformerError: Something of it cannot be had, or fails.
    """
    card = require_gpu()
    library = load_library()
    check_runs_here(library, card)
    rows = BatchProfile(least=SIDE, best=SIDE, most=SIDE)
    target = target_of([card.capability])
    built = build_engine(library, smallest_graph(), rows, target=target, log=BuilderLog())
    gpu = GpuSession()
    engine = EngineLoader(library).load(built.content, rows, gpu)
    gpu.allocate()
    engine.bind()
    left, right = (np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) % 5 - shift for shift in (2, 3))
    found = engine.run(dict(zip(INPUTS, (left, right), strict=True)))[OUTPUT]
    if not np.array_equal(found, np.maximum(left @ right, 0)):
        raise DeviceError(f"{library} gives wrong numbers")
    reason = f"with engines of {library}, which `tallformer engine build` makes for each model"
    return {"device": "cuda", "reason": reason, "runtime": str(library)}
