"""What computes, where there is no GPU."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_DESCRIBED = Path("/proc/cpuinfo")
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
"""What of it decides how fast matrices are multiplied, by Linux's names."""


def processor_name() -> str:
    """Name of the processor, where the system tells it."""
    return _told("model name") or platform.processor() or platform.machine()


def processor_features() -> tuple[str, ...]:
    """Instructions for matrix products that it has, where the system tells it."""
    flags = (_told("flags") or _told("Features")).split()
    return tuple(shown for flag, shown in _FEATURES.items() if flag in flags)


@cache
def _told(name: str) -> str:
    """What Linux says of the first core."""
    if not _DESCRIBED.is_file():
        return ""
    for line in _DESCRIBED.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
