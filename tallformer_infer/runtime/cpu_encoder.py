"""The encoder on the CPU: one clip per core, each on a thread of its own.

Note [one clip per thread]
    Threads that share a clip wait for each other after every operator, and there are thousands of small ones. A clip
    per thread gave 1.11 to 1.2 times the clips per second of two threads for one clip (Swin-T at 224 px, float32 and
    int8). It needs several clips at a time, so a video of a single clip takes longer.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tallformer_infer.devices import available_cores, share_cores
from tallformer_infer.errors import StoppedError
from tallformer_infer.runtime.cpu_graph import cpu_encoder_graph
from tallformer_infer.runtime.protocol import Cancellation
from tallformer_infer.runtime.providers import CPU
from tallformer_infer.runtime.sessions import open_session


class HostEncoder(Protocol):
    """Runs graph 1 for clips that are in host memory, from any thread."""

    @property
    def clips_at_once(self) -> int:
        """Clips that it encodes best at the same time."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Shape (F, H, W, 3) of the clips that the graph takes."""

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
        sha256: str | None = None,
        is_bf16: bool = False,
    ) -> None:
        """Load the graph.

        Args:
            content: The graph as a bundle has it.
            threads: Threads in all; None takes one per core that this process may use.
            most_clips: At once, see `batching`. With more threads than that, several share a clip.
            sha256: Hash of the graph, where it is known already.
            is_bf16: Whether it computes in bfloat16.
        """
        threads = threads or available_cores()
        self.clips_at_once = share_cores(threads, most_clips)
        made = cpu_encoder_graph(content, sha256=sha256, is_bf16=is_bf16)
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
