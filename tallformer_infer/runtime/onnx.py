"""ONNX Runtime, on the CPU or on CUDA.

Note [silent fall-back]
    ONNX Runtime lists providers that the machine cannot use, and a session that asked for CUDA and does not get it
    runs on the CPU with nothing but a log line. So every session is asked what it really got.

Note [where suppression runs]
    Graph 3 and `tallformer_infer.nms` give the same actions (one test suite for both). On the CPU the NumPy functions
    are 2.4 to 5 times as fast (`benchmarks/bench_nms`), so they are used there. On CUDA graph 3 is used, up to a
    number of candidates: the node compares all pairs in a bit mask, N * N / 8 bytes, 0.3 GB at that number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, assert_never, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tallformer_infer.bundle import SUPPRESS_SETTINGS, Bundle, GraphName
from tallformer_infer.config import to_json
from tallformer_infer.errors import BundleError, DeviceError, StoppedError
from tallformer_infer.nms import suppress as suppress_in_numpy
from tallformer_infer.runtime.batching import most_clips
from tallformer_infer.runtime.cpu_encoder import CpuEncoder
from tallformer_infer.runtime.localized import candidates_above_threshold
from tallformer_infer.runtime.protocol import Cancellation
from tallformer_infer.runtime.protocol import OnnxDevice as Device
from tallformer_infer.runtime.sessions import CPU, CUDA, open_session
from tallformer_infer.structures import Candidates, Proposals

_MOST_ON_DEVICE = 50_000


class OnnxRuntime:
    """Runs the graphs of one bundle with ONNX Runtime."""

    def __init__(self, bundle: Bundle, *, device: Device = "auto", threads: int | None = None) -> None:
        """Load the graphs.

        Args:
            bundle: Checked on reading.
            device: `auto` takes CUDA where it works, else the CPU; `device_reason` says which and why.
            threads: CPU threads; None takes one per core.

        Raises:
            BundleError: A graph is missing, damaged, or not what the recipe says.
            DeviceError: `device` was asked for and cannot be had.
            ValueError: `device` or `threads` is not one of those.
        """
        if device not in get_args(Device):
            raise ValueError(f"device={device!r}: expected one of {', '.join(get_args(Device))}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: expected at least 1, or None for one per core")
        self._bundle = bundle
        self._recipe = bundle.recipe
        self._threads = threads
        self._device, self._reason = self._choose_device(device)
        self._on_cpu = self._load_cpu_encoder() if self._device == "cpu" else None
        self._encoder = self._on_cpu.session if self._on_cpu else self._load("encoder")
        self._localizer = self._load("localizer")
        self._suppress = self._load_suppress()
        self._check_shapes()

    @property
    def name(self) -> str:
        """Name and version of the library that runs the graphs."""
        return f"onnxruntime {ort.__version__}"

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the graphs run."""
        return self._device

    @property
    def device_reason(self) -> str:
        """Why that device was chosen, for people."""
        return self._reason

    @property
    def clips_at_once(self) -> int:
        """Clips per call of `encode` that suit the device."""
        return self._on_cpu.clips_at_once if self._on_cpu else most_clips(self._recipe)

    def encode(
        self,
        clips: NDArray[np.uint8],
        real_frames: NDArray[np.int64],
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.float32]:
        """Clips to feature steps, see `Runtime.encode`."""
        options = ort.RunOptions()
        with (cancellation or Cancellation()).stopping(lambda: setattr(options, "terminate", True)):
            try:
                if self._on_cpu:
                    return self._on_cpu.run(clips, real_frames, options)
                (features,) = self._encoder.run(None, {"clips": clips, "real_frames": real_frames}, options)
            except Exception as error:
                if options.terminate:
                    raise StoppedError("stopped before the video was done") from error
                raise
        return np.asarray(features, np.float32)

    def localize(
        self,
        features: NDArray[np.float32],
        start_frames: NDArray[np.int64],
        real_frames: NDArray[np.int64],
    ) -> Candidates:
        """Windows of feature steps to candidates, see `Runtime.localize`."""
        inputs = {"features": features, "start_frames": start_frames, "real_frames": real_frames}
        segments, scores, classes = self._localizer.run(["segments", "scores", "classes"], inputs)
        given_by = f"{self._bundle.path}: graph localizer"
        return candidates_above_threshold(segments, scores, classes, recipe=self._recipe, given_by=given_by)

    def propose(
        self,
        features: NDArray[np.float32],
        start_frames: NDArray[np.int64],
        real_frames: NDArray[np.int64],
    ) -> Proposals:
        """One window of feature steps to proposals, see `ProposingRuntime.propose`."""
        names = ["proposal_segments", "proposal_scores", "class_scores"]
        given = [output.name for output in self._localizer.get_outputs()]
        if not set(names) <= set(given):
            raise BundleError(f"{self._bundle.path}: graph localizer gives {', '.join(given)}; export the bundle again")
        inputs = {"features": features, "start_frames": start_frames, "real_frames": real_frames}
        segments, scores, class_scores = self._localizer.run(names, inputs)
        return Proposals(segments[0], scores[0], class_scores[0])

    def suppress(self, candidates: Candidates) -> Candidates:
        """Candidates of a whole video to its actions, see `Runtime.suppress` and Note [where suppression runs]."""
        if self._suppress is None or self._device == "cpu" or len(candidates) > _MOST_ON_DEVICE:
            return suppress_in_numpy(candidates, self._recipe.suppress)
        inputs = {
            "segments": candidates.segments_frames,
            "scores": candidates.scores,
            "classes": candidates.classes,
        }
        segments, scores, classes = self._suppress.run(None, inputs)
        return Candidates(segments, scores, classes)

    def _choose_device(self, wanted: Device) -> tuple[Literal["cpu", "cuda"], str]:
        match wanted:
            case "cpu":
                return "cpu", "as asked"
            case "cuda":
                problem = self._cuda_problem()
                if problem:
                    raise DeviceError(f"device cuda cannot be had: {problem}; use --device cpu or auto")
                return "cuda", "as asked"
            case "auto":
                problem = self._cuda_problem()
                return ("cpu", problem) if problem else ("cuda", "CUDA works here")
            case _:
                assert_never(wanted)

    def _cuda_problem(self) -> str | None:
        """Why CUDA cannot be used, or None; found out with the smallest graph, see Note [silent fall-back]."""
        if CUDA not in ort.get_available_providers():
            return "the installed onnxruntime has no CUDA provider (tallformer doctor)"
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        try:
            session = self._session("localizer", [CUDA, CPU])
        except BundleError as error:
            return str(error)
        if CUDA not in session.get_providers():
            return "onnxruntime has a CUDA provider, but no CUDA device or driver answers"
        return None

    def _load(self, name: GraphName) -> ort.InferenceSession:
        providers = [CUDA, CPU] if self._device == "cuda" else [CPU]
        session = self._session(name, providers)
        if session.get_providers()[0] != providers[0]:
            raise DeviceError(f"{self._bundle.path}: graph {name} was not placed on {self._device}")
        return session

    def _load_suppress(self) -> ort.InferenceSession | None:
        """Graph 3, which must say what the recipe says: the CPU follows the recipe, CUDA the graph."""
        if "suppress" not in self._bundle.graphs:
            return None
        session = self._load("suppress")
        made_for = session.get_modelmeta().custom_metadata_map.get(SUPPRESS_SETTINGS, "null")
        if json.loads(made_for) != to_json(self._recipe.suppress):
            raise BundleError(
                f"{self._bundle.path}: graph suppress was made for other settings than the recipe's `suppress`; "
                "export the bundle again, or remove the graph from bundle.json"
            )
        return session

    def _load_cpu_encoder(self) -> CpuEncoder:
        content = self._bundle.read_graph("encoder")
        graph = self._bundle.graphs["encoder"]
        with self._naming("encoder"):
            return CpuEncoder(
                content,
                threads=self._threads,
                most_clips=most_clips(self._recipe),
                sha256=graph.sha256,
                is_bf16=graph.precision == "bf16",
            )

    def _session(self, name: GraphName, providers: list[str]) -> ort.InferenceSession:
        content = self._bundle.read_graph(name)
        with self._naming(name):
            return open_session(content, providers=providers, threads=self._threads)

    @contextmanager
    def _naming(self, name: GraphName) -> Iterator[None]:
        """What ONNX Runtime refuses is an error that names the bundle and the graph."""
        try:
            yield
        except DeviceError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"{self._bundle.path}: onnxruntime cannot load graph {name}: {reason}") from error

    def _check_shapes(self) -> None:
        window, sampling = self._recipe.window, self._recipe.sampling
        channels = self._recipe.model.backbone.out_channels
        expected: list[tuple[Any, str, list[int]]] = [
            (self._encoder, "clips", [window.clip_frames, sampling.crop_px, sampling.crop_px, 3]),
            (self._localizer, "features", [channels, self._recipe.window_steps]),
        ]
        for session, name, shape in expected:
            found = {item.name: list(item.shape[1:]) for item in session.get_inputs()}.get(name)
            if found != shape:
                raise BundleError(f"{self._bundle.path}: input {name!r} is {found} per item, the recipe says {shape}")
