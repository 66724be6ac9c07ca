"""ONNX Runtime on the CPU, on CUDA, or through its TensorRT provider.

Note [where suppression runs]
    Graph 3 and `tallformer_infer.nms` give the same actions up to rounding (one test suite for both). `label`
    suppresses stored candidates again without a device or a model, so all commands use NumPy, on every device. Graph 3
    is for programs that run a bundle's graphs on CUDA themselves: `suppress_in_graph` runs it there.

Note [one clip per thread]
    Threads that share a clip wait for each other after every operator, and there are thousands of small ones. One clip
    per thread gave 1.11 to 1.2 times the clips per second of two threads on one clip (Swin-T at 224 px, float32 and
    int8). It needs several clips at a time, so a video of a single clip takes longer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Protocol, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tallformer_infer.bundle import SUPPRESS_SETTINGS, Bundle, GraphName
from tallformer_infer.config import to_json
from tallformer_infer.devices import OnnxDevice as Device
from tallformer_infer.devices import RunsOn, available_cores, cores_by_quota, share_cores
from tallformer_infer.errors import BundleError, DeviceError, StoppedError, TallformerError
from tallformer_infer.runtime.cpu_graph import cpu_encoder_graph
from tallformer_infer.runtime.device_graphs import DeviceGraphs
from tallformer_infer.runtime.onnx_session import (
    CPU,
    ProviderWithOptions,
    choose_place,
    cuda_provider,
    engine_cache,
    open_session,
    tensorrt_provider,
)
from tallformer_infer.runtime.protocol import Cancellation, WindowBatch, candidates_above_threshold, most_clips
from tallformer_infer.runtime.tensorrt.keys import DEFAULT_BATCHES, engine_key, target_of
from tallformer_infer.structures import Candidates, Proposals
from tallformer_infer.text import first_line

MOST_IN_GRAPH = 50_000
"""Maximum number of candidates for graph 3, which compares all pairs in a bit mask of N * N / 8 bytes: 0.3 GB here."""


class OnnxRuntime:
    """Runs the graphs of one bundle with ONNX Runtime."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "auto",
        threads: int | None = None,
        encoder: HostEncoder | None = None,
        reason: str | None = None,
    ) -> None:
        """Load the graphs.

        Args:
            bundle: Checked on reading.
            device: `auto` uses CUDA if it works, otherwise the CPU; `device_reason` says which and why.
            threads: CPU threads; None uses one per core, within a container's quota.
            encoder: Runs graph 1 instead; for `device="cpu"`.
            reason: Why this device was chosen, if the caller chose it.

        Raises:
            BundleError: A graph is missing or damaged, or does not match the recipe.
            DeviceError: The requested device is not available.
            ValueError: `device` or `threads` is out of range.
        """
        if device not in get_args(Device):
            raise ValueError(f"device={device!r}: expected one of {', '.join(get_args(Device))}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: expected at least 1, or None for one per core")
        self._bundle = bundle
        self._recipe = bundle.recipe
        self._threads = threads or cores_by_quota()
        self._place = choose_place(device, lambda: self._session("localizer", [cuda_provider(captures=False), CPU]))
        if reason is not None:
            self._place = dataclasses.replace(self._place, reason=reason)
        self._on_cpu: HostEncoder | None = None
        self._on_gpu: DeviceGraphs | None = None
        if self._place.device == "cpu":
            self._on_cpu = encoder or self._load_cpu_encoder()
            self._localizer = self._session("localizer", [CPU])
        else:
            self._on_gpu = self._load_on_gpu()
            self._localizer = self._on_gpu.session("localizer")
        self._suppress: ort.InferenceSession | None = None
        self._check_suppress()
        self._check_shapes()

    @property
    def name(self) -> str:
        """Name and version of the library that runs the graphs."""
        within = f" with {self._place.tensorrt.library}" if self._place.tensorrt else ""
        return f"onnxruntime {ort.__version__}{within}"

    @property
    def device(self) -> RunsOn:
        """Where the graphs run."""
        return self._place.device

    @property
    def precision(self) -> str:
        """Precision of the encoder."""
        return self._bundle.graphs["encoder"].precision

    @property
    def device_reason(self) -> str:
        """Reason why that device was chosen, for display."""
        return f"{self._place.reason}, {self._on_gpu.remark}" if self._on_gpu else self._place.reason

    @property
    def clips_at_once(self) -> int:
        """Number of clips to encode in parallel for the best speed."""
        on_device = min(most_clips(self._recipe), DEFAULT_BATCHES["encoder"].most)
        return self._on_cpu.clips_at_once if self._on_cpu else on_device

    @property
    def clips_per_call(self) -> int:
        """One on the CPU, with one clip per thread; all of them on a GPU."""
        return 1 if self._on_cpu else self.clips_at_once

    def encode(
        self,
        clips: NDArray[np.uint8],
        real_frames: NDArray[np.int64],
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.float32]:
        """Clips to feature steps, see `Runtime.encode`."""
        inputs: dict[str, NDArray[Any]] = {"clips": clips, "real_frames": real_frames}
        if self._on_gpu:
            (features,) = self._on_gpu.run("encoder", inputs, ["features"], cancellation)
            return np.asarray(features, np.float32)
        assert self._on_cpu is not None
        return self._on_cpu.run(clips, real_frames, cancellation or Cancellation())

    def localize(self, windows: WindowBatch) -> Candidates:
        """Windows of feature steps to candidates, see `Runtime.localize`."""
        names = ["segments", "scores", "classes"]
        segments, scores, classes = self._localized(names, windows)
        given_by = f"{self._bundle.path}: graph localizer"
        return candidates_above_threshold(segments, scores, classes, recipe=self._recipe, given_by=given_by)

    def propose(self, window: WindowBatch) -> Proposals:
        """One window of feature steps to proposals, see `ProposingRuntime.propose`."""
        names = ["proposal_segments", "proposal_scores", "class_scores"]
        given = [output.name for output in self._localizer.get_outputs()]
        if not set(names) <= set(given):
            raise BundleError(f"{self._bundle.path}: graph localizer gives {', '.join(given)}; export the bundle again")
        segments, scores, class_scores = self._localized(names, window)
        return Proposals(segments[0], scores[0], class_scores[0])

    def suppress_in_graph(self, candidates: Candidates) -> Candidates:
        """Suppress the candidates of a whole video with graph 3, on the device of the other graphs.

        Commands use NumPy, see Note [where suppression runs].

        Raises:
            BundleError: The bundle has no graph 3.
            ValueError: There are more than `MOST_IN_GRAPH` candidates.
        """
        if len(candidates) > MOST_IN_GRAPH:
            raise ValueError(f"{len(candidates)} candidates: graph 3 takes at most {MOST_IN_GRAPH}")
        if self._suppress is None:
            on_gpu = [cuda_provider(captures=False)] if self._place.device == "cuda" else []
            self._suppress = self._session("suppress", [*on_gpu, CPU])
        inputs = {
            "segments": candidates.segments_frames,
            "scores": candidates.scores,
            "classes": candidates.classes,
        }
        segments, scores, classes = self._suppress.run(None, inputs)
        return Candidates(segments, scores, classes)

    def _localized(self, names: list[str], windows: WindowBatch) -> list[NDArray[Any]]:
        inputs: dict[str, NDArray[Any]] = windows._asdict()
        if self._on_gpu:
            return self._on_gpu.run("localizer", inputs, names)
        found: list[NDArray[Any]] = self._localizer.run(names, inputs)
        return found

    def _load_on_gpu(self) -> DeviceGraphs:
        batches = {name: batch.most for name, batch in DEFAULT_BATCHES.items()}
        return DeviceGraphs(self._open_on_gpu, batches, place="cuda", captures=True)

    def _open_on_gpu(self, name: GraphName, captures: bool) -> ort.InferenceSession:
        providers = [*self._tensorrt(name, captures), cuda_provider(captures=captures and not self._place.tensorrt)]
        return self._session(name, [*providers, CPU])

    def _tensorrt(self, name: GraphName, captures: bool) -> list[ProviderWithOptions]:
        here = self._place.tensorrt
        if here is None:
            return []
        target = target_of([here.gpu.capability])
        key = engine_key(self._bundle, name, here.library, target=target, batch=DEFAULT_BATCHES[name])
        cache = engine_cache(key, onnxruntime=ort.__version__)
        cache.make()
        return [tensorrt_provider(self._bundle.graphs[name].inputs, key, cache, captures=captures)]

    def _check_suppress(self) -> None:
        """Check that the settings of graph 3 match the recipe, which NumPy follows."""
        if "suppress" not in self._bundle.graphs:
            return
        made_for = self._bundle.graph_metadata("suppress").get(SUPPRESS_SETTINGS, "null")
        if json.loads(made_for) != to_json(self._recipe.suppress):
            raise BundleError(
                f"{self._bundle.path}: graph suppress was made for other settings than the recipe's `suppress`; "
                "export the bundle again, or remove the graph from bundle.json"
            )

    def _load_cpu_encoder(self) -> CpuEncoder:
        content = self._bundle.read_graph("encoder")
        graph = self._bundle.graphs["encoder"]
        with self._naming("encoder"):
            return CpuEncoder(
                content,
                threads=self._threads,
                most_clips=most_clips(self._recipe),
                is_bf16=graph.precision == "bf16",
            )

    def _session(self, name: GraphName, providers: list[ProviderWithOptions]) -> ort.InferenceSession:
        content = self._bundle.read_graph(name)
        with self._naming(name):
            session = open_session(content, providers=providers, threads=self._threads)
        best, given = (providers[0] if isinstance(providers[0], str) else providers[0][0]), session.get_providers()
        if best not in given:  # see Note [silent fall-back] in `onnx_session`
            raise DeviceError(f"graph {name} was to run on {best} and got {', '.join(given)} (tallformer doctor)")
        return session

    @contextmanager
    def _naming(self, name: GraphName) -> Iterator[None]:
        """Translate errors of ONNX Runtime to ones that name the bundle and the graph."""
        try:
            yield
        except TallformerError:
            raise
        except Exception as error:
            reason = first_line(error)
            raise BundleError(f"{self._bundle.path}: onnxruntime cannot load graph {name}: {reason}") from error

    def _check_shapes(self) -> None:
        window, sampling = self._recipe.window, self._recipe.sampling
        channels = self._recipe.model.backbone.out_channels
        on_gpu = self._on_gpu and _item_shape(self._on_gpu.session("encoder"), "clips")
        clip = self._on_cpu.clip_shape if self._on_cpu else on_gpu
        expected = {
            "clips": (clip, (window.clip_frames, sampling.crop_px, sampling.crop_px, 3)),
            "features": (_item_shape(self._localizer, "features"), (channels, self._recipe.window_steps)),
        }
        for name, (found, shape) in expected.items():
            if found != shape:
                raise BundleError(
                    f"{self._bundle.path}: input {name!r} is {found and list(found)} per item, "
                    f"the recipe says {list(shape)}"
                )


def _item_shape(session: ort.InferenceSession, name: str) -> tuple[int, ...] | None:
    """Shape of an input without the batch; None if there is no such input."""
    return {item.name: tuple(item.shape[1:]) for item in session.get_inputs()}.get(name)


class HostEncoder(Protocol):
    """Runs graph 1 for clips that are in host memory, from any thread."""

    @property
    def clips_at_once(self) -> int:
        """Number of clips to encode in parallel for the best speed."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Shape (F, H, W, 3) of the clips for the graph."""

    def run(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation
    ) -> NDArray[np.float32]:
        """Encode clips (N, F, H, W, 3) to (N, C, S).

        Raises:
            StoppedError: It was stopped.
        """


class CpuEncoder:
    """Runs graph 1 with ONNX Runtime for several clips at once."""

    def __init__(
        self,
        content: bytes,
        *,
        threads: int | None = None,
        most_clips: int = 8,
        is_bf16: bool = False,
    ) -> None:
        """Load the graph.

        Args:
            content: The graph from a bundle.
            threads: Total threads; None uses one per core that this process may use.
            most_clips: Maximum number of parallel clips, see `most_clips`. With more threads, several share a clip.
            is_bf16: Whether it computes in bfloat16.
        """
        threads = threads or available_cores()
        self.clips_at_once = share_cores(threads, most_clips)
        made = cpu_encoder_graph(content, is_bf16=is_bf16)
        self.session = open_session(
            made or content,
            providers=[CPU],
            threads=threads // self.clips_at_once,
            is_optimised=made is not None,
        )
        self._pool = ThreadPoolExecutor(self.clips_at_once, thread_name_prefix="encode")

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """See `HostEncoder`."""
        return tuple({item.name: item.shape[1:] for item in self.session.get_inputs()}["clips"])

    def run(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation
    ) -> NDArray[np.float32]:
        """Encode clips, see `HostEncoder.run`."""
        options = ort.RunOptions()
        with cancellation.stopping(lambda: setattr(options, "terminate", True)):
            try:
                return self._run(clips, real_frames, options)
            except Exception as error:  # ONNX Runtime's errors have no common base
                if options.terminate:
                    raise StoppedError("stopped before the video was done") from error
                raise

    def _run(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], options: ort.RunOptions
    ) -> NDArray[np.float32]:
        if len(clips) == 1:
            return self._encode(clips, real_frames, options)
        encoded: list[Future[NDArray[np.float32]]] = [
            self._pool.submit(self._encode, clips[row : row + 1], real_frames[row : row + 1], options)
            for row in range(len(clips))
        ]
        wait(encoded)
        return np.concatenate([one.result() for one in encoded])

    def _encode(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], options: ort.RunOptions
    ) -> NDArray[np.float32]:
        (features,) = self.session.run(None, {"clips": clips, "real_frames": real_frames}, options)
        return np.asarray(features, np.float32)
