"""What ONNX Runtime's GPU providers are told, and what is said where they cannot be had. Running them: test_gpu."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from tallformer_infer import cli
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.errors import DeviceError, OutputError
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime.onnx_session import (
    NOT_CAPTURED,
    TENSORRT,
    capture_id,
    engine_cache,
    failure_of_cuda,
    tensorrt_provider,
)
from tallformer_infer.runtime.tensorrt.keys import BatchProfile, EngineKey, Library, engine_key

FULL = Library("tensorrt", "10.13.3.9", None)
BATCH = BatchProfile(least=1, best=8, most=8)
needs_no_tensorrt = pytest.mark.skipif(
    TENSORRT in ort.get_available_providers(), reason="this onnxruntime has a TensorRT provider"
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def key(bundle: Bundle) -> EngineKey:
    return engine_key(bundle, "encoder", FULL, target="sm90", batch=BATCH)


def options_of(bundle: Bundle, key: EngineKey, folder: Path, *, captures: bool = True) -> dict[str, str]:
    cache = engine_cache(key, onnxruntime="1.31.1", folder=folder)
    provider = tensorrt_provider(bundle.graphs[key.graph].inputs, key, cache, captures=captures)
    assert isinstance(provider, tuple)
    assert provider[0] == TENSORRT
    return provider[1]


@pytest.mark.parametrize(("rows", "wanted"), [(8, 8), (7, NOT_CAPTURED), (1, NOT_CAPTURED)])
def test_only_full_batches_are_captured(rows: int, wanted: int) -> None:
    assert capture_id(rows, 8) == wanted


def test_recording_is_numbered_by_its_batch_and_never_0_which_is_not_for_users() -> None:
    assert [capture_id(most, most) for most in (1, 4, 8)] == [1, 4, 8]


def test_tensorrt_is_told_where_to_keep_what_it_makes(bundle: Bundle, key: EngineKey, tmp_path: Path) -> None:
    options = options_of(bundle, key, tmp_path)

    engines = tmp_path / f"{key.stem}_onnxruntime-1.31.1" / bundle.graphs["encoder"].sha256
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    assert options["trt_engine_cache_path"] == str(engines)
    assert engines.parent.name.startswith(
        f"encoder_{bundle.graphs['encoder'].sha256[:12]}_32x64x64x3_fp32_sm90_b1.8.8_tensorrt-10.13.3.9_"
    )
    timings = Path(options["trt_timing_cache_path"])
    assert timings.name == f"timing_sm90_tensorrt-10.13.3.9_onnxruntime-1.31.1_{key.platform}"


def test_tensorrt_builds_for_every_batch_that_comes(bundle: Bundle, key: EngineKey, tmp_path: Path) -> None:
    options = options_of(bundle, key, tmp_path)
    window = dataclasses.replace(key, graph="localizer", batch=BatchProfile(least=1, best=1, most=1))

    assert options["trt_profile_min_shapes"] == "clips:1x32x64x64x3,real_frames:1"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "clips:8x32x64x64x3,real_frames:8"
    assert options_of(bundle, window, tmp_path)["trt_profile_max_shapes"] == (
        "features:1x128x256,start_frames:1,real_frames:1"
    )


@pytest.mark.parametrize(
    ("precision", "allowed"),
    [("fp32", set()), ("fp16", {"fp16"}), ("bf16", {"bf16"}), ("int8-static", {"int8"}), ("int8", set())],
)
def test_tensorrt_may_compute_in_what_the_graph_says(
    bundle: Bundle, key: EngineKey, tmp_path: Path, precision: str, allowed: set[str]
) -> None:
    options = options_of(bundle, dataclasses.replace(key, precision=precision), tmp_path)

    assert {kind for kind in ("fp16", "bf16", "int8") if options.get(f"trt_{kind}_enable") == "True"} == allowed


def test_options_of_tensorrt_are_those_that_onnxruntime_reads(bundle: Bundle, key: EngineKey, tmp_path: Path) -> None:
    """Its parser takes `True` and `False` and no other word for a switch; names are from onnxruntime-gpu 1.31.1."""
    options = options_of(bundle, dataclasses.replace(key, precision="fp16"), tmp_path, captures=False)

    switches = {name: value for name, value in options.items() if name.endswith("_enable")}
    assert set(switches.values()) == {"True", "False"}
    assert set(switches) == {f"trt_{what}_enable" for what in ("engine_cache", "timing_cache", "fp16", "cuda_graph")}
    assert switches["trt_cuda_graph_enable"] == "False"


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "0" * 64},
        {"graph_sha256": f"{load_bundle().graphs['encoder'].sha256[:12]:0<64}"},
        {"input_sizes": "32x96x96x3"},
        {"precision": "fp16"},
        {"target": "sm89"},
        {"library_version": "10.14.1"},
        {"batch": BatchProfile(least=1, best=4, most=4)},
        {"platform": "linux-aarch64"},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_engines_of_another_graph_machine_or_version_are_elsewhere(key: EngineKey, change: dict[str, object]) -> None:
    other = dataclasses.replace(key, **change)  # type: ignore[arg-type]

    assert engine_cache(other, onnxruntime="1.31.1").engines != engine_cache(key, onnxruntime="1.31.1").engines


def test_engines_of_another_onnxruntime_are_elsewhere(key: EngineKey) -> None:
    one, other = (engine_cache(key, onnxruntime=version) for version in ("1.31.1", "1.32.0"))

    assert one.engines != other.engines
    assert one.timings != other.timings


def test_what_was_timed_serves_all_graphs_of_a_gpu(key: EngineKey) -> None:
    other = dataclasses.replace(key, graph_sha256="0" * 64, precision="fp16")

    one, two = (engine_cache(one, onnxruntime="1.31.1").timings for one in (key, other))

    assert one == two
    assert one != engine_cache(dataclasses.replace(key, target="sm89"), onnxruntime="1.31.1").timings


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_engines_are_kept_where_only_the_user_can_write(key: EngineKey, tmp_path: Path) -> None:
    cache = engine_cache(key, onnxruntime="1.31.1", folder=tmp_path / "a" / "b")

    cache.make()
    cache.make()

    for folder in (cache.engines, cache.timings):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_cache_that_cannot_be_written_is_named(key: EngineKey, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputError, match=r"file/encoder_.*: cannot be created: Not a directory"):
        engine_cache(key, onnxruntime="1.31.1", folder=tmp_path / "file").make()


def test_of_a_failure_of_cuda_what_cuda_said_is_told() -> None:
    """A message of onnxruntime-gpu 1.31.1, which CUDA refused for want of a real driver."""
    said = (
        "demo: onnxruntime cannot load graph localizer: /src/cuda_call.cc:154 onnxruntime::CudaCall(ERRTYPE, int) "
        "[with ERRTYPE = cudaError; bool THRW = true] CUDA failure 36: API call is not supported in the installed CUDA "
        "driver ; GPU=-1 ; hostname=a ; file=/src/cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(0);"
    )

    told = "onnxruntime cannot use CUDA: CUDA failure 36: API call is not supported in the installed CUDA driver"
    assert failure_of_cuda(said) == told
    assert failure_of_cuda("demo: graph localizer is damaged") == "demo: graph localizer is damaged"


@needs_no_tensorrt
def test_without_the_provider_the_device_is_refused() -> None:
    with pytest.raises(
        DeviceError, match=r"device onnx-tensorrt is not available .*onnxruntime has no TensorRT provider$"
    ):
        Detector.load(device="onnx-tensorrt")


@needs_no_tensorrt
def test_detect_says_so_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["detect", os.fspath(root / "docs/example/example.mp4"), "--device", "onnx-tensorrt"])

    assert code == 1
    assert capsys.readouterr() == (
        "",
        "tallformer: error: device onnx-tensorrt is not available (--device auto uses what is): the installed "
        "onnxruntime has no TensorRT provider\n",
    )


@needs_no_tensorrt
@pytest.mark.parametrize(("device", "is_said"), [("onnx-tensorrt", True), ("cpu", False)])
def test_that_engines_may_be_built_is_said_before(
    root: Path, capsys: pytest.CaptureFixture[str], device: str, is_said: bool
) -> None:
    cli.run(["detect", os.fspath(root / "pyproject.toml"), "--device", device, "--json-logs"])

    first = json.loads(capsys.readouterr().err.splitlines()[0])
    assert first["event"] == "loading"
    assert ("which may take minutes" in first["message"]) is is_said
