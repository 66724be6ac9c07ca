"""Fuzz what reads other people's files, with atheris: `python -m tests.fuzz TARGET [--minutes M] [--work DIR]`.

Targets: labels, bundle, manifest, checkpoint, media. Starts from real files of each kind (generated here; `media` also
takes `../shared/videos` where it is there), and mutates them. A target may refuse its input with a `TallformerError`
of one readable message; another exception, a hang of 20 s or 3 GB of memory is a finding, which atheris writes to the
work folder. Findings become tests. Not part of the test suite; needs `pip install atheris`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HANG_S, MEMORY_MB = 20, 3000
LONGEST_MESSAGE = 20_000

Target = Callable[[bytes, Path], None]


def labels(content: bytes, folder: Path) -> None:
    """Every format of labels, by its ending."""
    from tallformer_infer.labels.formats import read_label_file  # noqa: PLC0415 (instrumented)

    if not content:
        return
    suffix = LABEL_SUFFIXES[content[0] % len(LABEL_SUFFIXES)]
    path = folder / f"labels{suffix}"
    path.write_bytes(content[1:])
    read_label_file(path)


def bundle(content: bytes, folder: Path) -> None:
    """A bundle as a .zip."""
    from tallformer_infer.bundle import load_bundle  # noqa: PLC0415

    path = folder / "bundle.zip"
    path.write_bytes(content)
    load_bundle(path)


def manifest(content: bytes, folder: Path) -> None:
    """A list of videos."""
    from tallformer_infer.archive.sources import read_manifest  # noqa: PLC0415

    path = folder / ("list.csv", "list.txt", "list.jsonl")[content[0] % 3 if content else 0]
    path.write_bytes(content[1:])
    read_manifest(path)


def checkpoint(content: bytes, folder: Path) -> None:
    """A checkpoint of somebody else."""
    from tallformer_training.importing.reading import read_tensors  # noqa: PLC0415

    path = folder / ("weights.pth", "weights.safetensors", "weights.ckpt")[content[0] % 3 if content else 0]
    path.write_bytes(content[1:])
    read_tensors(path)


def media(content: bytes, folder: Path) -> None:
    """A video, decoded to its end or for 200 frames."""
    from tallformer_infer.config import SamplingConfig  # noqa: PLC0415
    from tallformer_infer.media import open_video  # noqa: PLC0415

    path = folder / "video"
    path.write_bytes(content)
    with open_video(path, SamplingConfig(), threads=1) as stream:
        for number, _ in enumerate(stream):
            if number == 200:
                break


TARGETS: dict[str, Target] = {each.__name__: each for each in (labels, bundle, manifest, checkpoint, media)}
LABEL_SUFFIXES = (".json", ".csv", ".tsv", ".jsonl", ".srt", ".vtt", ".eaf", ".boris", ".txt", ".boris.gz")


def _import(target: str) -> None:
    """Load what a target uses, so that it is instrumented."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
        TARGETS[target](b"\0\0", Path(folder))


def seeds(target: str, folder: Path) -> None:
    """Write what mutations start from."""
    files: list[tuple[int, Path]] = []
    if target == "labels":
        cases = ROOT.parent / "shared" / "golden" / "eval"
        files += [(0, path) for path in (*(ROOT / "docs" / "example").glob("*.json"), *cases.glob("*.json"))]
        files += _label_samples(folder)
    elif target == "bundle":
        files.append((-1, _zipped(ROOT / "tallformer_infer" / "bundles" / "anet-demo", folder)))
    elif target == "manifest":
        for index, text in enumerate(("path\na.mp4\nb.mp4\n", "a.mp4\n# note\nb.mp4\n", '{"path": "a.mp4"}\n')):
            (folder / f"seed{index}").write_bytes(bytes([index]) + text.encode())
    elif target == "checkpoint":
        files += _checkpoints(folder)
    else:
        shared = ROOT.parent / "shared" / "videos"
        files += [(-1, path) for path in shared.glob("*") if path.suffix != ".md" and path.stat().st_size < 400_000]
        files.append((-1, ROOT / "docs" / "example" / "example.mp4"))
    for number, (index, path) in enumerate(files):
        head = b"" if index < 0 else bytes([index])
        (folder / f"seed-{number}").write_bytes(head + path.read_bytes())


def _label_samples(folder: Path) -> list[tuple[int, Path]]:
    from tallformer_infer.labels.formats import FORMATS, encode_labels  # noqa: PLC0415
    from tallformer_infer.labels.segments import LabelledVideo, Segment  # noqa: PLC0415

    segments = (Segment(start_s=1.5, end_s=3.25, label="wave", score=0.5),)
    video = LabelledVideo(name="a.mp4", segments=segments, duration_s=10.0, fps=25.0)
    made = []
    for form, details in FORMATS.items():
        if details.suffix not in LABEL_SUFFIXES:
            continue
        path = folder.parent / f"sample-{form}"
        path.write_bytes(encode_labels([video], form))
        made.append((LABEL_SUFFIXES.index(details.suffix), path))
    return made


def _zipped(bundle_folder: Path, folder: Path) -> Path:
    import zipfile  # noqa: PLC0415

    path = folder.parent / "bundle-seed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(bundle_folder.iterdir()):
            if file.is_file() and file.stat().st_size < 300_000:
                archive.write(file, file.name)
    return path


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    state = {"backbone.norm.weight": torch.ones(4), "head.bias": torch.zeros(2, 3)}
    pickled, plain = folder.parent / "seed.pth", folder.parent / "seed.safetensors"
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, pickled)
    save_file(state, plain)
    return [(0, pickled), (1, plain), (2, pickled)]


def main() -> None:
    """Fuzz one target for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    import atheris  # noqa: PLC0415

    with atheris.instrument_imports(include=["tallformer_infer", "tallformer_training"]):
        from tallformer_infer.errors import TallformerError  # noqa: PLC0415

        _import(options.target)
    work = options.work or Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus, scratch = work / "corpus", work / "scratch"
    for folder in (corpus, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    seeds(options.target, corpus)
    target = TARGETS[options.target]

    def once(content: bytes) -> None:
        try:
            target(content, scratch)
        except TallformerError as error:
            if not 0 < len(str(error)) < LONGEST_MESSAGE:
                raise ValueError(f"a message of {len(str(error))} characters") from error

    arguments = [
        sys.argv[0],
        f"-max_total_time={round(60 * options.minutes)}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={work}/finding-",
        "-max_len=500000",
        str(corpus),
    ]
    atheris.Setup(arguments, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
