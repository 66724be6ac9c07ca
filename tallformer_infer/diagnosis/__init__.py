"""What a machine has to run this project on, and what is missing.

asking      a question in a process of its own, whose crash is an answer
probes      what is asked there: CUDA driver, ONNX Runtime, FFmpeg, a device
packages    what is installed, from its metadata
machine     cores, memory, disk
advice      what follows, and what to run
diagnosing  all of it
"""

from __future__ import annotations

from tallformer_infer.diagnosis.diagnosing import diagnose
from tallformer_infer.diagnosis.findings import DeviceVerdict, Diagnosis

__all__ = ["DeviceVerdict", "Diagnosis", "diagnose"]
