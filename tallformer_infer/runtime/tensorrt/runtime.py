"""The three steps of `Runtime` with TensorRT engines.

Note [never run on a GPU]
    This module and `running` were written against the interfaces of TensorRT and of the CUDA runtime, and have
    never run: no GPU was available. `make test-gpu` runs them; `docs/tensorrt.md` says what has run where.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.errors import BundleError, DeviceError, EngineError, ExtraError
from tallformer_infer.runtime.protocol import Cancellation, WindowBatch, candidates_above_threshold
from tallformer_infer.runtime.tensorrt.keys import ENGINE_GRAPHS, check_runs_here
from tallformer_infer.runtime.tensorrt.library import Gpu, Library, load_library, require_gpu
from tallformer_infer.runtime.tensorrt.running import SETS, EngineLoader, GpuSession, LoadedEngine
from tallformer_infer.runtime.tensorrt.store import StoredEngine, find_engine
from tallformer_infer.structures import Candidates

_REFUSED = "device tensorrt cannot be had (--device auto takes what there is): {}"


class TensorRTRuntime:
    """Runs the engines of one bundle. They are built before, by `tallformer engine build`."""

    def __init__(self, bundle: Bundle) -> None:
        """Find the engines for the GPU that is here, and load them.

        Raises:
            DeviceError: There is no GPU, driver or TensorRT to run them with.
            EngineError: There is no engine for this GPU and TensorRT, or one is damaged.
            BundleError: An engine is not what the recipe says.
        """
        self._bundle = bundle
        self._recipe = bundle.recipe
        self._card, self._library = _look_here()
        found = [find_engine(bundle, graph, self._library, self._card) for graph in ENGINE_GRAPHS]
        try:
            self._gpu = GpuSession()
        except (DeviceError, ExtraError) as error:
            raise DeviceError(_REFUSED.format(error)) from error
        weakref.finalize(self, self._gpu.close).atexit = False
        self._loader = EngineLoader(self._library)
        self._encoder, self._localizer = map(self._load, found)
        self._check_ports()
        self._gpu.allocate()
        for engine in (self._encoder, self._localizer):
            engine.bind()

    @property
    def name(self) -> str:
        """Name and version of the library that runs the engines."""
        return str(self._library)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engines run."""
        return "cuda"

    @property
    def precision(self) -> str:
        """What the encoder computes in."""
        return self._bundle.graphs["encoder"].precision

    @property
    def device_reason(self) -> str:
        """Why, for people."""
        return f"as asked, on {self._card}"

    @property
    def clips_at_once(self) -> int:
        """As many as fill all sets of buffers, so that copies overlap runs."""
        return SETS * self._encoder.batch.most

    @property
    def clips_per_call(self) -> int:
        """All: the engine cuts them into batches itself."""
        return self.clips_at_once

    def encode(
        self,
        clips: NDArray[np.uint8],
        real_frames: NDArray[np.int64],
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.float32]:
        """Clips to feature steps, see `Runtime.encode`. A stop takes effect after the batches that are running."""
        stopped = threading.Event()
        with (cancellation or Cancellation()).stopping(stopped.set):
            inputs: dict[str, NDArray[Any]] = {"clips": clips, "real_frames": real_frames}
            features: NDArray[np.float32] = self._encoder.run(inputs, is_stopped=stopped.is_set)["features"]
            return features

    def localize(self, windows: WindowBatch) -> Candidates:
        """Windows of feature steps to candidates, see `Runtime.localize`."""
        found = self._localizer.run(windows._asdict())
        return candidates_above_threshold(
            found["segments"],
            found["scores"],
            found["classes"],
            recipe=self._recipe,
            given_by=f"{self._bundle.path}: the engine of graph localizer",
        )

    def _load(self, stored: StoredEngine) -> LoadedEngine:
        assert stored.record is not None
        content = stored.read()
        try:
            return self._loader.load(content, stored.record.key.batch, self._gpu)
        except EngineError as error:
            raise EngineError(f"{stored.path}: {error}; build it again with --force") from error

    def _check_ports(self) -> None:
        """Names, shapes and types are those of the recipe."""
        window, side = self._recipe.window, self._recipe.sampling.crop_px
        channels, steps = self._recipe.model.backbone.out_channels, self._recipe.window_steps
        expected: dict[GraphName, dict[str, tuple[Any, tuple[int, ...] | None]]] = {
            "encoder": {
                "clips": (np.uint8, (window.clip_frames, side, side, 3)),
                "real_frames": (np.int64, ()),
                "features": (np.float32, None),
            },
            "localizer": {
                "features": (np.float32, (channels, steps)),
                "start_frames": (np.int64, ()),
                "real_frames": (np.int64, ()),
                "segments": (np.float32, None),
                "scores": (np.float32, None),
                "classes": (np.int64, None),
            },
        }
        for graph, engine in zip(ENGINE_GRAPHS, (self._encoder, self._localizer), strict=True):
            found = {port.name: port for port in engine.ports}
            for name, (dtype, shape) in expected[graph].items():
                port = found.get(name)
                if port is None or port.dtype != dtype or (shape is not None and port.item_shape != shape):
                    shown = "missing" if port is None else f"{port.dtype} {port.item_shape}"
                    raise BundleError(
                        f"{self._bundle.path}: {name!r} of the engine of graph {graph} is {shown}, "
                        f"expected {np.dtype(dtype)} {'' if shape is None else shape}"
                    )


def _look_here() -> tuple[Gpu, Library]:
    """The GPU, then the library: nothing of TensorRT is made before the driver has answered."""
    try:
        gpu = require_gpu()
        library = load_library()
        check_runs_here(library, gpu)
    except (DeviceError, ExtraError) as error:
        raise DeviceError(_REFUSED.format(error)) from error
    return gpu, library
