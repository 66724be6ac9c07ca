"""What users can ask for with `--device` and `--precision`, without importing anything that runs on it."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "openvino", "openvino:GPU", "openvino:NPU", "cuda", "onnx-tensorrt", "tensorrt"]
"""`auto` takes CUDA where it works, else what was measured to be the fastest on this processor. `cpu` is ONNX Runtime
on the processor; `tensorrt` runs engines on CUDA, `onnx-tensorrt` has ONNX Runtime make and run them."""
OnnxDevice = Literal["auto", "cpu", "cuda", "onnx-tensorrt"]
"""Those of ONNX Runtime."""
OpenVinoDevice = Literal["openvino", "openvino:GPU", "openvino:NPU"]
"""Those of OpenVINO: the processor, Intel's GPU and its NPU."""
RunPrecision = Literal["fp32", "bf16"]
"""What the encoder can be asked to compute in when it is loaded."""
RunsOn = Literal["cpu", "cuda", "gpu", "npu"]
"""Where graphs run; `gpu` and `npu` are Intel's."""
