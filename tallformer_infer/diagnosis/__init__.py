"""Diagnose a machine: available hardware and packages, what is missing, and speed.

findings      all checks of `doctor`, and conclusions from them
probes        checks that run in separate processes: ONNX Runtime, TensorRT, FFmpeg, a device
machine       cores, memory, disk, and installed packages
stages        how long each stage of `detect` takes, for `bench`, and the rates that no detector can exceed
turns         timing several ways in turn
sample_video  a video to measure on
"""

from __future__ import annotations

from tallformer_infer.diagnosis.findings import (
    Decoding,
    DeviceVerdict,
    Diagnosis,
    EngineLibrary,
    Provider,
    diagnose,
)
from tallformer_infer.diagnosis.machine import Folder

__all__ = ["Decoding", "DeviceVerdict", "Diagnosis", "EngineLibrary", "Folder", "Provider", "diagnose"]
