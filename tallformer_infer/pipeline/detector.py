"""The detector: a bundle on a device, pointed at videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tallformer_infer import __version__
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.media import FrameStream, open_video
from tallformer_infer.pipeline.hashing import FileHash
from tallformer_infer.pipeline.operating import at_point, choose_point
from tallformer_infer.pipeline.pool import CandidatePool
from tallformer_infer.pipeline.progress import OnProgress
from tallformer_infer.pipeline.settling import split_settled
from tallformer_infer.pipeline.video_run import VideoRun
from tallformer_infer.results import check_selection, select_actions
from tallformer_infer.runtime import Device, Runtime, load_runtime
from tallformer_infer.structures import Action, Provenance, Result, Windows


class Detector:
    """Finds actions in videos with one model on one device. Not for several threads at once."""

    def __init__(self, bundle: Bundle, runtime: Runtime, *, threads: int | None = None) -> None:
        self.bundle = bundle
        """The model."""
        self.runtime = runtime
        """What runs it."""
        self._threads = threads

    @staticmethod
    def load(
        bundle: str | Path | Bundle | None = None, *, device: Device = "auto", threads: int | None = None
    ) -> Detector:
        """Load a model.

        Args:
            bundle: A folder, a .zip, the name of a bundled model, or a loaded bundle; None is the default model.
            device: `auto` takes CUDA where it works, else the CPU; `tensorrt` runs engines that were built before.
            threads: Threads of the model and of the video codec, each; None takes one per core.

        Raises:
            BundleError: The bundle is missing, damaged or of another version.
            DeviceError: The device was asked for and cannot be had.
            EngineError: There is no TensorRT engine for this GPU, or one is damaged.
            ValueError: `device` or `threads` is not one of those.
        """
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        return Detector(loaded, load_runtime(loaded, device=device, threads=threads), threads=threads)

    @property
    def device(self) -> str:
        """Where the model runs: `cpu` or `cuda`."""
        return self.runtime.device

    def detect(
        self,
        video: str | Path,
        *,
        windows: Windows = "shared",
        threshold: float | None = None,
        top_k: int | None = None,
        classes: Sequence[str] | None = None,
        operating_point: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Find the actions of a video.

        Args:
            video: A file, `-` for standard input, or an http(s) address.
            windows: `shared` encodes every clip once; `reference` lays windows as the official code does.
            threshold: Least score of an action, in [0, 1]; None keeps all that the recipe, or the point, keeps.
            top_k: Most actions, best first; None keeps all.
            classes: Names of actions to keep; None keeps all.
            operating_point: One that the model was calibrated for, with scores that say how likely an action is right;
                `all` for every action with such scores; `none` for every action with the model's own. None takes the
                model's default (of a model that was never calibrated: `none`), or `all` if there is a threshold.
            on_progress: Called after every clip.

        Returns:
            The actions, sorted by start, and how they were found.

        Raises:
            MediaError: The video cannot be opened, or nothing in it can be decoded.
            ConfigError: A class or point is unknown to the model, or a threshold out of range.
        """
        check_selection(threshold=threshold, top_k=top_k, classes=classes, known=self.bundle.recipe.classes)
        point = choose_point(self.bundle, operating_point, threshold=threshold)
        run = VideoRun(self.bundle.recipe, self.runtime, windows, on_progress)
        sha256 = FileHash(video)
        with self._open(video) as stream, closing(run.windows(stream)) as laid:
            pool = CandidatePool(self.bundle.recipe.candidates.per_video)
            for window in laid:
                pool.add(run.localize(window))
            actions = at_point(run.suppress(pool.all(), stream.info.start_s), self.bundle, point)
            sample_fps = self.bundle.recipe.sampling.sample_fps
            return Result(
                video=stream.info,
                actions=select_actions(actions, threshold=threshold, top_k=top_k, classes=classes),
                sample_fps=sample_fps,
                frame_count=stream.frame_count,
                duration_s=stream.frame_count / sample_fps,
                decode_errors=stream.decode_errors,
                video_sha256=sha256.wait(),
                timings=run.timings(stream.decode_s),
                provenance=self._provenance(windows),
                missing_s=stream.missing_s,
            )

    def stream(
        self,
        video: str | Path,
        *,
        windows: Windows = "shared",
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
        operating_point: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Iterator[Action]:
        """Find the actions of a video and yield each as soon as no later window can change it.

        The actions are those of `detect`, but for the recipe's limits per video, of actions and of candidates: they
        cannot be known before the end, and are applied to what becomes final together. An action is final, at the
        earliest, when the window that holds it is; it waits as long as a chain of overlapping candidates goes on.

        Args, Raises: As `detect`.
        """
        check_selection(threshold=threshold, classes=classes, known=self.bundle.recipe.classes)
        point = choose_point(self.bundle, operating_point, threshold=threshold)
        run = VideoRun(self.bundle.recipe, self.runtime, windows, on_progress)
        pool = CandidatePool(self.bundle.recipe.candidates.per_video)
        with self._open(video) as stream, closing(run.windows(stream)) as laid:
            start_s = stream.info.start_s
            for window in laid:
                pool.add(run.localize(window))
                settled, waiting = split_settled(pool.all(), window.start_frame + run.step_frames)
                pool.replace(waiting)
                actions = at_point(run.suppress(settled, start_s), self.bundle, point)
                yield from select_actions(actions, threshold=threshold, classes=classes)
            actions = at_point(run.suppress(pool.all(), start_s), self.bundle, point)
            yield from select_actions(actions, threshold=threshold, classes=classes)

    def _open(self, video: str | Path) -> FrameStream:
        return open_video(video, self.bundle.recipe.sampling, threads=self._threads)

    def _provenance(self, windows: Windows) -> Provenance:
        return Provenance(
            tool_version=__version__,
            model_name=self.bundle.name,
            model_trained=self.bundle.trained,
            bundle_sha256=self.bundle.sha256,
            recipe_name=self.bundle.recipe.name,
            runtime=self.runtime.name,
            device=self.runtime.device,
            precision=self.bundle.graphs["encoder"].precision,
            windows=windows,
        )
