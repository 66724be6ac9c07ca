"""What `tallformer doctor` concludes from what is installed: folders of metadata, as pip writes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tallformer_infer.diagnosis.findings import (
    Breakage,
    CudaDriver,
    DeviceVerdict,
    Evidence,
    Gpu,
    Provider,
    find_breakages,
    judge_device,
    judge_parts,
)
from tallformer_infer.diagnosis.machine import find_packages, library_major, look_at_machine
from tallformer_infer.diagnosis.probes import Answer
from tallformer_infer.installing import install_command

REQUIRES = (
    "numpy>=1.26",
    "onnxruntime>=1.22; extra == 'cpu'",
    "onnxruntime-gpu[cuda,cudnn]>=1.28; extra == 'gpu'",
    "onnxruntime-gpu[cuda,cudnn]>=1.28; extra == 'tensorrt'",
    "tensorrt-cu13<11,>=10.13.3; extra == 'tensorrt'",
    "torch>=2.13.0; extra == 'train'",
    "pytest>=8; extra == 'dev'",
    "tensorrt-rtx>=1.7; (sys_platform != 'darwin') and extra == 'trt-ci'",
)
GPU = Gpu(name="NVIDIA H200", compute_capability="9.0", memory_bytes=150 << 30)
NO_DRIVER = CudaDriver(version=None, gpus=(), problem="no NVIDIA driver: libcuda.so.1")
DRIVER = CudaDriver(version="13.0", gpus=(GPU,), problem=None)
REFUSED = Answer(problem="device cuda is not available", error="DeviceError")
INSTALL_GPU = install_command("gpu")


def install(folder: Path, **versions: str) -> list[str]:
    """Metadata of packages in a folder, and of this project; returns the path to look in."""
    for name, version in {"tallformer": "0.1.0", "numpy": "2.4.6", **versions}.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in REQUIRES] if name == "tallformer" else []
        (info / "METADATA").write_text("\n".join(lines) + "\n")
    return [str(folder)]


def evidence(path: list[str], *, driver: CudaDriver = DRIVER, tensorrt: int | None = None) -> Evidence:
    """What is known where CUDA cannot be loaded for want of a library."""
    problem, library = "libcudnn.so.9 is missing", "libcudnn.so.9"
    cuda = Provider(name="CUDA", is_built_in=True, works=False, problem=problem, missing_library=library)
    return Evidence(
        packages=find_packages(path), driver=driver, providers=(cuda,), links_cuda=13, links_tensorrt=tensorrt
    )


def parts_of(path: list[str]) -> dict[str, tuple[bool, str, tuple[str, ...]]]:
    return {part.name: (part.is_complete, part.remark, part.commands) for part in judge_parts(find_packages(path))}


def verdict_on_cuda(known: Evidence, answer: Answer = REFUSED) -> tuple[str, tuple[str, ...]]:
    verdict: DeviceVerdict = judge_device("cuda", answer, known)
    assert not verdict.works
    return verdict.text, verdict.commands


def test_both_builds_of_onnxruntime_are_told_to_overwrite_each_other(tmp_path: Path) -> None:
    known = evidence(install(tmp_path, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1"))

    text = "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed, and overwrite each other"
    commands = ("pip uninstall -y onnxruntime onnxruntime-gpu", INSTALL_GPU)
    assert find_breakages(known) == (Breakage(text=text, commands=commands),)
    assert verdict_on_cuda(known) == (text, commands)


def test_parts_that_are_complete_or_missing_are_told_with_their_lines(tmp_path: Path) -> None:
    parts = parts_of(install(tmp_path, onnxruntime="1.32.0"))

    assert parts == {
        "base": (True, "", ()),
        "cpu": (True, "", ()),
        "gpu": (False, "onnxruntime-gpu missing", ("pip uninstall -y onnxruntime", INSTALL_GPU)),
        "tensorrt": (
            False,
            "onnxruntime-gpu, tensorrt-cu13 missing",
            ("pip uninstall -y onnxruntime", install_command("tensorrt")),
        ),
        "train": (False, "torch missing", (install_command("train"),)),
    }


def test_onnxruntime_for_the_gpu_stands_in_for_the_one_for_the_cpu(tmp_path: Path) -> None:
    parts = parts_of(install(tmp_path, onnxruntime_gpu="1.31.1"))

    assert parts["cpu"] == (True, "onnxruntime-gpu does its work", ())
    assert parts["gpu"] == (True, "", ())


def test_version_out_of_bounds_is_told(tmp_path: Path) -> None:
    parts = parts_of(install(tmp_path, onnxruntime="1.21.9"))

    assert parts["cpu"] == (False, "onnxruntime 1.21.9 is not >=1.22", (install_command("cpu"),))


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("10.13.2", False),
        ("10.13.3", True),
        ("10.16.1.11", True),
        ("10.14", True),
        ("11", False),
        ("11.0.0", False),
        ("11.4.0.106", False),
    ],
)
def test_versions_are_compared_by_number(tmp_path: Path, version: str, fits: bool) -> None:
    packages = find_packages(install(tmp_path, tensorrt_cu13=version))

    assert {package.name: package.is_within_bounds for package in packages}["tensorrt-cu13"] is fits


@pytest.mark.parametrize(("version", "fits"), [("2.12.9", False), ("2.13", True), ("2.13.0+cpu", True), ("dev", None)])
def test_version_is_as_long_as_it_likes(tmp_path: Path, version: str, fits: bool | None) -> None:
    packages = find_packages(install(tmp_path, torch=version))

    assert {package.name: package.is_within_bounds for package in packages}["torch"] is fits


def test_without_its_own_metadata_nothing_is_asked_for(tmp_path: Path) -> None:
    assert find_packages([str(tmp_path)]) == ()
    assert judge_parts(()) == ()


def test_remains_of_a_package_are_not_taken_for_it(tmp_path: Path) -> None:
    path = install(tmp_path)
    (tmp_path / "onnxruntime-1.32.0.dist-info").mkdir()

    assert parts_of(path)["cpu"][:2] == (False, "onnxruntime missing")


def test_tensorrt_of_another_major_than_onnxruntime_links_is_told(tmp_path: Path) -> None:
    path = install(tmp_path, onnxruntime_gpu="1.31.1", tensorrt="11.4.0.106", tensorrt_rtx="1.7.1")
    library = tmp_path / "onnxruntime" / "provider.so"
    library.parent.mkdir()
    library.write_bytes(b"\x7fELF" + bytes(5000) + b"\0libcudart.so.13\0libnvinfer.so.10\0libnvinfer.so.9\0")
    linked = library_major("onnxruntime-gpu", "onnxruntime/provider.so", r"libnvinfer\.so\.(\d+)", path=path)

    assert linked == 10
    (breakage,) = find_breakages(evidence(path, tensorrt=linked))
    assert breakage.text == "tensorrt 11.4.0.106 does not fit onnxruntime-gpu 1.31.1, which links TensorRT 10"
    assert breakage.commands == ("pip uninstall -y tensorrt", install_command("tensorrt"))


def test_tensorrt_of_the_major_that_onnxruntime_links_is_fine(tmp_path: Path) -> None:
    path = install(tmp_path, onnxruntime_gpu="1.31.1", tensorrt_cu13="10.16.1.11", tensorrt_cu13_libs="10.16.1.11")

    assert find_breakages(evidence(path, tensorrt=10)) == ()


@pytest.mark.parametrize("package", ["onnxruntime-gpu", "onnxruntime"])
def test_library_of_a_package_or_file_that_is_not_there_has_no_major(tmp_path: Path, package: str) -> None:
    path = install(tmp_path, onnxruntime="1.32.0")

    assert library_major(package, "onnxruntime/provider.so", r"libnvinfer\.so\.(\d+)", path=path) is None


@pytest.mark.parametrize(("written", "build"), [("Optional[str] = None", "cpu"), ("Optional[str] = '13.0'", "13.0")])
def test_torch_without_cuda_is_told_where_there_is_a_gpu(tmp_path: Path, written: str, build: str) -> None:
    path = install(tmp_path, torch="2.13.0")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: {written}\nhip = None\n")

    assert {package.name: package.build for package in find_packages(path)}["torch"] == build
    told = [breakage.text for breakage in find_breakages(evidence(path))]
    assert [text.startswith("torch 2.13.0 is built for the CPU") for text in told] == [True] * (build == "cpu")
    assert find_breakages(evidence(path, driver=NO_DRIVER)) == ()


def test_without_a_driver_no_package_is_said_to_help(tmp_path: Path) -> None:
    assert verdict_on_cuda(evidence(install(tmp_path, onnxruntime="1.32.0"), driver=NO_DRIVER)) == (
        "no NVIDIA driver: libcuda.so.1",
        (),
    )


def test_gpu_that_onnxruntime_was_not_built_for_needs_the_other_build(tmp_path: Path) -> None:
    assert verdict_on_cuda(evidence(install(tmp_path, onnxruntime="1.32.0"))) == (
        "onnxruntime-gpu is not installed",
        ("pip uninstall -y onnxruntime", INSTALL_GPU),
    )


def test_driver_older_than_onnxruntime_needs_is_told(tmp_path: Path) -> None:
    old = CudaDriver(version="12.4", gpus=(GPU,), problem=None)
    known = evidence(install(tmp_path, onnxruntime_gpu="1.31.1"), driver=old)

    assert verdict_on_cuda(known)[0] == (
        "onnxruntime-gpu 1.31.1 needs CUDA 13 and the NVIDIA driver has 12.4: update the driver"
    )


def test_library_that_cuda_cannot_load_is_named_with_the_line_that_brings_it(tmp_path: Path) -> None:
    known = evidence(install(tmp_path, onnxruntime_gpu="1.31.1"))

    assert verdict_on_cuda(known) == ("libcudnn.so.9 is missing", (INSTALL_GPU,))


@pytest.mark.parametrize(
    ("value", "driver", "extra"),
    [("cpu", DRIVER, "cpu"), ("auto", DRIVER, "gpu"), ("cuda", DRIVER, "gpu"), ("auto", NO_DRIVER, "cpu")],
)
def test_missing_onnxruntime_is_the_one_that_fits_the_machine(
    tmp_path: Path, value: str, driver: CudaDriver, extra: str
) -> None:
    gone = Answer(problem="ModuleNotFoundError", error="ModuleNotFoundError", missing_module="onnxruntime.capi")

    verdict = judge_device(value, gone, evidence(install(tmp_path), driver=driver))

    assert (verdict.text, verdict.commands) == ("onnxruntime is not installed", (install_command(extra),))


def test_damaged_onnxruntime_is_told_with_the_line_that_repairs_it(tmp_path: Path) -> None:
    problem = "AttributeError: module 'onnxruntime' has no attribute 'SessionOptions'"
    known = evidence(install(tmp_path, onnxruntime_gpu="1.31.1"))

    verdict = judge_device("cpu", Answer(problem=problem, error="AttributeError"), known)

    assert verdict.text == f"onnxruntime-gpu 1.31.1 is damaged: {problem}"
    assert verdict.commands == ("pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1",)


def test_memory_of_a_container_is_told(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")

    assert look_at_machine(control_group=tmp_path).memory_bytes == 1048576


def test_memory_of_an_old_container_is_told(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2097152\n")

    assert look_at_machine(control_group=tmp_path).memory_bytes == 2097152


@pytest.mark.parametrize("files", [{}, {"memory.max": "max"}, {"memory.max": "-1"}])
def test_machine_without_limits_has_none(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    machine = look_at_machine(control_group=tmp_path)

    assert machine.cores >= 1
    assert machine.memory_bytes is None or machine.memory_bytes > 1 << 20
    assert all(folder.free_bytes is None or folder.free_bytes >= 0 for folder in machine.folders)


def test_missing_tensorrt_is_told_with_the_lines_that_install_it(tmp_path: Path) -> None:
    known = evidence(install(tmp_path, onnxruntime="1.32.0"))
    problem = f"neither tensorrt nor tensorrt_rtx is installed: {install_command('tensorrt')}"

    verdict = judge_device("tensorrt", Answer(problem=problem, error="ExtraError"), known)

    assert verdict.text == "neither tensorrt nor tensorrt_rtx is installed"
    assert verdict.commands == ("pip uninstall -y onnxruntime", install_command("tensorrt"))


def test_gpu_that_tensorrt_rtx_does_not_run_on_is_told(tmp_path: Path) -> None:
    known = evidence(install(tmp_path, onnxruntime="1.32.0"))
    problem = f"tensorrt_rtx 1.7.1 does not run on H200 (sm90), only on sm75: {install_command('tensorrt')}"

    verdict = judge_device("tensorrt", Answer(problem=problem, error="DeviceError"), known)

    assert (verdict.works, verdict.text) == (False, "tensorrt_rtx 1.7.1 does not run on H200 (sm90), only on sm75")
    assert verdict.commands == ("pip uninstall -y onnxruntime", install_command("tensorrt"))


def test_engine_that_runs_is_told_with_what_makes_one(tmp_path: Path) -> None:
    facts = {"device": "cuda", "reason": "with engines of tensorrt 10.16", "runtime": "tensorrt 10.16"}

    verdict = judge_device("tensorrt", Answer(facts=facts), evidence(install(tmp_path)))

    assert (verdict.works, verdict.runs_on, verdict.text) == (
        True,
        "cuda",
        "takes cuda: with engines of tensorrt 10.16",
    )


def verdict_on_onnx_tensorrt(known: Evidence, problem: str = "device onnx-tensorrt is not available") -> DeviceVerdict:
    return judge_device("onnx-tensorrt", Answer(problem=problem, error="DeviceError"), known)


def test_onnxruntime_without_tensorrt_needs_the_other_build_and_tensorrt(tmp_path: Path) -> None:
    verdict = verdict_on_onnx_tensorrt(evidence(install(tmp_path, onnxruntime="1.32.0")))

    assert (verdict.works, verdict.text) == (False, "onnxruntime-gpu is not installed")
    assert verdict.commands == ("pip uninstall -y onnxruntime", install_command("tensorrt"))


def test_without_a_driver_onnxruntime_has_no_tensorrt_either(tmp_path: Path) -> None:
    verdict = verdict_on_onnx_tensorrt(evidence(install(tmp_path, onnxruntime_gpu="1.31.1"), driver=NO_DRIVER))

    assert (verdict.text, verdict.commands) == ("no NVIDIA driver: libcuda.so.1", ())


def test_tensorrt_that_onnxruntime_does_not_link_keeps_its_provider_away(tmp_path: Path) -> None:
    path = install(tmp_path, onnxruntime_gpu="1.31.1", tensorrt="11.4.0.106")

    verdict = verdict_on_onnx_tensorrt(evidence(path, tensorrt=10))

    assert verdict.text == "tensorrt 11.4.0.106 does not fit onnxruntime-gpu 1.31.1, which links TensorRT 10"
    assert verdict.commands == ("pip uninstall -y tensorrt", install_command("tensorrt"))


def test_provider_that_lacks_tensorrts_library_is_told_with_the_line_that_brings_it(tmp_path: Path) -> None:
    path, library = install(tmp_path, onnxruntime_gpu="1.31.1"), "libnvinfer.so.10"
    provider = Provider(
        name="TensorRT", is_built_in=True, works=False, problem=f"{library} is missing", missing_library=library
    )
    known = dataclasses.replace(evidence(path), providers=(provider,))

    verdict = verdict_on_onnx_tensorrt(known)

    assert (verdict.text, verdict.commands) == (f"{library} is missing", (install_command("tensorrt"),))


def test_missing_tensorrt_package_is_told_for_onnxruntime_too(tmp_path: Path) -> None:
    known = dataclasses.replace(evidence(install(tmp_path, onnxruntime_gpu="1.31.1")), providers=())
    problem = f"device onnx-tensorrt is not available: tensorrt is not installed: {install_command('tensorrt')}"

    verdict = verdict_on_onnx_tensorrt(known, problem)

    assert verdict.text == "device onnx-tensorrt is not available: tensorrt is not installed"
    assert verdict.commands == (install_command("tensorrt"),)
