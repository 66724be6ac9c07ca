"""Graphs are checked on their bytes: outside weights, unlisted operators and what hides them are refused."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer.bundle import GRAPHS, bundled_models, load_bundle
from tallformer_infer.bundle.checks import ALLOWED_OPS, refusal
from tallformer_infer.config import SuppressConfig
from tests.graph_samples import PLACES, in_a_branch, in_initializer, in_sparse, inside, outside, serialised, with_node


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "weights.bin", "sub/../../secret", ""])
def test_weights_in_another_file_are_refused_wherever_they_are_named(
    place: Callable[[TensorProto], onnx.GraphProto], location: str
) -> None:
    assert refusal(serialised(place(inside())), "suppress") is None
    why = refusal(serialised(place(outside(location))), "suppress")

    assert why == f"keeps weights in another file ({location!r}); a bundle's graphs are one file each"


def test_weights_said_to_be_outside_without_a_place_are_refused_too() -> None:
    tensor = inside()
    tensor.data_location = TensorProto.EXTERNAL

    assert str(refusal(serialised(in_initializer(tensor)), "encoder")).startswith("keeps weights in another file;")


def test_sparse_weights_are_refused_as_they_may_stand_for_any_size() -> None:
    assert refusal(serialised(in_sparse(inside())), "suppress") == "has a sparse tensor; a bundle's graphs have none"


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(
    "kind", ["If", "Scan", "SequenceMap", "StringConcat", "ImageDecoder", "RandomNormal", "", "relu"]
)
def test_an_operator_that_is_not_listed_is_refused(name: str, kind: str) -> None:
    assert refusal(serialised(with_node(kind)), name) == (
        f"has the operator {kind or '(none)'!r}, which {name} graphs must not have"
    )


@pytest.mark.parametrize("kind", sorted(ALLOWED_OPS["suppress"] - ALLOWED_OPS["encoder"]))
def test_sizes_that_depend_on_data_are_for_suppression_only(kind: str) -> None:
    content = serialised(with_node(kind))

    assert refusal(content, "suppress") is None
    assert "must not have" in str(refusal(content, "encoder"))
    assert "must not have" in str(refusal(content, "localizer"))


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "ai.onnx.training", "my.own", " "])
def test_an_operator_of_another_domain_is_refused(domain: str) -> None:
    why = refusal(serialised(with_node("Add", domain=domain)), "encoder")

    assert why == f"has an operator of {domain!r}; a bundle's graphs have only standard ones"
    assert refusal(serialised(with_node("Relu", domain="ai.onnx")), "encoder") is None


def test_an_operator_inside_another_is_seen() -> None:
    assert "'Scan'" in str(refusal(serialised(in_a_branch(in_a_branch(with_node("Scan")))), "suppress"))
    assert refusal(serialised(in_a_branch(in_a_branch(with_node("Relu")))), "suppress") is None


def test_functions_of_the_file_s_own_are_refused() -> None:
    function = helper.make_function(
        "", "Relu", ["x"], ["y"], [helper.make_node("EPContext", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    )

    why = refusal(serialised(with_node("Relu"), functions=[function]), "encoder")
    assert why == "defines functions of its own, or parts for training; a bundle's graphs have neither"


def test_a_file_in_the_format_of_onnx_runtime_is_refused() -> None:
    whole = serialised(with_node("Relu"))

    assert refusal(whole[:4] + b"ORTM" + whole[8:], "encoder") == "is in the format of ONNX Runtime; expected ONNX"


def test_an_operator_that_is_named_twice_is_refused_if_either_name_is() -> None:
    """Protocol buffers take the last of two; whoever reads them must not be led to see the first only."""
    relu, scan = (helper.make_node(kind, ["x"], ["y"]).SerializeToString() for kind in ("Relu", "Scan"))
    for node in (relu + scan, scan + relu):
        graphs = field(7, field(1, node))
        assert "Scan" in str(refusal(graphs, "encoder"))
    assert "Scan" in str(refusal(field(7, field(1, relu)) + field(7, field(1, scan)), "encoder"))


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08", b"\x0a\x05abc", b"not an onnx file at all", b"\x80" * 20, b"\x00\x00", b"\x3b\x3c", b"\x08\x0a"],
)
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    assert refusal(content, "encoder") == "is not an ONNX file"


def test_every_bundled_model_is_allowed() -> None:
    for folder in bundled_models().values():
        loaded = load_bundle(folder)
        assert set(loaded.graphs) >= set(GRAPHS[:2])  # not every suppression has a graph
        assert all(len(loaded.read_graph(name)) > 0 for name in GRAPHS if name in loaded.graphs)


# Our reader against onnx's


def kinds_of(made: onnx.GraphProto) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for node in made.node:
        found.add((node.domain, node.op_type))
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                found |= kinds_of(body)
    return found


SUPPRESS = bytes(build_suppress_graph(SuppressConfig()).SerializeToString())


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
@example([])
def test_a_damaged_file_shows_our_reader_all_that_it_shows_onnx(changes: list[tuple[float, int]]) -> None:
    content = bytearray(SUPPRESS)
    for place, byte in changes:
        content[int(place * len(content))] = byte
    if refusal(bytes(content), "suppress") is not None:
        return

    try:
        model = onnx.load_from_string(bytes(content))
    except Exception:  # whatever protobuf says: no runtime can load it either
        return
    kinds = kinds_of(model.graph)
    assert {kind for _, kind in kinds} <= ALLOWED_OPS["suppress"]
    assert {domain for domain, _ in kinds} <= {"", "ai.onnx"}
    assert not any(tensor.external_data or tensor.data_location for tensor in model.graph.initializer)
    assert not model.functions
