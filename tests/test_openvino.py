"""OpenVINO as a runtime: the numbers, stops, threads and files of ONNX Runtime, faster where it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tallformer_infer import cli
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.devices import allowed_cores
from tallformer_infer.errors import DeviceError, ExtraError, StoppedError
from tallformer_infer.installing import install_command
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Cancellation, OnnxRuntime, OpenVinoRuntime, load_runtime, openvino
from tallformer_infer.runtime.onnx_session import CPU, open_session
from tallformer_infer.runtime.openvino import OpenVinoEncoder, has_bf16
from tests.small_bundle import write_bundle

pytest.importorskip("openvino", reason="needs the extra openvino")

FP32, BF16 = 1e-5, 5e-2
"""Largest difference of a feature from ONNX Runtime's in float32, as a part of the largest feature."""
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def onnx_runtime(bundle: Bundle) -> OnnxRuntime:
    return OnnxRuntime(bundle, device="cpu")


@pytest.fixture(scope="module")
def runtime(bundle: Bundle) -> OpenVinoRuntime:
    return OpenVinoRuntime(bundle, precision="fp32", threads=2)


def clips_of(bundle: Bundle, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    side, frames = bundle.recipe.sampling.crop_px, bundle.recipe.window.clip_frames
    random = np.random.default_rng(count)
    clips = random.integers(0, 256, (count, frames, side, side, 3), dtype=np.uint8)
    return clips, random.integers(0, frames + 1, count)


def difference(there: NDArray[np.float32], here: NDArray[np.float32]) -> float:
    assert there.shape == here.shape
    assert there.dtype == here.dtype == np.float32
    return float(np.abs(there - here).max() / np.abs(here).max())


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) * 1024


def slow_graph(products: int = 400, side: int = 1024) -> bytes:
    """Clips of 2 frames of 1 x 1 pixel, and so many large products that a clip takes seconds."""
    weights = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32) / 32
    nodes = [
        helper.make_node("Cast", ["clips"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["brightness"], axes=[1, 2, 3, 4], keepdims=0),
        helper.make_node("Add", ["w", "brightness"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{at}", "w"], [f"m{at + 1}"]) for at in range(products)),
        helper.make_node("Unsqueeze", [f"m{products}", "first"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [
            helper.make_tensor_value_info("clips", TensorProto.UINT8, ["n", 2, 1, 1, 3]),
            helper.make_tensor_value_info("real_frames", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, side, side])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([0]), "first")],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


# Numbers


@pytest.mark.parametrize("count", [1, 2, 5])
def test_features_equal_those_of_onnx_runtime(
    bundle: Bundle, runtime: OpenVinoRuntime, onnx_runtime: OnnxRuntime, count: int
) -> None:
    clips = clips_of(bundle, count)

    assert difference(runtime.encode(*clips), onnx_runtime.encode(*clips)) < FP32


@needs_bf16
def test_bfloat16_is_near_and_is_not_float32(bundle: Bundle, onnx_runtime: OnnxRuntime) -> None:
    reduced = OpenVinoRuntime(bundle, precision="bf16")
    clips = clips_of(bundle, 2)

    assert reduced.precision == "bf16"
    assert FP32 < difference(reduced.encode(*clips), onnx_runtime.encode(*clips)) < BF16


@pytest.mark.skipif(has_bf16(), reason="this processor has bfloat16")
def test_bfloat16_is_refused_where_there_is_none(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="--precision bf16: CPU has no bfloat16"):
        OpenVinoRuntime(bundle, precision="bf16")


def test_a_graph_that_does_not_look_at_the_length_of_a_clip_runs(tmp_path: Path) -> None:
    """OpenVINO takes an input that nothing uses out of the graph."""
    bundle = load_bundle(write_bundle(tmp_path / "small"))
    clips = clips_of(bundle, 2)

    found = OpenVinoRuntime(bundle).encode(*clips)

    np.testing.assert_allclose(found, OnnxRuntime(bundle, device="cpu").encode(*clips), rtol=1e-6)


def test_a_video_gives_the_actions_of_onnx_runtime(bundle: Bundle, root: Path) -> None:
    example = root / "docs/example/example.mp4"

    there = Detector.load(bundle, device="openvino", precision="fp32").detect(example, threshold=0.3)
    here = Detector.load(bundle, device="cpu").detect(example, threshold=0.3)

    assert there.provenance.runtime.startswith("openvino 20")
    assert (there.provenance.device, there.provenance.precision) == ("cpu", "fp32")
    assert [action.label for action in there.actions] == [action.label for action in here.actions]
    for one, other in zip(there.actions, here.actions, strict=True):
        assert (one.start_s, one.end_s, one.score) == pytest.approx((other.start_s, other.end_s, other.score), abs=1e-4)


@needs_bf16
def test_result_says_that_it_was_computed_in_bfloat16(bundle: Bundle, root: Path) -> None:
    result = Detector.load(bundle, device="openvino", precision="bf16").detect(root / "docs/example/example.mp4")

    assert json.loads(result.to_json())["precision"] == "bf16"


def stored_in_float16(bundle: Bundle) -> tuple[bytes, bytes]:
    """The encoder with weights in float16 and a Cast behind each, and the same with these weights in float32."""
    stored = onnx.load_model_from_string(bundle.read_graph("encoder"))
    whole = onnx.load_model_from_string(bundle.read_graph("encoder"))
    large = [item for item in stored.graph.initializer if item.data_type == TensorProto.FLOAT and len(item.dims) == 2]
    assert len(large) > 5
    for weights in large:
        half = numpy_helper.to_array(weights).astype(np.float16)
        stored.graph.node.insert(0, helper.make_node("Cast", [f"{weights.name}_half"], [weights.name], to=1))
        stored.graph.initializer.append(numpy_helper.from_array(half, f"{weights.name}_half"))
        stored.graph.initializer.remove(weights)
        next(item for item in whole.graph.initializer if item.name == weights.name).CopyFrom(
            numpy_helper.from_array(half.astype(np.float32), weights.name)
        )
    return stored.SerializeToString(), whole.SerializeToString()


def test_weights_stored_in_float16_are_widened_when_openvino_loads_a_graph(bundle: Bundle, tmp_path: Path) -> None:
    """As bundles of pretrained weights have them: half the size, and the same nodes when it runs."""
    clips = clips_of(bundle, 1)
    encoders = [OpenVinoEncoder(content, folder=tmp_path) for content in stored_in_float16(bundle)]

    stored, whole = (encoder.run(*clips, Cancellation()) for encoder in encoders)
    kinds = [
        sorted(str(node.get_rt_info()["layerType"].astype(str)) for node in encoder.runtime_model().get_ordered_ops())
        for encoder in encoders
    ]

    np.testing.assert_array_equal(stored, whole)
    assert kinds[0] == kinds[1]


def test_weights_stored_in_float16_are_widened_when_onnx_runtime_loads_a_graph(bundle: Bundle, tmp_path: Path) -> None:
    clips, real_frames = clips_of(bundle, 1)
    found, casts = [], []
    for name, content in zip(("stored", "whole"), stored_in_float16(bundle), strict=True):
        session = open_session(content, providers=[CPU], save_as=tmp_path / name)
        found.append(session.run(None, {"clips": clips, "real_frames": real_frames})[0])
        casts.append([node.op_type for node in onnx.load(tmp_path / name).graph.node].count("Cast"))

    np.testing.assert_array_equal(found[0], found[1])
    assert casts[0] == casts[1]


# Stops and threads


def test_a_clip_is_stopped_within_a_second(tmp_path: Path) -> None:
    encoder = OpenVinoEncoder(slow_graph(), threads=1, folder=tmp_path)
    clips = np.zeros((1, 2, 1, 1, 3), np.uint8), np.array([2])
    cancellation = Cancellation()
    ends: list[float] = []

    def encode() -> None:
        with pytest.raises(StoppedError):
            encoder.run(*clips, cancellation)
        ends.append(time.monotonic())

    thread = threading.Thread(target=encode)
    thread.start()
    time.sleep(0.5)
    assert not ends
    stopped = time.monotonic()
    cancellation.cancel()
    thread.join()

    assert ends[0] - stopped < 1


def test_run_that_is_stopped_leaves_the_runtime_usable(bundle: Bundle, runtime: OpenVinoRuntime) -> None:
    clips = clips_of(bundle, 3)
    expected = runtime.encode(*clips)
    cancellation = Cancellation()
    cancellation.cancel()

    for _ in range(4):  # more often than there are requests
        with pytest.raises(StoppedError):
            runtime.encode(*clips, cancellation)

    np.testing.assert_array_equal(runtime.encode(*clips), expected)


def test_calls_from_two_threads_give_what_they_give_alone(bundle: Bundle, runtime: OpenVinoRuntime) -> None:
    clips, real = clips_of(bundle, 12)
    alone = [runtime.encode(clips[row : row + 1], real[row : row + 1]) for row in range(12)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: runtime.encode(clips[row : row + 1], real[row : row + 1]), range(12)))

    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize(("threads", "most", "streams"), [(1, 8, 1), (2, 8, 2), (3, 1, 1)])
def test_each_clip_has_its_threads_and_none_is_pinned(
    bundle: Bundle, tmp_path: Path, threads: int, most: int, streams: int
) -> None:
    encoder = OpenVinoEncoder(bundle.read_graph("encoder"), threads=threads, most_clips=most, folder=tmp_path)

    assert encoder.clips_at_once == streams
    told = {name: encoder.told(name) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING")}
    most_threads = min(threads, allowed_cores())  # OpenVINO takes no more
    assert told == {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": most_threads, "ENABLE_CPU_PINNING": False}


def test_a_quota_of_a_container_decides_the_threads(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "available_cores", lambda: 1)

    assert OpenVinoRuntime(bundle, precision="fp32").clips_at_once == 1


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_memory_does_not_grow_with_clips(bundle: Bundle, runtime: OpenVinoRuntime) -> None:
    clips = clips_of(bundle, 8)
    for _ in range(3):
        runtime.encode(*clips)
    before = resident_bytes()

    for _ in range(30):
        runtime.encode(*clips)

    assert resident_bytes() - before < 20 * 2**20


# Compiled models


def test_a_compiled_model_is_kept_and_gives_the_same(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, clips = bundle.read_graph("encoder"), clips_of(bundle, 1)
    compiled = OpenVinoEncoder(content, folder=tmp_path).run(*clips, Cancellation())
    (file,) = tmp_path.glob("*.blob")

    monkeypatch.setattr(openvino, "_read", lambda *_: pytest.fail("compiled again"))
    imported = OpenVinoEncoder(content, folder=tmp_path).run(*clips, Cancellation())

    np.testing.assert_array_equal(imported, compiled)
    assert list(tmp_path.glob("*.blob")) == [file]


def test_a_kept_model_that_was_changed_is_compiled_again(bundle: Bundle, tmp_path: Path) -> None:
    content, clips = bundle.read_graph("encoder"), clips_of(bundle, 1)
    expected = OpenVinoEncoder(content, folder=tmp_path).run(*clips, Cancellation())
    (file,) = tmp_path.glob("*.blob")
    file.write_bytes(file.read_bytes()[:-1000])

    found = OpenVinoEncoder(content, folder=tmp_path).run(*clips, Cancellation())

    np.testing.assert_array_equal(found, expected)
    assert len(list(tmp_path.glob("*.blob"))) == 1


@pytest.mark.parametrize("other", ["precision", "threads", "graph", "processor", "version"])
def test_a_model_that_was_compiled_for_something_else_is_not_taken(
    bundle: Bundle, tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bundle.read_graph("encoder")
    OpenVinoEncoder(content, threads=1, folder=tmp_path)
    threads, precision = 1, "fp32"
    match other:
        case "precision" if has_bf16():
            precision = "bf16"
        case "threads" | "precision":
            threads = 2
        case "graph":
            model = onnx.load_from_string(content)
            model.doc_string = "another"
            content = model.SerializeToString()
        case "processor":
            monkeypatch.setattr(openvino, "processor_name", lambda: "another")
        case _:
            monkeypatch.setattr(openvino, "openvino_version", lambda: "1.0")

    OpenVinoEncoder(content, threads=threads, precision=precision, folder=tmp_path)  # type: ignore[arg-type]

    assert len(list(tmp_path.glob("*.blob"))) == 2


def test_a_cache_that_cannot_be_written_changes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    OpenVinoEncoder(bundle.read_graph("encoder"), folder=tmp_path / "file" / "models")


# What is not available


@pytest.mark.parametrize("device", ["openvino:GPU", "openvino:NPU"])
def test_device_that_openvino_does_not_find_is_named(bundle: Bundle, device: str) -> None:
    target = device.partition(":")[2]
    if target in openvino._core().available_devices:
        pytest.skip(f"there is a {target} here")

    with pytest.raises(
        DeviceError, match=rf"^device {device} is not available: OpenVINO finds CPU here; use --device auto$"
    ):
        load_runtime(bundle, device=device)  # type: ignore[arg-type]


def test_missing_openvino_is_answered_with_the_line_to_install_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(openvino, "import_without_telemetry", missing)

    with pytest.raises(ExtraError, match=re.escape(f"openvino is not installed: {install_command('openvino')}")):
        load_runtime(bundle, device="openvino")


def test_openvino_that_cannot_be_imported_without_a_message_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise ImportError

    monkeypatch.setattr(openvino, "import_without_telemetry", broken)

    with pytest.raises(DeviceError, match=r"openvino cannot be imported: ImportError$"):
        load_runtime(bundle, device="openvino")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(bundle: Bundle, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads={threads}: expected at least 1"):
        OpenVinoRuntime(bundle, threads=threads)


# Commands


def test_label_runs_workers_on_openvino(tmp_path: Path, root: Path) -> None:
    out = tmp_path / "labels"
    options = ["--device", "openvino", "--workers", "2", "--out", str(out), "--quiet"]

    assert cli.run(["label", str(root / "docs/example/example.mp4"), *options]) == 0

    (written,) = [file for file in out.rglob("*.json") if "example" in file.name]
    document = json.loads(written.read_text())
    assert document["runtime"].startswith("openvino 20")
    assert document["precision"] == "fp32"
    assert document["videos"]


def test_precision_that_a_device_does_not_take_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", str(root / "docs/example/example.mp4"), "--out", str(tmp_path / "a.json"), "--device", "cpu"]

    assert cli.run([*command, "--precision", "bf16"]) == 1

    said = capsys.readouterr().err
    assert "--precision bf16: device cpu computes in the bundle's precision, fp32; use --device openvino" in said


def test_threads_that_use_it_first_at_the_same_time_do_not_wait_for_each_other() -> None:
    """Without the call in `_core` this hangs in nearly every run, and no thread of the program goes on."""
    program = """
import os, sys, threading
from tallformer_infer.runtime import openvino
openvino._core()
import openvino as library
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
def use():
    barrier.wait()
    library.Type.u8.to_dtype()
threads = [threading.Thread(target=use) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
