"""What a machine has to run this project on, what is missing, and how fast it is.

questions     everything that `doctor` asks, and `diagnose`, which asks it all
probes        what is asked in a process of its own: ONNX Runtime, TensorRT, FFmpeg, a device
machine       cores, memory, disk, and installed packages
findings      the types of a diagnosis, and conclusions from them
stages        how long each stage of `detect` takes, for `bench`
ceilings      the rates that no detector can exceed here
turns         timing several ways in turn
sample_video  a video to measure on
"""

from __future__ import annotations

from tallformer_infer.diagnosis.findings import DeviceVerdict, Diagnosis
from tallformer_infer.diagnosis.questions import diagnose

__all__ = ["DeviceVerdict", "Diagnosis", "diagnose"]
