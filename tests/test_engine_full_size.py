"""Engines of the full-size model are built ahead of time. Slow: the export of random weights takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallformer_export.exporting import export_random
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.config import preset
from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
from tallformer_infer.runtime.tensorrt.keys import PORTABLE, BatchProfile, load_library
from tests.engine_graphs import halved

pytestmark = pytest.mark.slow
pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out: Path = tmp_path_factory.mktemp("full") / "swin-t"
    export_random(preset("thumos14-swin-t"), out, on_step=lambda _: None)
    return load_bundle(out)


@pytest.mark.parametrize("batch", ["1,8,8", "8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", ["encoder", "localizer"])
def test_full_size_graphs_become_engines(bundle: Bundle, graph: str, precision: str, batch: str) -> None:
    content = bundle.read_graph(graph)  # type: ignore[arg-type]
    if precision == "fp16":
        content = halved(content)

    built = build_engine(
        load_library("tensorrt_rtx"), content, BatchProfile.parse(batch), target=PORTABLE, log=BuilderLog()
    )

    assert len(built.content) > 0.8 * len(content)  # some constants are folded; the weights are all there
