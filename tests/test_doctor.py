"""`tallformer doctor`: the questions are asked for real, of this machine and of libraries that crash."""

from __future__ import annotations

import _ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import av
import onnxruntime as ort
import pytest
from rich.console import Console

from tallformer_infer.commands.doctor import _device_values, diagnosis_document, table_lines
from tallformer_infer.diagnosis import Diagnosis, diagnose
from tallformer_infer.diagnosis.findings import ask_driver
from tallformer_infer.diagnosis.probes import INPUTS, SIDE, ask, smallest_graph
from tallformer_infer.installing import install_command
from tallformer_infer.media.hardware import offered_kinds
from tallformer_infer.runtime import Device
from tests.driver_stub import has_driver, path_without


def run_doctor(*arguments: str, path: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tallformer_infer.cli import run; "
        "code = run(sys.argv[2:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    command = [sys.executable, "-P", "-c", program, json.dumps(path or sys.path), "doctor", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    return diagnose(_device_values())


@pytest.fixture(scope="module")
def without_onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("path") / "site"
    return run_doctor("--json", path=path_without(folder, "onnxruntime", "torch", "onnx", "onnxscript"))


def test_cpu_works_here(here: Diagnosis) -> None:
    verdicts = {device.value: device for device in here.devices}

    assert verdicts["cpu"].works
    assert verdicts["cpu"].runs_on == "cpu"
    assert verdicts["cpu"].commands == ()
    assert here.can_detect


def test_every_value_that_detect_takes_is_tried_and_no_other(here: Diagnosis) -> None:
    assert [device.value for device in here.devices] == list(get_args(Device))


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver here")
def test_without_a_driver_cuda_is_told_not_to_work_and_auto_takes_the_cpu(here: Diagnosis) -> None:
    verdicts = {device.value: device for device in here.devices}

    assert here.driver.gpus == ()
    assert verdicts["cuda"].text.startswith("no NVIDIA driver: libcuda.so.1: ")
    assert not verdicts["cuda"].works
    for value in ("tensorrt", "onnx-tensorrt"):
        assert (verdicts[value].works, verdicts[value].text) == (False, verdicts["cuda"].text)
    assert verdicts["auto"].runs_on == "cpu"


@pytest.mark.gpu
def test_with_a_gpu_cuda_works(here: Diagnosis) -> None:
    verdicts = {device.value: device for device in here.devices}

    assert here.driver.version
    assert here.driver.gpus
    assert {provider.name: provider.works for provider in here.providers}["CUDA"]
    assert verdicts["cuda"].works
    assert verdicts["auto"].runs_on == "cuda"


@pytest.mark.gpu
def test_with_a_gpu_and_tensorrt_onnxruntime_runs_an_engine(here: Diagnosis) -> None:
    verdicts = {device.value: device for device in here.devices}

    if not {provider.name: provider.works for provider in here.providers}["TensorRT"]:
        if os.environ.get("REQUIRE_GPU") == "1" and find_spec("tensorrt") is not None:
            pytest.fail(verdicts["onnx-tensorrt"].text)
        pytest.skip(verdicts["onnx-tensorrt"].text)
    assert verdicts["onnx-tensorrt"].runs_on == "cuda"


def test_providers_are_those_of_the_installed_onnxruntime(here: Diagnosis) -> None:
    providers = {provider.name: provider for provider in here.providers}
    built = ort.get_available_providers()

    assert here.onnxruntime == ort.__version__
    assert providers["CPU"].works
    for name, full in (("CUDA", "CUDAExecutionProvider"), ("TensorRT", "TensorrtExecutionProvider")):
        assert providers[name].is_built_in == (full in built)
        assert bool(providers[name].works) == (providers[name].problem is None)


def test_libraries_for_engines_are_those_that_are_installed(here: Diagnosis) -> None:
    libraries = {library.name: library for library in here.engine_libraries}

    assert list(libraries) == ["tensorrt", "tensorrt_rtx", "cuda-bindings"]
    for name, package in (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx"), ("cuda-bindings",) * 2):
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            assert (libraries[name].version, libraries[name].problem) == (None, "not installed")
        else:
            assert (libraries[name].version, libraries[name].problem) == (installed, None)
    assert "sm90" not in libraries["tensorrt_rtx"].builds_for


def test_ffmpeg_is_that_of_pyav_and_a_hardware_decoder_opens_or_says_why_not(here: Diagnosis) -> None:
    assert here.decoding.libraries == {
        name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())
    }
    assert {kind.name for kind in here.decoding.hardware if kind.is_usable} == set(offered_kinds())
    for kind in here.decoding.hardware:
        assert (kind.opens is None) == (kind.codecs == ())
        assert (kind.opens is False) == (kind.problem is not None)


def test_hardware_decoders_are_shown_with_the_option_that_takes_them(here: Diagnosis) -> None:
    shown = "\n".join(line.plain for line in table_lines(here, Console(width=300)))

    for kind in here.decoding.hardware:
        if kind.opens is not None:
            rest = f"--hwaccel {kind.name}" if kind.is_usable else "built in, and not used by tallformer"
            assert re.search(rf"^ +{kind.name} +[✓-] .*{rest}", shown, re.MULTILINE)


def test_missing_onnxruntime_is_told_with_the_line_that_installs_it(
    without_onnxruntime: subprocess.CompletedProcess[str],
) -> None:
    document = json.loads(without_onnxruntime.stdout)

    assert without_onnxruntime.returncode == 1
    assert not document["can_detect"]
    for device in document["devices"]:
        assert (device["works"], device["text"]) == (False, "onnxruntime is not installed")
        assert device["commands"] == [install_command("cpu")]
    parts = {part["name"]: part for part in document["parts"]}
    assert parts["cpu"]["remark"] == "onnx, onnxruntime missing"
    assert parts["train"]["commands"] == [install_command("train")]
    assert parts["base"]["is_complete"]


def test_missing_pyav_is_told_with_the_line_that_installs_it(tmp_path: Path) -> None:
    found = diagnose(["cpu"], path=path_without(tmp_path / "site", "av"))

    assert found.decoding.problem == "ModuleNotFoundError: No module named 'av'"
    assert (found.devices[0].text, found.devices[0].commands) == (
        "av is not installed",
        (install_command("cpu"),),
    )


def test_nothing_heavy_is_loaded_into_the_command_itself(
    without_onnxruntime: subprocess.CompletedProcess[str],
) -> None:
    loaded = set(without_onnxruntime.stderr.split())

    assert "tallformer_infer.diagnosis.findings" in loaded
    assert not loaded & {"torch", "av", "onnxruntime", "numpy"}


def test_library_that_crashes_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os\n__version__ = '0'\nSessionOptions = InferenceSession = lambda *_, **__: os.abort()\n"
        "def get_available_providers():\n    return ['CUDAExecutionProvider', 'CPUExecutionProvider']\n"
    )
    found = diagnose(["cpu"], path=[str(tmp_path), *sys.path])

    providers = {provider.name: provider.problem for provider in found.providers}
    assert providers["CPU"] == providers["CUDA"] == "crashed (SIGABRT)"
    assert providers["TensorRT"] == "not in this build of onnxruntime"
    assert (found.devices[0].works, found.devices[0].text) == (False, "crashed (SIGABRT)")
    assert found.decoding.ffmpeg


def test_json_has_the_same_names_everywhere(here: Diagnosis) -> None:
    document = json.loads(json.dumps(diagnosis_document(here)))

    assert document["schema_version"] == "1.2"
    names = {
        "packages": "name version parts bounds is_within_bounds build",
        "parts": "name is_complete remark commands",
        "providers": "name is_built_in works problem missing_library",
        "engine_libraries": "name version problem builds_for",
        "devices": "value works runs_on text commands",
    }
    assert " ".join(document) == (
        "schema_version can_detect python platform version machine packages parts driver onnxruntime providers "
        "engine_libraries decoding breakages devices"
    )
    for key, expected in names.items():
        assert document[key]
        assert {" ".join(item) for item in document[key]} == {expected}
    assert set(document["driver"]) == {"version", "gpus", "problem"}
    assert set(document["decoding"]) == {"ffmpeg", "libraries", "hardware", "problem"}
    assert set(document["machine"]) == {
        "processor",
        "processor_features",
        "cores",
        "core_limit",
        "memory_bytes",
        "free_memory_bytes",
        "folders",
    }


def test_table_fits_80_columns_and_has_a_row_per_device() -> None:
    done = run_doctor()
    lines = done.stdout.splitlines()

    assert done.returncode == 0
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    assert re.search(r"^--device +auto +[✓✗] ", done.stdout, re.MULTILINE)
    assert re.search(r"^ +cpu +✓ runs on cpu$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +cuda +[✓✗] ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_text_is_lost_in_any_width(here: Diagnosis, width: int) -> None:
    def words(width: int) -> str:
        return "".join("".join(line.plain.split()) for line in table_lines(here, Console(width=width)))

    assert words(width) == words(1000)


@pytest.mark.parametrize(
    ("module", "function", "arguments", "problem"),
    [
        ("os", "abort", (), "crashed (SIGABRT)"),
        ("sys", "exit", ("gone",), "ended with exit code 1 and no answer: gone"),
        ("os", "listdir", ("/nowhere",), "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'"),
        ("tallformer_infer", "nothing", (), "AttributeError: module 'tallformer_infer' has no attribute 'nothing'"),
    ],
)
def test_question_without_an_answer_says_why(module: str, function: str, arguments: tuple[str], problem: str) -> None:
    answer = ask(module, function, *arguments)

    assert (answer.facts, answer.problem) == (None, problem)


def test_question_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import threading\ndef wait():\n    threading.Event().wait()\n")

    assert ask("slow", "wait", path=[str(tmp_path), *sys.path], timeout_s=1).problem == "gave no answer within 1 s"


def test_what_a_library_prints_is_kept_out_of_the_answer(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os\ndef shout(word):\n    os.write(1, b'{}')\n    print('no')\n    return {'word': word}\n"
    )
    answer = ask("loud", "shout", "hush", path=[str(tmp_path), *sys.path])

    assert answer.facts == {"word": "hush"}
    assert "{}" in answer.log


def test_driver_that_is_not_there_and_a_library_that_is_no_driver_are_told_apart() -> None:
    assert str(ask_driver(library="libcuda-nowhere.so.1").problem).startswith("no NVIDIA driver: libcuda-nowhere.so.1")
    assert str(ask_driver(library=_ctypes.__file__).problem).startswith(
        "the NVIDIA driver cannot be asked: AttributeError: "
    )


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("code", [0, 100])
def test_driver_is_called_as_its_interface_says(tmp_path: Path, code: int) -> None:
    """A library with the functions of the CUDA Driver API, as there is no other way without a GPU."""
    source, library = tmp_path / "driver.c", tmp_path / "libdriver.so"
    source.write_text(
        f"""#include <stddef.h>
        #include <string.h>
        int cuDriverGetVersion(int *version) {{ *version = 12040; return 0; }}
        int cuInit(unsigned int flags) {{ return {code}; }}
        int cuGetErrorName(int code, const char **name) {{ *name = "CUDA_ERROR_NO_DEVICE"; return 0; }}
        int cuDeviceGetCount(int *count) {{ *count = 2; return 0; }}
        int cuDeviceGet(int *device, int ordinal) {{ *device = ordinal + 7; return 0; }}
        int cuDeviceGetName(char *name, int length, int device) {{ strncpy(name, "A", length); return device < 7; }}
        int cuDeviceTotalMem_v2(size_t *bytes, int device) {{ *bytes = (size_t)device << 33; return 0; }}
        int cuDeviceGetAttribute(int *value, int attribute, int device) {{ *value = attribute - 70; return 0; }}
        """
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    driver = ask_driver(library=str(library))

    assert driver.version == "12.4"
    if code:
        assert str(driver.problem).startswith("the NVIDIA driver gives CUDA_ERROR_NO_DEVICE")
        return
    assert driver.problem is None
    assert [(gpu.name, gpu.compute_capability) for gpu in driver.gpus] == [("A", "5.6")] * 2
    assert [gpu.memory_bytes for gpu in driver.gpus] == [7 << 33, 8 << 33]


def test_smallest_graph_is_an_onnx_model() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(smallest_graph())

    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Relu"]
    assert [value.name for value in model.graph.input] == list(INPUTS)
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [SIDE, SIDE]
