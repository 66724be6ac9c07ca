"""What `--device`, `--precision` and `--hwaccel` accept, and what this machine has: processor, cores, CUDA's GPUs.

Nothing that runs a graph is imported here.

Note [quotas]
    A container of `--cpus 2` on a machine of 64 cores may run on all 64 and is stopped, ten times a second, once it has
    used its 0.2 s. Whoever starts 64 threads there waits most of the time. Neither the set of allowed cores nor Python
    (3.13's `os.process_cpu_count` included) takes the quota into account; the kernel states it in files of the control
    group. Source: the kernel's admin-guide, cgroup-v1 (`cpu.cfs_quota_us`) and cgroup-v2 (`cpu.max`); man 7 cgroups
    and man 5 proc for `/proc/PID/cgroup` and `/proc/PID/mountinfo`.

Note [the CUDA driver]
    Read through its C interface. Source: CUDA Driver API reference, sections on initialization, version, error
    handling and device management.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

Device = Literal["auto", "cpu", "openvino", "openvino:GPU", "openvino:NPU", "cuda", "onnx-tensorrt", "tensorrt"]
"""`auto` uses CUDA if it works, otherwise what was measured to be the fastest on this CPU. `cpu` is ONNX Runtime
on the CPU; `tensorrt` runs engines on CUDA, `onnx-tensorrt` has ONNX Runtime make and run them."""
OnnxDevice = Literal["auto", "cpu", "cuda", "onnx-tensorrt"]
"""Those of ONNX Runtime."""
OpenVinoDevice = Literal["openvino", "openvino:GPU", "openvino:NPU"]
"""Those of OpenVINO: the processor, Intel's GPU and its NPU."""
RunPrecision = Literal["fp32", "bf16"]
"""What the encoder can be asked to compute in when it is loaded."""
Hwaccel = Literal["auto", "none", "cuda", "videotoolbox", "d3d11va", "vaapi"]
"""What may decode videos: kinds of devices by FFmpeg's names, `auto` for one that opens, `none` for the processor."""
RunsOn = Literal["cpu", "cuda", "gpu", "npu"]
"""Where graphs run; `gpu` and `npu` are Intel's."""


_CPUINFO = Path("/proc/cpuinfo")
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "i8mm": "int8 products",
    "bf16": "BF16",
    "sve": "SVE",
}
"""CPU flags, as Linux names them, that decide how fast matrices are multiplied."""


def processor_name() -> str:
    """Name of the processor, or its architecture if the system gives no name."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def processor_features() -> tuple[str, ...]:
    """Instruction sets for matrix products that the processor supports; empty if the system does not list them."""
    flags = (_cpu_field("flags") or _cpu_field("Features")).split()
    return tuple(shown for flag, shown in _FEATURES.items() if flag in flags)


@cache
def _cpu_field(name: str) -> str:
    """A field of the first core in Linux's description of the processor; empty if it is not there."""
    if not _CPUINFO.is_file():
        return ""
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


_USED_PART = 0.85
_THIS_PROCESS = Path("/proc/self")


def available_cores(*, process: Path = _THIS_PROCESS) -> int:
    """Cores worth using: those that this process may run on, capped at its quota, rounded up.

    Args:
        process: Folder in which Linux describes the process.
    """
    return cores_by_quota(process=process) or allowed_cores()


def share_cores(cores: int, most: int) -> int:
    """How many calls to run in parallel, with `cores // calls` threads each: at most `most`, and few cores left idle.

    More calls with fewer threads are faster, so this is the largest number that uses at least 85% of the cores, or else
    the number that uses the most.
    """
    counts = range(min(cores, most), 0, -1)
    used = {count: count * (cores // count) for count in counts}
    return next((count for count in counts if used[count] >= _USED_PART * cores), max(counts, key=used.__getitem__))


def allowed_cores() -> int:
    """Cores that this process may run on, or all of the machine if the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_by_quota(*, process: Path = _THIS_PROCESS) -> int | None:
    """Cores within the quota, at least 1; None if no quota is below the allowed cores. See Note [quotas].

    Libraries that count cores themselves ignore the quota: pass them this number if it is not None.
    """
    quota = core_quota(process=process)
    if quota is None or quota > allowed_cores() - 1:
        return None
    return max(math.ceil(quota), 1)


def core_quota(*, process: Path = _THIS_PROCESS) -> float | None:
    """CPU quota of a process in cores: the lowest of its control groups; None without a limit."""
    quotas = (_quota(group) for group in _control_groups(process))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    """Quota of one group: version 2 has quota and period in one file, version 1 in two."""
    words = _read(group / "cpu.max").split() or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        return None  # `max` and -1 mean no limit
    return int(words[0]) / int(words[1])


def _control_groups(process: Path) -> Iterator[Path]:
    """Folders of the groups that a process is in, each followed by its parents, as far as they are visible here."""
    groups = [line.split(":", 2) for line in _read(process / "cgroup").splitlines()]
    for mount, root, kind, options in _mounts(process):
        for _, controllers, path in (group for group in groups if len(group) == 3):
            is_version_2 = kind == "cgroup2" and not controllers
            if is_version_2 or (kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options):
                inner = PurePosixPath(path)
                is_seen = inner.is_relative_to(root) and ".." not in inner.parts
                inside = inner.relative_to(root) if is_seen else PurePosixPath()
                yield from (mount / part for part in (inside, *inside.parents))


def _mounts(process: Path) -> Iterator[tuple[Path, str, str, list[str]]]:
    """Mounted file systems: mount point, folder of the file system, type, and options."""
    for line in _read(process / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) >= 5 and len(kinds) >= 3:
            root, mount = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text) for text in fields[3:5])
            yield Path(mount), root, kinds[0], kinds[2].split(",")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""Name under which the NVIDIA driver installs its library."""

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME_BYTES = 256


def read_driver(library: str = DRIVER_LIBRARY) -> dict[str, Any]:
    """The driver's CUDA version and its GPUs; see Note [the CUDA driver].

    Args:
        library: Name or path of the driver's library.

    Returns:
        `version` (None if unknown), `gpus`, and `problem` (None if there is none).
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
