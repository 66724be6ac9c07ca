"""A library that answers like the NVIDIA driver, as far as it is asked who is there: for machines without one."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

SITE = Path(np.__file__).parents[1]
NO_DEVICE = 100


def compile_driver(folder: Path, *, init_code: int = 0, capability: tuple[int, int] = (9, 0)) -> Path:
    """A `libcuda.so.1` in a folder of its own, to be put in front of the path of libraries.

    Args:
        folder: Is made.
        init_code: What `cuInit` gives; 0 is success.
        capability: Compute capability of its only GPU.
    """
    folder.mkdir()
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(
        f"""#include <stddef.h>
        #include <string.h>
        int cuDriverGetVersion(int *version) {{ *version = 13000; return 0; }}
        int cuInit(unsigned int flags) {{ return {init_code}; }}
        int cuGetErrorName(int code, const char **name) {{ *name = "CUDA_ERROR_NO_DEVICE"; return 0; }}
        int cuDeviceGetCount(int *count) {{ *count = 1; return 0; }}
        int cuDeviceGet(int *device, int ordinal) {{ *device = ordinal; return 0; }}
        int cuDeviceGetName(char *name, int length, int device) {{ strncpy(name, "A", length); return 0; }}
        int cuDeviceTotalMem_v2(size_t *bytes, int device) {{ *bytes = 1 << 30; return 0; }}
        int cuDeviceGetAttribute(int *value, int attribute, int device) {{
            *value = attribute == 75 ? {capability[0]} : {capability[1]};
            return 0;
        }}
        """
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


def path_without(folder: Path, *names: str) -> list[str]:
    """A path of modules on which everything is found that is found here, but for some packages."""
    folder.mkdir()
    for entry in SITE.iterdir():
        if re.split(r"[-.]", entry.name)[0] not in names:
            (folder / entry.name).symlink_to(entry)
    return [str(folder) if Path(entry) == SITE else entry for entry in sys.path]


def has_driver() -> bool:
    """Whether the NVIDIA driver is installed here."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
