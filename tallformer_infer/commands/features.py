"""`tallformer features`: extract clip features of videos for other models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tallformer_infer.commands import options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tallformer_infer.bundle import Bundle
    from tallformer_infer.pipeline import Detector, VideoFeatures

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def features(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO", show_default=False, help="Files, folders, patterns such as '*.mp4', http(s) URLs, or -."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", show_default=False, help="Folder, a file per video.")
    ],
    form: Annotated[
        Literal["npy", "npz", "safetensors"],
        typer.Option(
            "--format", "-f", metavar="FORMAT", help="npy: features only. npz and safetensors: features and times_s."
        ),
    ] = "npy",
    model: options.Model = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    hwaccel: options.Hwaccel = "none",
    quiet: options.Quiet = False,
) -> None:
    """Extract clip features of videos, in the form that ActionFormer and OpenTAD read.

    Each file holds an array (T, C), float32: a row per feature step. Beside it,
    VIDEO.json names the times, the model and the video; features.json has the
    settings for a configuration of ActionFormer or OpenTAD. Videos that are done
    are skipped when the command runs again.

    Exit code: 0 all done; 1 a video failed, and the others are written; 2 usage.

    [bold]Examples[/bold]

      tallformer features videos/*.mp4 --out features
      tallformer features match.mp4 --out features --format npz --model my-model
    """
    from tallformer_infer.commands.options import expand_videos, missing_files
    from tallformer_infer.stopping import import_interruptibly, run_interruptibly

    named = expand_videos(videos)
    import_interruptibly("tallformer_infer.pipeline")

    from tallformer_infer.errors import TallformerError
    from tallformer_infer.files import make_folder

    make_folder(out)
    failed = len(missing := missing_files(named))
    for video in missing:
        typer.echo(f"tallformer: error: {video}: no such file", err=True)
    left = [video for video in named if video not in missing]
    if not left:
        raise typer.Exit(1)
    detector = options.DetectorOptions(
        model=model, device=device, precision=precision, threads=threads, hwaccel=hwaccel
    ).load()
    if hwaccel != "none" and not quiet:
        typer.echo(f"tallformer: decoding: {detector.hardware.reason}", err=True)
    for number, video in enumerate(left, start=1):
        target = out / f"{_name_of(video)}.{form}"
        if _is_done(target, video, detector):
            continue
        try:
            found = run_interruptibly(lambda video=video: detector.features(video))  # type: ignore[misc]
            _write(found, target, detector)
        except TallformerError as error:
            failed += 1
            typer.echo(f"tallformer: error: {error}", err=True)
            continue
        if not quiet:
            shape = " × ".join(map(str, found.features.shape))
            typer.echo(f"tallformer: {number} of {len(left)}: {video}: {shape} to {target}", err=True)
    _write_json(_settings(detector.bundle, form), out / "features.json")
    raise typer.Exit(1 if failed else 0)


def _name_of(video: str) -> str:
    return "stdin" if video == "-" else Path(video.partition("?")[0].rstrip("/")).stem


def _is_done(target: Path, video: str, detector: Detector) -> bool:
    """Whether an earlier run wrote these features, of this file as it is now, with this model."""
    import json

    try:
        known = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
        status = Path(video).stat()
        described = (known["bundle_sha256"], known["size_bytes"], known["mtime_ns"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return target.is_file() and described == (detector.bundle.sha256, status.st_size, status.st_mtime_ns)


def _write(found: VideoFeatures, target: Path, detector: Detector) -> None:
    import io

    import numpy as np

    from tallformer_infer import __version__
    from tallformer_infer.results import write_content

    content = io.BytesIO()
    if target.suffix == ".npy":
        np.save(content, found.features)
    elif target.suffix == ".npz":
        np.savez(content, features=found.features, times_s=found.times_s)
    else:
        content.write(_safetensors({"features": found.features, "times_s": found.times_s}))
    write_content(content.getvalue(), target)
    path = Path(found.video.path)
    status = path.stat() if path.is_file() else None
    about = {
        "video": found.video.path,
        "size_bytes": None if status is None else status.st_size,
        "mtime_ns": None if status is None else status.st_mtime_ns,
        "shape": list(found.features.shape),
        "first_time_s": float(found.times_s[0]),
        "step_s": found.stride_frames / found.sample_fps,
        "sample_fps": found.sample_fps,
        "stride_frames": found.stride_frames,
        "frame_count": found.frame_count,
        "duration_s": found.frame_count / found.sample_fps,
        "model": detector.bundle.name,
        "bundle_sha256": detector.bundle.sha256,
        "runtime": detector.runtime.name,
        "tallformer": __version__,
    }
    _write_json(about, target.with_suffix(".json"))


def _settings(bundle: Bundle, form: str) -> dict[str, object]:
    """Settings under the names of the two projects; their frames are those of our sampling, so fps is fixed."""
    recipe = bundle.recipe
    stride, fps = recipe.model.encoder_stride, recipe.sampling.sample_fps
    channels = recipe.model.backbone.out_channels
    return {
        "actionformer": {
            "dataset": {
                "feat_stride": stride,
                "num_frames": stride,
                "default_fps": fps,
                "input_dim": channels,
                "file_ext": f".{form}",
            }
        },
        "opentad": {
            "dataset": {"feature_stride": stride, "sample_stride": 1, "offset_frames": stride // 2, "fps": fps}
        },
    }


def _safetensors(tensors: dict[str, NDArray[Any]]) -> bytes:
    from tallformer_infer.errors import ExtraError

    try:
        from safetensors.numpy import save
    except ModuleNotFoundError as error:
        raise ExtraError("--format safetensors needs safetensors: pip install safetensors") from error
    return bytes(save(tensors))


def _write_json(content: object, path: Path) -> None:
    import json

    from tallformer_infer.results import write_content

    write_content((json.dumps(content, indent=2) + "\n").encode(), path)
