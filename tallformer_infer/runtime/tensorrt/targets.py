"""For which GPUs an engine is built, and on which it runs.

Note [targets]
    `sm90`: one compute capability. `sm86+sm89`: several, which only TensorRT-RTX can build for. `portable`: what
    TensorRT-RTX builds when it is told nothing, for 8.0, 8.6, 8.9, 12.0 and later.
    Source: docs.nvidia.com, TensorRT-RTX 1.7, "CPU-Only AOT and TensorRT-RTX Engines".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tallformer_infer.errors import DeviceError, EngineError
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.tensorrt.library import Gpu, Library

PORTABLE = "portable"
_PORTABLE_OLDER = frozenset({80, 86, 89})
_PORTABLE_FROM = 120


def target_of(capabilities: Iterable[int]) -> str:
    """Name of a target, see Note [targets]; no capabilities make `portable`."""
    return "+".join(f"sm{capability}" for capability in sorted(set(capabilities))) or PORTABLE


def capabilities_of(target: str) -> tuple[int, ...]:
    """Compute capabilities that a target names; none for `portable`.

    Raises:
        EngineError: It is no target.
    """
    if target == PORTABLE:
        return ()
    parts = re.split(r"[,+]", target)
    if not all(re.fullmatch(r"sm\d{2,3}", part) for part in parts):
        raise EngineError(f"{target!r}: expected {PORTABLE}, or compute capabilities such as sm86 or sm86,sm89")
    return tuple(sorted({int(part[2:]) for part in parts}))


def runs_on(target: str, capability: int) -> bool:
    """Whether an engine for a target runs on a GPU of that compute capability."""
    if target == PORTABLE:
        return capability in _PORTABLE_OLDER or capability >= _PORTABLE_FROM
    return capability in capabilities_of(target)


def known_capabilities(library: Library) -> tuple[int, ...]:
    """Those that TensorRT-RTX can build for and run on; none for the full TensorRT, which has no such list."""
    if library.flavour == "tensorrt":
        return ()
    names = library.module.ComputeCapability.__members__
    return tuple(sorted(int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name)))


def check_runs_here(library: Library, gpu: Gpu) -> None:
    """Refuse a GPU that the library does not know.

    Raises:
        DeviceError: It is one of those that TensorRT-RTX leaves to the full TensorRT.
    """
    known = known_capabilities(library)
    if known and gpu.capability not in known:
        shown = ", ".join(f"sm{capability}" for capability in known)
        raise DeviceError(f"{library} does not run on {gpu}, only on {shown}: {install_command('tensorrt')}")


def choose_target(library: Library, gpu: Gpu | None, ahead_of_time: str | None) -> str:
    """The target to build for.

    Args:
        library: What builds.
        gpu: The one that is here, if there is one.
        ahead_of_time: What the user asked for instead.

    Raises:
        EngineError: The library cannot build for it.
        DeviceError: It does not run on the GPU.
    """
    if ahead_of_time is None:
        if gpu is None:
            raise EngineError(
                "there is no GPU here to build for; say for which others: --ahead-of-time sm86,sm89 or portable"
            )
        check_runs_here(library, gpu)
        return target_of([gpu.capability])
    wanted = capabilities_of(ahead_of_time)
    if library.flavour == "tensorrt":
        raise EngineError("tensorrt builds only on the GPU that an engine is for; ahead of time takes tensorrt_rtx")
    known = known_capabilities(library)
    if unknown := [f"sm{capability}" for capability in wanted if capability not in known]:
        shown = ", ".join(f"sm{capability}" for capability in known)
        raise EngineError(f"{library} cannot build for {', '.join(unknown)}, only for {shown}")
    return target_of(wanted)
