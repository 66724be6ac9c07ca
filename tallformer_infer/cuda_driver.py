"""The CUDA driver, through its C interface.

Source: CUDA Driver API reference, sections on initialization, version, error handling and device management.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""Name under which the NVIDIA driver installs its library."""

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME_BYTES = 256


def read_driver(library: str = DRIVER_LIBRARY) -> dict[str, Any]:
    """The driver's CUDA version and its GPUs.

    Args:
        library: Name or path of the driver's library.

    Returns:
        `version` (None where it cannot be told), `gpus`, and `problem` (None where there is none).
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return {"version": None, "gpus": [], "problem": f"no NVIDIA driver: {error}"}
    version = ctypes.c_int()
    found = cuda.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value > 0
    text = f"{version.value // 1000}.{version.value % 1000 // 10}" if found else None
    if code := cuda.cuInit(0):
        return {"version": text, "gpus": [], "problem": f"the NVIDIA driver gives {_error_name(cuda, code)}{_hidden()}"}
    count = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)))
    gpus = [_gpu(cuda, ordinal) for ordinal in range(count.value)]
    problem = None if gpus else f"the NVIDIA driver has no GPU{_hidden()}"
    return {"version": text, "gpus": gpus, "problem": problem}


def _gpu(cuda: ctypes.CDLL, ordinal: int) -> dict[str, Any]:
    device, name, total = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), ordinal))
    _check(cuda, cuda.cuDeviceGetName(name, _NAME_BYTES, device))
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device))
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        capability.append(str(value.value))
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": ".".join(capability),
        "memory_bytes": total.value,
    }


def _check(cuda: ctypes.CDLL, code: int) -> None:
    if code:
        raise OSError(f"the NVIDIA driver gives {_error_name(cuda, code)}")


def _error_name(cuda: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    known = cuda.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value
    return name.value.decode(errors="replace") if known and name.value else f"error {code}"


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
