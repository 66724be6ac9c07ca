"""All questions, and what follows from the answers."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tallformer_infer import __version__
from tallformer_infer.diagnosis.advice import Evidence, find_breakages, judge_device, judge_parts
from tallformer_infer.diagnosis.findings import Diagnosis
from tallformer_infer.diagnosis.machine import look_at_machine
from tallformer_infer.diagnosis.native import ask_decoding, ask_device, ask_driver, ask_engine_libraries, ask_providers
from tallformer_infer.diagnosis.packages import find_packages, library_major

_AT_ONCE = 4
"""Questions asked at the same time; each mostly waits for the disk, or for one core."""
_PROVIDERS = "onnxruntime/capi/libonnxruntime_providers_{}.so"


def diagnose(devices: Sequence[str], *, path: Sequence[str] | None = None) -> Diagnosis:
    """Look at this machine and this install. Nothing native is loaded into this process.

    Args:
        devices: Values of `--device` to try.
        path: Folders where packages are looked for; None: `sys.path`.
    """
    packages = find_packages(path)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked_driver = pool.submit(ask_driver)
        attempts = {value: pool.submit(ask_device, value, path) for value in devices}
        asked_libraries = pool.submit(ask_engine_libraries, path)
        onnxruntime, providers = ask_providers(path, pool)
        decoding = ask_decoding(path, pool)
        driver, engine_libraries = asked_driver.result(), asked_libraries.result()
        answers = {value: attempt.result() for value, attempt in attempts.items()}
    evidence = Evidence(
        packages=packages,
        driver=driver,
        providers=providers,
        links_cuda=library_major("onnxruntime-gpu", _PROVIDERS.format("cuda"), r"libcublas\.so\.(\d+)", path=path),
        links_tensorrt=library_major(
            "onnxruntime-gpu", _PROVIDERS.format("tensorrt"), r"libnvinfer\.so\.(\d+)", path=path
        ),
    )
    return Diagnosis(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        version=__version__,
        machine=look_at_machine(),
        packages=packages,
        parts=judge_parts(packages),
        driver=driver,
        onnxruntime=onnxruntime,
        providers=providers,
        engine_libraries=engine_libraries,
        decoding=decoding,
        breakages=find_breakages(evidence),
        devices=tuple(judge_device(value, answer, evidence) for value, answer in answers.items()),
    )
