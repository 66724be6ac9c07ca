"""What a bundle from someone else may hold: everything else is refused with a line that names the file."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tallformer_infer import cli
from tallformer_infer.bundle import DESCRIPTION, GRAPHS, load_bundle
from tallformer_infer.errors import BundleError
from tallformer_infer.runtime import OnnxRuntime
from tests.graph_samples import WEIGHTS, in_initializer, outside, serialised, with_node
from tests.small_bundle import write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle whose description has its own hash."""
    folder = write_bundle(tmp_path / "small")
    describe(folder)
    return folder


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same as one file."""
    folder = write_bundle(tmp_path_factory.mktemp("zipped") / "small")
    describe(folder)
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path.read_bytes()


def describe(folder: Path) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(load_bundle(folder).description.as_json(), indent=1))


def put(bundle: Path, name: str, content: bytes) -> Path:
    """Put a graph into a bundle, with its right hash."""
    description = json.loads((bundle / DESCRIPTION).read_text())
    del description["description_sha256"]
    description["graphs"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle / description["graphs"][name]["file"]).write_bytes(content)
    (bundle / DESCRIPTION).write_text(json.dumps(description))
    describe(bundle)
    return bundle


def everything(path: Path) -> tuple[object, ...]:
    loaded = load_bundle(path)
    return loaded.description, *(loaded.read_graph(name) for name in GRAPHS if name in loaded.graphs)


def refusal_of(path: Path) -> str | None:
    """The line with which a bundle is refused; None if it is not."""
    try:
        everything(path)
    except BundleError as error:
        return str(error)
    return None


# Damage


def test_what_is_whole_is_read(bundle: Path, zipped: bytes, tmp_path: Path) -> None:
    (tmp_path / "small.zip").write_bytes(zipped)

    assert everything(tmp_path / "small.zip") == everything(bundle)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), file=st.sampled_from(["encoder", "bundle"]))
def test_a_flipped_byte_is_refused_and_the_file_named(bundle: Path, place: float, flip: int, file: str) -> None:
    path = bundle / (DESCRIPTION if file == "bundle" else "encoder.onnx")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= flip
    path.write_bytes(damaged)

    message = refusal_of(bundle)
    path.write_bytes(whole)
    if message is None:
        assert path.name == DESCRIPTION
        assert json.loads(damaged) == json.loads(whole)  # a space that became another one
    else:
        assert message.startswith(f"{bundle}: ")
        assert path.name in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new"),
    [('"wave"', '"wavf"'), ("123.675", "123.575"), ('"sample_fps": 15.0', '"sample_fps": 16.0'), ("CC0", "CC1")],
)
def test_a_changed_value_is_refused_until_the_hash_is_taken_away(bundle: Path, old: str, new: str) -> None:
    text = (bundle / DESCRIPTION).read_text()
    assert old in text
    (bundle / DESCRIPTION).write_text(text.replace(old, new))

    with pytest.raises(BundleError, match=r"small: bundle\.json was changed or damaged: .* remove description_sha256"):
        load_bundle(bundle)

    description = json.loads((bundle / DESCRIPTION).read_text())
    del description["description_sha256"]
    (bundle / DESCRIPTION).write_text(json.dumps(description))
    assert load_bundle(bundle).name == "small"


def test_a_description_may_be_laid_out_anew(bundle: Path) -> None:
    before = load_bundle(bundle).description
    text = json.dumps(json.loads((bundle / DESCRIPTION).read_text()), sort_keys=True, separators=(",", ":"))
    (bundle / DESCRIPTION).write_text(text)

    assert load_bundle(bundle).description == before


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_of_a_zip_changes_nothing_or_is_refused(
    zipped: bytes, tmp_path: Path, place: float, flip: int
) -> None:
    damaged = bytearray(zipped)
    damaged[int(place * len(zipped))] ^= flip
    whole, path = tmp_path / "whole.zip", tmp_path / "damaged.zip"
    whole.write_bytes(zipped)
    path.write_bytes(damaged)

    message = refusal_of(path)
    if message is None:
        assert everything(path) == everything(whole)
    else:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message


@pytest.mark.parametrize("file", [DESCRIPTION, "encoder.onnx", "localizer.onnx"])
def test_a_missing_file_is_named(bundle: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / file).unlink()
    video = bundle.parent / "any.mp4"  # never opened
    video.touch()

    assert cli.run(["detect", str(video), "--model", str(bundle), "--device", "cpu"]) == 1
    assert f"tallformer: error: {bundle}: bundle has no {file}" in capsys.readouterr().err


def test_a_newer_schema_is_refused_and_the_file_named(bundle: Path) -> None:
    description = json.loads((bundle / DESCRIPTION).read_text())
    (bundle / DESCRIPTION).write_text(json.dumps({**description, "schema_version": 2, "wheels": 4}))

    with pytest.raises(BundleError, match=r"schema version 2, .* reads 1: bundle\.json is of another tallformer; upd"):
        load_bundle(bundle)


# Graphs that hold what they must not


@pytest.mark.parametrize("location", ["../secret", "weights.bin"])
def test_a_file_that_a_graph_names_is_never_read(
    bundle: Path, location: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bundle)  # where ONNX Runtime would look, for a graph that it gets as bytes
    secret = bundle / location
    secret.write_bytes(WEIGHTS.tobytes())
    put(bundle, "encoder", serialised(in_initializer(outside(location))))
    before = forget_reading(secret)

    with pytest.raises(BundleError, match=rf"small: encoder\.onnx keeps weights in another file \('{location}'\)"):
        OnnxRuntime(load_bundle(bundle), device="cpu")
    (bundle / "any.mp4").touch()  # never opened
    assert cli.run(["detect", "any.mp4", "--model", str(bundle), "--device", "cpu"]) == 1
    assert "encoder.onnx keeps weights in another file" in capsys.readouterr().err

    assert secret.stat().st_atime_ns == before
    secret.read_bytes()
    if secret.stat().st_atime_ns == before:
        pytest.skip("this file system does not keep when a file was read")


def forget_reading(path: Path) -> int:
    """Set back when a file was last read, so that the next reading shows."""
    os.utime(path, ns=(10**9, path.stat().st_mtime_ns))
    return path.stat().st_atime_ns


def test_an_operator_that_is_not_listed_is_refused_and_the_file_named(bundle: Path) -> None:
    put(bundle, "localizer", serialised(with_node("EPContext", domain="com.microsoft")))

    with pytest.raises(BundleError, match=r"small: localizer\.onnx has an operator of 'com\.microsoft'"):
        OnnxRuntime(load_bundle(bundle), device="cpu")


def test_a_graph_that_is_no_onnx_file_is_refused_and_the_file_named(bundle: Path) -> None:
    put(bundle, "encoder", b"not an onnx file at all")

    with pytest.raises(BundleError, match=r"small: encoder\.onnx is not an ONNX file"):
        OnnxRuntime(load_bundle(bundle), device="cpu")


# Sizes


def test_a_zip_that_unpacks_to_more_than_it_may_is_read_no_further(tmp_path: Path) -> None:
    """A gigabyte of blanks in a megabyte."""
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(DESCRIPTION, "w", force_zip64=True) as member,
    ):
        for _ in range(1024):
            member.write(b" " * 2**20)
    tracemalloc.start()

    why = refusal_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert why == f"{path}: {DESCRIPTION} is larger than 16,777,216 bytes, which is the most that it may have"
    assert peak < 100 * 2**20


def test_a_graph_larger_than_the_description_says_is_read_no_further(bundle: Path) -> None:
    description = json.loads((bundle / DESCRIPTION).read_text())
    del description["description_sha256"]
    size = (bundle / "encoder.onnx").stat().st_size
    description["graphs"]["encoder"]["size_bytes"] = size - 1
    (bundle / DESCRIPTION).write_text(json.dumps(description))

    assert str(refusal_of(bundle)).endswith(
        f"encoder.onnx is larger than {size - 1:,} bytes, which is the most that it may have"
    )

    description["graphs"]["encoder"]["size_bytes"] = size
    (bundle / DESCRIPTION).write_text(json.dumps(description))
    assert refusal_of(bundle) is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_files_of_one_name_is_refused(zipped: bytes, tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    path.write_bytes(zipped)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("encoder.onnx", b"another")

    assert "it has two files named encoder.onnx" in str(refusal_of(path))


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_packed_by_a_method_that_may_take_gigabytes_is_refused(
    packing: int, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)

    assert f"{DESCRIPTION} is packed by another method than Deflate" in str(refusal_of(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("special", ["pipe", "device", "folder"])
def test_a_file_that_is_none_is_not_read(special: str, bundle: Path) -> None:
    """A pipe would wait for ever, and /dev/zero has no end."""
    file = bundle / "encoder.onnx"
    file.unlink()
    match special:
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case _:
            file.mkdir()

    assert str(refusal_of(bundle)).endswith("encoder.onnx is not a regular file")


def test_a_graph_that_asks_for_a_terabyte_is_refused_before_it_is_loaded(bundle: Path) -> None:
    model = onnx.load(bundle / "encoder.onnx")
    (output,) = model.graph.output
    sizes = numpy_helper.from_array(np.array([2**38]), "sizes")
    model.graph.initializer.append(sizes)
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["sizes"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", [output.name, "sum"], ["features_and_sum"]),
        ]
    )
    output.name = "features_and_sum"
    put(bundle, "encoder", model.SerializeToString())

    with pytest.raises(BundleError, match=r"encoder.onnx asks for 1,099.5 GB; the shapes in bundle.json allow"):
        OnnxRuntime(load_bundle(bundle), device="cpu")


def test_a_graph_whose_declared_input_is_damaged_is_refused(bundle: Path) -> None:
    """Found by fuzzing: the walk over operators does not enter declared inputs, the one that fills in sizes does."""
    damaged_input = b"\x5a\x01\x0f"  # field 11 of a graph, one byte: a key of a kind that protocol buffers lack
    content = (bundle / "encoder.onnx").read_bytes() + b"\x3a" + bytes([len(damaged_input)]) + damaged_input

    assert refusal_of(put(bundle, "encoder", content)) == f"{bundle}: encoder.onnx: is not an ONNX file"
