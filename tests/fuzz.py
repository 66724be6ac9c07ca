"""Fuzz what reads other people's files, with atheris: `python -m tests.fuzz TARGET [--minutes M] [--work DIR]`.

Targets: labels, bundle, manifest, checkpoint, media. Starts from real files of each kind (generated here; `media` also
takes `../shared/videos` where it is there), and mutates them. A target may refuse its input with a `TallformerError`
of one readable message; another exception, a hang of 20 s or 3 GB of memory is a finding, which atheris writes to the
work folder. Findings become tests. Not part of the test suite; needs `pip install atheris`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

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
    """A bundle: a whole .zip, or one whose description or encoder is mutated and whose hashes are right again."""
    from tallformer_infer.bundle import load_bundle  # noqa: PLC0415

    path = folder / "bundle.zip"
    kind, rest = content[0] % 3 if content else 0, content[1:]
    if kind == 0:
        path.write_bytes(rest)
    else:
        parts = _small_bundle()
        parts[("bundle.json", "encoder.onnx")[kind - 1]] = rest
        path.write_bytes(_zipped(parts if kind == 1 else _rehashed(parts)))
    opened = load_bundle(path)
    for name in opened.graphs:
        opened.read_graph(name)  # type: ignore[arg-type]  # a name that the description passed


@functools.cache
def _small_files() -> dict[str, bytes]:
    from tests.small_bundle import write_bundle  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        made = write_bundle(Path(folder) / "small")
        return {file.name: file.read_bytes() for file in sorted(made.iterdir())}


def _small_bundle() -> dict[str, bytes]:
    return dict(_small_files())


def _rehashed(parts: dict[str, bytes]) -> dict[str, bytes]:
    """With the description that fits the encoder, as an attacker would write it."""
    description = json.loads(parts["bundle.json"])
    description["graphs"]["encoder"]["sha256"] = hashlib.sha256(parts["encoder.onnx"]).hexdigest()
    description.pop("description_sha256", None)
    return {**parts, "bundle.json": json.dumps(description).encode()}


def _zipped(parts: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return packed.getvalue()


def manifest(content: bytes, folder: Path) -> None:
    """A list of videos, and whether its addresses may be read; no name is resolved."""
    from tallformer_infer.archive.sources import read_manifest  # noqa: PLC0415
    from tallformer_infer.errors import MediaError  # noqa: PLC0415
    from tallformer_infer.media import web  # noqa: PLC0415

    path = folder / ("list.csv", "list.txt", "list.jsonl")[content[0] % 3 if content else 0]
    path.write_bytes(content[1:])
    for entry in read_manifest(path):
        if web.is_address(entry):
            with contextlib.suppress(MediaError), mock.patch("socket.getaddrinfo", side_effect=OSError("not here")):
                web.check_protocol(entry)
                web.check_foreign(entry)


def checkpoint(content: bytes, folder: Path) -> None:
    """A checkpoint of somebody else: files as they are, and pickles inside archives whose checksums are right."""
    from tallformer_training.importing.reading import read_tensors  # noqa: PLC0415

    kind, rest = content[0] % 4 if content else 0, content[1:]
    path = folder / ("weights.pth", "weights.safetensors", "weights.ckpt", "weights.pt")[kind]
    path.write_bytes(_repickled(rest) if kind == 3 else rest)
    for tensor in read_tensors(path).tensors.values():
        repr(tensor.shape)


@functools.cache
def _saved_state() -> bytes:
    import torch  # noqa: PLC0415

    state = {"backbone.norm.weight": torch.ones(4), "head.bias": torch.zeros(2, 3)}
    packed = io.BytesIO()
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, packed)
    return packed.getvalue()


def _repickled(pickled: bytes) -> bytes:
    """A file of `torch.save` with another pickle in it, its checksums right, as an attacker would write it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved_state())) as made, zipfile.ZipFile(packed, "w") as archive:
        for name in made.namelist():
            archive.writestr(name, pickled if name.endswith("/data.pkl") else made.read(name))
    return packed.getvalue()


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
_CSV_LIST = 'path,note\na.mp4,x\n"b, c.mp4",y\nhttps://example.org:8443/d.mp4?x=1,z\n'
_TEXT_LIST = "a.mp4\n# note\ns3://bucket/b.mp4\nhttp://[::1]/c.mp4\nzip://*.mp4::file:///d.zip\n"
_JSON_LIST = '{"path": "a.mp4"}\n{"video": "gs://bucket/b.mp4"}\n"c.mp4"\n'
_BORIS_EVENTS = (
    "Observation id,Observation type,Source,Time offset (s),Media duration (s),Subject,Behavior,Behavior type,Time\n"
    "one,Media file(s),player #1:a.mp4;b.mp4|player #2:c.mp4,100,10.000;10.000|9.0,,wave,START,108.5\n"
    "one,Media file(s),player #1:a.mp4;b.mp4|player #2:c.mp4,100,10.000;10.000|9.0,,wave,STOP,111.25\n"
)
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
        parts = _small_bundle()
        for kind, content in enumerate((_zipped(parts), parts["bundle.json"], parts["encoder.onnx"])):
            (folder / f"seed{kind}").write_bytes(bytes([kind]) + content)
    elif target == "manifest":
        for index, text in enumerate((_CSV_LIST, _TEXT_LIST, _JSON_LIST)):
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
    from tallformer_infer.labels.formats import FORMATS, WRITABLE, encode_labels  # noqa: PLC0415
    from tallformer_infer.labels.segments import LabelledVideo, Segment  # noqa: PLC0415

    segments = (Segment(start_s=1.5, end_s=3.25, label="wave", score=0.5),)
    video = LabelledVideo(name="a.mp4", segments=segments, duration_s=10.0, fps=25.0)
    made = [(LABEL_SUFFIXES.index(".csv"), folder.parent / "sample-events")]
    made[0][1].write_text(_BORIS_EVENTS)
    for form in WRITABLE:
        details = FORMATS[form]
        if details.suffix not in LABEL_SUFFIXES:
            continue
        path = folder.parent / f"sample-{form}"
        path.write_bytes(encode_labels([video], form))
        made.append((LABEL_SUFFIXES.index(details.suffix), path))
    return made


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    saved, plain, arrays, inner = (folder.parent / f"seed.{end}" for end in ("pth", "safetensors", "ckpt", "pkl"))
    saved.write_bytes(_saved_state())
    save_file({"backbone.norm.weight": torch.ones(4), "head.bias": torch.zeros(2, 3)}, plain)
    tree = {"inception_i3d/logits": {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float16)}}
    arrays.write_bytes(pickle.dumps(tree, protocol=4))
    with zipfile.ZipFile(saved) as archive:
        inner.write_bytes(next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")))
    return [(0, saved), (1, plain), (2, saved), (2, arrays), (3, inner)]


def main() -> None:
    """Fuzz one target for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument(
        "--hang", type=float, default=HANG_S, help="seconds after which an input hangs; more on a busy machine"
    )
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
        f"-timeout={round(options.hang)}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={work}/finding-",
        "-max_len=500000",
        "-len_control=0",
        str(corpus),
    ]
    atheris.Setup(arguments, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
