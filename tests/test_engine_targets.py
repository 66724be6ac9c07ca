"""For which GPUs engines are built, and in which batches."""

from __future__ import annotations

import sys

import pytest

from tallformer_infer.errors import ConfigError, DeviceError, EngineError, ExtraError
from tallformer_infer.runtime.tensorrt.keys import (
    DEFAULT_BATCHES,
    PORTABLE,
    BatchProfile,
    Gpu,
    Library,
    capabilities_of,
    check_runs_here,
    choose_target,
    load_library,
    require_gpu,
    runs_on,
    target_of,
)

FULL = Library("tensorrt", "10.13.3.9", None)
H200 = Gpu(name="NVIDIA H200", capability=90)


@pytest.fixture(scope="module")
def rtx() -> Library:
    try:
        return load_library("tensorrt_rtx")
    except ExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("text", ["", "0", "1,2", "8,4,8", "1,8,4", "-1", "1,2,3,4", "a", "0,1,1"])
def test_batch_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        BatchProfile.parse(text)


def test_batch_is_read_as_it_is_written() -> None:
    assert str(BatchProfile.parse("1,8,16")) == "1,8,16"
    assert BatchProfile.parse("4") == BatchProfile(least=4, best=4, most=4)
    assert set(DEFAULT_BATCHES) == {"encoder", "localizer"}


@pytest.mark.parametrize(
    ("target", "capability", "runs"),
    [
        ("sm90", 90, True),
        ("sm90", 89, False),
        ("sm86+sm89", 89, True),
        ("sm86+sm89", 90, False),
        (PORTABLE, 75, False),
        (PORTABLE, 80, True),
        (PORTABLE, 90, False),
        (PORTABLE, 120, True),
        (PORTABLE, 121, True),
    ],
)
def test_engine_runs_on_the_gpus_it_was_made_for(target: str, capability: int, *, runs: bool) -> None:
    assert runs_on(target, capability) is runs


def test_targets_are_sorted_and_each_named_once() -> None:
    assert target_of(capabilities_of("sm89,sm86,sm89")) == "sm86+sm89"
    assert target_of(capabilities_of(PORTABLE)) == PORTABLE


@pytest.mark.parametrize("text", ["", "86", "sm", "sm8", "sm86,", "sm86 sm89", "SM86", "portable,sm86"])
def test_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="expected portable, or compute capabilities such as sm86"):
        capabilities_of(text)


def test_target_is_the_gpu_that_is_here_unless_told_otherwise(rtx: Library) -> None:
    assert choose_target(FULL, H200, None) == "sm90"
    assert choose_target(rtx, Gpu(name="GeForce", capability=86), None) == "sm86"
    assert choose_target(rtx, H200, "sm86,sm120") == "sm86+sm120"
    assert choose_target(rtx, None, PORTABLE) == PORTABLE


def test_what_cannot_be_built_is_refused_before_it_is_tried(rtx: Library) -> None:
    with pytest.raises(EngineError, match="there is no GPU here to build for; say for which others: --ahead-of-time"):
        choose_target(rtx, None, None)
    with pytest.raises(EngineError, match="tensorrt builds only on the GPU that an engine is for"):
        choose_target(FULL, H200, "sm86")
    with pytest.raises(EngineError, match=r"tensorrt_rtx [\d.]+ cannot build for sm90, only for sm75, sm80"):
        choose_target(rtx, None, "sm86,sm90")


def test_tensorrt_rtx_is_refused_on_a_gpu_that_it_does_not_run_on(rtx: Library) -> None:
    with pytest.raises(Exception, match=r"does not run on NVIDIA H200 \(sm90\), only on sm75, sm80, .*: .*pip install"):
        check_runs_here(rtx, H200)
    check_runs_here(FULL, H200)


@pytest.mark.skipif(sys.platform != "linux", reason="names the library of Linux")
def test_driver_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(DeviceError, match=r"^no NVIDIA driver: libcuda-nowhere\.so\.1: [^\n]*$"):
        require_gpu(driver_library="libcuda-nowhere.so.1")
