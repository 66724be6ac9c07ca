"""The benchmark of a GPU's ways to encode, run on the CPU."""

from __future__ import annotations

import json

import onnxruntime as ort
import pytest

from benchmarks.bench_device import measure_bundle
from tallformer_infer.bundle import load_bundle
from tallformer_infer.errors import DeviceError


def test_every_way_that_the_cpu_has_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measure_bundle(load_bundle(), "cpu", repeats=3)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(line["name"], line["inputs"].get("way") or line["inputs"]["features"]) for line in lines]
    assert told == [("encode", "session"), ("encode", "bound"), ("handover", "host"), ("handover", "device")]
    assert all(line["median_s"] > 0 and line["device"] == "cpu" for line in lines)
    assert [line["inputs"]["differs"] for line in lines[:2]] == [0, 0]


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there may be CUDA here")
def test_without_cuda_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=r"no NVIDIA driver|gives no CUDA here"):
        measure_bundle(load_bundle(), "cuda", repeats=1)

    assert capsys.readouterr().out == ""
