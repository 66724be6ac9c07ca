"""What every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import tallformer_infer  # noqa: F401 (switches off the usage data of libraries before tests import them)
from tests.browser import Browser, start_browser

# The same examples on every run, and no deadline: a busy machine is not a bug.
settings.register_profile("tallformer", deadline=None, derandomize=True)
settings.load_profile("tallformer")

# A shell starts what it runs in the background with Ctrl-C ignored, and commands that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graphs and engines that tests make are not left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _auto_is_onnx_runtime() -> Iterator[None]:
    """`auto` measures nothing and takes ONNX Runtime, so that numbers do not depend on how busy the machine is."""
    from tallformer_infer.runtime import choosing  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_measure", lambda *_: choosing.Choice("onnxruntime", {"onnxruntime": 1.0}))
        yield


@pytest.fixture(scope="session", autouse=True)
def _small_default_model() -> Iterator[None]:
    """Tests of the default model take `demo`, which is fast; those of kinetics400 name it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tallformer_infer.bundle.reading.DEFAULT_MODEL", "demo")
        yield


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `browser` saves files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Browser]:
    """One browser for all tests of a module."""
    yield from start_browser(downloads)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file of this name and content, and give its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="session")
def golden() -> Path:
    """The official code's numbers, kept outside the repository."""
    return _shared("golden")


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """Real and odd video files, kept outside the repository."""
    return _shared("videos")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread while the tests of a module run, which name it in `pytestmark`."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the folder shared/{name} beside the repository")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` without a CUDA device, unless REQUIRE_GPU=1 says that there must be one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("REQUIRE_GPU") == "1" or _has_cuda():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device (REQUIRE_GPU=1 turns this into a failure)"))


def _has_cuda() -> bool:
    from tallformer_infer import Detector, TallformerError  # noqa: PLC0415

    try:
        return bool(Detector.load(device="cuda"))
    except TallformerError:
        return False
