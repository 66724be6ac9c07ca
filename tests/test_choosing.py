"""What `auto` takes on a processor: measured once, kept, and told."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.config import Difference
from tallformer_infer.errors import DeviceError, ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.runtime import OnnxRuntime, OpenVinoRuntime, choosing
from tallformer_infer.runtime.choosing import Choice, load_fastest, load_runtime
from tallformer_infer.runtime.openvino import has_bf16, lowest_precision

pytest.importorskip("openvino", reason="needs the extra openvino")

_MEASURE = choosing._measure
"""As it is; tests replace it for all others."""


@pytest.fixture
def bundle() -> Bundle:
    """The bundled model, about which nothing is known in bfloat16."""
    return with_actions_in_bf16(load_bundle(), None)


@pytest.fixture(autouse=True)
def _measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_measure", _MEASURE)


def taking(monkeypatch: pytest.MonkeyPatch, **clip_s: float) -> list[str]:
    """Pretend that ways take so many seconds; the list is filled with those that are asked."""
    asked: list[str] = []

    def timed(bundle: Bundle, way: str, threads: int | None) -> float:
        asked.append(way)
        return clip_s[way.replace(" ", "_")]

    monkeypatch.setattr(choosing, "_clip_s", timed)
    return asked


def with_actions_in_bf16(bundle: Bundle, unmatched: float | None) -> Bundle:
    """A bundle whose parity report says so of its actions in bfloat16; None: nothing."""
    assert bundle.parity is not None
    difference = Difference(worst=unmatched, mean=unmatched, limit=0.1, unit="part of all actions")
    told = {} if unmatched is None else {"bf16": {"actions.unmatched": difference}}
    parity = dataclasses.replace(bundle.parity, at_run_time=told)
    return dataclasses.replace(bundle, description=dataclasses.replace(bundle.description, parity=parity))


def test_the_fastest_is_taken_and_told(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taking(monkeypatch, onnxruntime=0.5, openvino=0.25)

    runtime = load_fastest(bundle, folder=tmp_path)

    assert isinstance(runtime, OpenVinoRuntime)
    assert runtime.precision == "fp32"
    assert runtime.device_reason == ("openvino was chosen, measured here per clip: openvino 250 ms, onnxruntime 500 ms")


@pytest.mark.parametrize(("openvino", "wanted"), [(0.449, OpenVinoRuntime), (0.451, OnnxRuntime), (0.6, OnnxRuntime)])
def test_openvino_must_be_a_tenth_faster(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openvino: float, wanted: type
) -> None:
    taking(monkeypatch, onnxruntime=0.5, openvino=openvino)

    assert type(load_fastest(bundle, folder=tmp_path)) is wanted


def test_nothing_is_measured_twice(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = taking(monkeypatch, onnxruntime=0.5, openvino=0.25)

    first, second = (load_fastest(bundle, folder=tmp_path).device_reason for _ in range(2))

    assert first == second
    assert asked == ["onnxruntime", "openvino"]


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"way": "gpu", "clip_s": {"gpu": 1}}', '{"way": "openvino", "clip_s": {"a": "b"}}']
)
def test_a_choice_that_cannot_be_read_is_made_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    asked = taking(monkeypatch, onnxruntime=0.5, openvino=0.25)
    load_fastest(bundle, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage)

    load_fastest(bundle, folder=tmp_path)

    assert len(asked) == 4
    assert json.loads(file.read_text())["way"] == "openvino"


@pytest.mark.parametrize("other", ["processor", "onnxruntime", "openvino", "graph"])
def test_a_choice_for_something_else_is_not_taken(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    asked = taking(monkeypatch, onnxruntime=0.5, openvino=0.25)
    load_fastest(bundle, folder=tmp_path)
    match other:
        case "processor":
            monkeypatch.setattr(choosing, "processor_name", lambda: "another")
        case "onnxruntime":
            monkeypatch.setattr(choosing.ort, "__version__", "1.0")
        case "openvino":
            monkeypatch.setattr(choosing, "version", lambda name: "1.0")
        case _:
            asked = taking(monkeypatch, onnxruntime=0.5, openvino=0.25, openvino_bf16=0.25)
            asked += ["before"] * 2
            bundle = load_bundle("anet-demo")

    load_fastest(bundle, folder=tmp_path)

    assert len(asked) >= 4


def test_a_cache_that_cannot_be_written_changes_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking(monkeypatch, onnxruntime=0.5, openvino=0.25)
    (tmp_path / "file").touch()

    assert isinstance(load_fastest(bundle, folder=tmp_path / "file"), OpenVinoRuntime)


def test_openvino_that_fails_leaves_onnx_runtime(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(bundle: Bundle, way: str, threads: int | None) -> float:
        if way != "onnxruntime":
            raise RuntimeError("as asked")
        return 0.5

    monkeypatch.setattr(choosing, "_clip_s", timed)

    runtime = load_fastest(bundle, folder=tmp_path)

    assert runtime.device_reason == "onnxruntime was chosen, measured here per clip: onnxruntime 500 ms"


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (("AVX2",), "OpenVINO, which is faster on many processors, is not installed: "),
        (
            ("AVX-512", "AMX bf16"),
            "this processor has AMX, with which OpenVINO is 2 to 4 times as fast, but it is not installed: ",
        ),
    ],
)
def test_without_openvino_nothing_is_measured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    monkeypatch.setattr(choosing, "processor_features", lambda: features)

    runtime = load_fastest(bundle, folder=tmp_path)

    assert type(runtime) is OnnxRuntime
    assert runtime.device_reason == said + install_command("openvino")
    assert list(tmp_path.iterdir()) == []


def test_a_real_probe_measures_both(bundle: Bundle, tmp_path: Path) -> None:
    load_fastest(bundle, folder=tmp_path)

    (file,) = tmp_path.iterdir()
    kept = Choice(**json.loads(file.read_text()))
    assert set(kept.clip_s) == {"onnxruntime", "openvino"}
    assert all(0 < seconds < 10 for seconds in kept.clip_s.values())


# bfloat16


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize(("unmatched", "wanted"), [(None, "fp32"), (0.2, "fp32"), (0.1, "bf16"), (0.0, "bf16")])
def test_bfloat16_is_taken_only_where_actions_are_known_to_stay(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmatched: float | None, wanted: str
) -> None:
    taking(monkeypatch, onnxruntime=0.5, openvino=0.25, openvino_bf16=0.1)
    bundle = with_actions_in_bf16(bundle, unmatched)

    assert load_fastest(bundle, folder=tmp_path).precision == wanted
    assert lowest_precision(bundle) == wanted
    assert load_fastest(bundle, folder=tmp_path, precision="fp32").precision == "fp32"


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize(("bf16_s", "wanted"), [(0.1, "bf16"), (0.3, "fp32")])
def test_openvino_takes_bfloat16_only_where_it_is_faster(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16_s: float, wanted: str
) -> None:
    asked = taking(monkeypatch, onnxruntime=0.01, openvino=0.25, openvino_bf16=bf16_s)
    monkeypatch.setattr(choosing, "user_cache_folder", lambda: tmp_path)
    bundle = with_actions_in_bf16(bundle, 0.0)

    runtimes = [load_runtime(bundle, device="openvino") for _ in range(2)]

    assert [runtime.precision for runtime in runtimes] == [wanted] * 2
    assert asked == ["onnxruntime", "openvino", "openvino bf16"]
    assert load_runtime(bundle, device="openvino", precision="bf16").precision == "bf16"


def test_openvino_measures_nothing_where_only_float32_keeps_the_actions(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = taking(monkeypatch)

    assert load_runtime(with_actions_in_bf16(bundle, 0.2), device="openvino").precision == "fp32"
    assert asked == []


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
def test_bfloat16_that_is_asked_for_is_taken_unmeasured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = taking(monkeypatch)

    assert load_fastest(bundle, folder=tmp_path, precision="bf16").precision == "bf16"
    assert asked == []


def test_bfloat16_is_not_taken_where_the_processor_has_none(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = taking(monkeypatch, onnxruntime=0.5, openvino=0.25)
    monkeypatch.setattr(choosing, "has_bf16", lambda: False)

    load_fastest(with_actions_in_bf16(bundle, 0.0), folder=tmp_path)

    assert asked == ["onnxruntime", "openvino"]


def test_bfloat16_without_openvino_is_answered_with_the_line_to_install_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tallformer_infer.runtime import openvino  # noqa: PLC0415

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(openvino, "import_without_telemetry", missing)

    with pytest.raises(ExtraError, match=re.escape(f"openvino is not installed: {install_command('openvino')}")):
        load_fastest(bundle, precision="bf16")


@pytest.mark.skipif(has_bf16(), reason="this processor has bfloat16")
def test_bfloat16_is_refused_where_there_is_none(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="--precision bf16: CPU has no bfloat16"):
        load_fastest(bundle, precision="bf16")
