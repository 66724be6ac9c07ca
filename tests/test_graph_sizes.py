"""What a graph asks for is added up before it is run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tallformer_infer.bundle import bundled_models, load_bundle
from tallformer_infer.bundle.checks import Shape, excess, refusal

DECLARED: list[Shape] = [("n", 4), ("n", 4)]
GIGABYTE = 2**30


def model(nodes: list[onnx.NodeProto], **constants: object) -> bytes:
    """From x (n, 4) to y, with named constants."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", ["n", 4]), ("y", None))
    )
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def node(kind: str, inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def summed(output: str) -> onnx.NodeProto:
    return node("ReduceSum", output, keepdims=0)


LARGE = {
    "expand": model([node("Expand", "x size", "z"), summed("z")], size=np.array([1, 2**30, 4])),
    "tile": model([node("Tile", "x times", "z"), summed("z")], times=np.array([2**30, 1])),
    "constant of shape": model([node("ConstantOfShape", "size", "z"), summed("z")], size=np.array([2**20, 2**20])),
    "range": model(
        [node("Range", "zero many one", "z"), summed("z")],
        zero=np.float32(0),
        many=np.float32(2**40),
        one=np.float32(1),
    ),
    "pad": model([node("Pad", "x sides", "z"), summed("z")], sides=np.array([0, 2**40, 0, 0])),
    "row plus column": model(
        [
            node("Expand", "x wide", "w"),
            node("Reshape", "w row", "r"),
            node("Reshape", "w column", "c"),
            node("Add", "r c", "z"),
            summed("z"),
        ],
        wide=np.array([2**18, 1, 4]),
        row=np.array([1, -1]),
        column=np.array([-1, 1]),
    ),
    "doubled": model(
        [
            *(node("Concat", f"{'x' if at == 0 else f'z{at}'} " * 2, f"z{at + 1}", axis=0) for at in range(40)),
            summed("z40"),
        ]
    ),
    "computed": model(
        [node("Mul", "big big", "count"), node("ConstantOfShape", "count", "z"), summed("z")], big=np.array([2**21])
    ),
    "power of the batch": model(
        [
            node("Shape", "x", "s"),
            node("Slice", "s zero one", "n1"),
            *(node("Mul", f"n{at} n{at}", f"n{at + 1}") for at in range(1, 5)),  # n^16, 2^48 for 8 items
            node("ConstantOfShape", "n5", "z"),
            summed("z"),
        ],
        zero=np.array([0]),
        one=np.array([1]),
    ),
    "many alive": model(
        [
            *(node("ConstantOfShape", "size", f"z{at}") for at in range(8)),  # 256 MB each
            node("Sum", " ".join(f"z{at}" for at in range(8)), "z"),
            summed("z"),
        ],
        size=np.array([2**26]),
    ),
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE.keys())
def test_graph_that_asks_for_more_than_its_shapes_explain_is_refused(content: bytes) -> None:
    assert refusal(content, "encoder") is None
    assert len(content) < 10_000

    assert "GB; the shapes in bundle.json allow 0.5 GB" in str(excess(content, DECLARED))


def test_size_that_depends_on_data_is_refused() -> None:
    content = model(
        [
            node("Cast", "x", "i", to=TensorProto.INT64),
            node("Reshape", "i flat", "f"),
            node("ConstantOfShape", "f", "z"),
            summed("z"),
        ],
        flat=np.array([-1]),
    )

    assert excess(content, DECLARED) == "has 'z', whose size is unknown before ConstantOfShape runs"


def test_list_that_doubles_is_refused_before_it_is_computed() -> None:
    content = model(
        [*(node("Concat", f"z{at} z{at}", f"z{at + 1}", axis=0) for at in range(40)), node("ConstantOfShape", "z40")],
        z0=np.array([1, 1]),
    )

    assert excess(content, DECLARED) == "joins constants to a value that no shape needs"


def test_weights_that_claim_more_numbers_than_the_file_has_are_refused() -> None:
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40])
    content = onnx.load_model_from_string(model([node("Mul", "x w")]))
    content.graph.initializer.append(weights)

    assert excess(content.SerializeToString(), DECLARED) == "has weights with more numbers than the file holds"


def test_what_the_declared_shapes_explain_is_let_through() -> None:
    """A gigabyte for inputs of 64 MB."""
    content = model([node("Expand", "x size", "z"), summed("z")], size=np.array([2**16, 1, 4]))

    assert excess(content, DECLARED) is None
    wide = model([node("Expand", "x size", "z"), summed("z")], size=np.array([2**26, 1, 4]))
    assert "asks for" in str(excess(wide, DECLARED))
    assert excess(wide, [("n", 2**22), ("n", 4)]) is None


def test_every_bundled_model_is_let_through() -> None:
    for path in bundled_models().values():
        bundle = load_bundle(path)
        for name in ("encoder", "localizer"):
            info = bundle.graphs[name]
            assert excess(bundle.read_graph(name), [*info.inputs.values(), *info.outputs.values()]) is None


def test_what_is_no_graph_is_refused() -> None:
    assert excess(b"\xff\xff", DECLARED) == "is not an ONNX file"


def test_a_tensor_of_an_unknown_type_is_refused() -> None:
    """Found by fuzzing: `onnx` has no size for it."""
    loaded = onnx.load_model_from_string(model([node("Relu", "x")]))
    loaded.graph.output[0].type.tensor_type.elem_type = loaded.graph.input[0].type.tensor_type.elem_type = 40

    assert excess(loaded.SerializeToString(), DECLARED) == "has a tensor of the unknown type 40"


@pytest.mark.parametrize("name", [b"broken", b"br\xe9ken"])
def test_a_fault_that_shape_inference_finds_is_one_line(name: bytes) -> None:
    """Found by fuzzing: names that are no UTF-8 cannot be put into the error, and another one comes."""
    content = model([helper.make_node("Cast", ["x"], [], name="broken", to=1), node("Relu", "x")])

    problem = excess(content.replace(b"broken", name), DECLARED)

    assert problem is not None
    assert problem.startswith("has shapes that do not fit: ")
    assert "\n" not in problem


def test_a_constant_of_an_unknown_type_is_refused() -> None:
    """Found by fuzzing: where a shape is made from it."""
    loaded = onnx.load_model_from_string(model([node("Reshape", "x size")], size=np.array([-1, 2])))
    loaded.graph.initializer[0].data_type = 33

    assert excess(loaded.SerializeToString(), DECLARED) == "has shapes that do not fit: Invalid tensor data type 33."
