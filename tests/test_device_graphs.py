"""The code that runs graphs in the memory of a GPU, run on the CPU: the device is a parameter. The rest: test_gpu."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from tallformer_infer.bundle import Bundle, GraphName, load_bundle
from tallformer_infer.errors import DeviceError, StoppedError
from tallformer_infer.runtime import Cancellation
from tallformer_infer.runtime.device_graphs import BoundGraph, DeviceGraphs, ports_of
from tallformer_infer.runtime.onnx_session import CPU, cuda_provider, open_session
from tests.device_samples import items_of, plain, relu
from tests.small_bundle import write_bundle

MOST = 3
OUTPUTS = {"encoder": ["features"], "localizer": ["segments", "scores", "classes"]}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def sessions(bundle: Bundle) -> dict[str, ort.InferenceSession]:
    """Plain sessions, whose numbers are right."""
    return {name: open_session(bundle.read_graph(name), providers=[CPU], threads=1) for name in OUTPUTS}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def graphs(bundle: Bundle) -> DeviceGraphs:
    """As on a GPU, captures and all: the CPU ignores what it is told about those."""

    def opened(name: GraphName, captures: bool) -> ort.InferenceSession:
        return open_session(bundle.read_graph(name), providers=[CPU], threads=1)

    return DeviceGraphs(opened, {"encoder": MOST, "localizer": 1}, place="cpu", captures=True)


@pytest.mark.parametrize("name", ["encoder", "localizer"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_any_number_of_items_gives_what_a_plain_session_gives(
    graphs: DeviceGraphs, sessions: dict[str, ort.InferenceSession], name: GraphName, count: int
) -> None:
    inputs = items_of(sessions[name], count)

    found = graphs.run(name, inputs, OUTPUTS[name])

    one_by_one = [
        sessions[name].run(OUTPUTS[name], {key: values[row : row + 1] for key, values in inputs.items()})
        for row in range(count)
    ]
    assert [len(output) for output in found] == [count] * len(OUTPUTS[name])
    for output, *wanted in zip(found, *one_by_one, strict=True):
        for row in range(count):
            np.testing.assert_allclose(output[row], wanted[row][0], rtol=1e-4, atol=1e-4)


def test_results_are_not_changed_by_the_next_run(
    graphs: DeviceGraphs, sessions: dict[str, ort.InferenceSession]
) -> None:
    inputs = items_of(sessions["encoder"], 2)
    (first,) = graphs.run("encoder", inputs, ["features"])
    kept = first.copy()

    graphs.run("encoder", items_of(sessions["encoder"], 3, seed=1), ["features"])

    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(graphs.run("encoder", inputs, ["features"])[0], kept)


def test_only_wanted_outputs_come_back_in_the_order_asked_for(
    graphs: DeviceGraphs, sessions: dict[str, ort.InferenceSession]
) -> None:
    inputs = items_of(sessions["localizer"], 1)

    classes, scores = graphs.run("localizer", inputs, ["classes", "scores"])

    assert (classes.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(scores, sessions["localizer"].run(["scores"], inputs)[0])


def test_graph_writes_into_the_same_memory_whatever_the_batch(sessions: dict[str, ort.InferenceSession]) -> None:
    graph = BoundGraph(sessions["encoder"], place="cpu", most=MOST)
    addresses = {port.name: graph.buffer(port.name).data_ptr() for port in graph.ports}
    bindings = {}
    for rows in (3, 1, 2, 3, 1):
        graph.run(items_of(sessions["encoder"], rows, seed=rows), rows)

        binding = graph._binding(rows)
        (written,) = binding.get_outputs()
        assert written.data_ptr() == addresses["features"]
        assert tuple(written.shape()) == (rows, *graph.ports[-1].item_shape)
        assert bindings.setdefault(rows, binding) is binding
    assert {port.name: graph.buffer(port.name).data_ptr() for port in graph.ports} == addresses


def test_outputs_on_the_device_are_the_inputs_of_the_next_graph() -> None:
    first = BoundGraph(relu("pixels", "features"), place="cpu", most=4)
    second = BoundGraph(relu("features", "found"), place="cpu", most=4, given={"features": first.buffer("features")})
    for rows in (4, 2, 4):
        pixels = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)

        first.run({"pixels": pixels}, rows)
        second.run({}, rows)

        np.testing.assert_array_equal(second.result("found", rows), np.maximum(pixels, 0))
    assert second.buffer("features").data_ptr() == first.buffer("features").data_ptr()


def test_input_of_another_shape_is_not_taken_from_another_graph() -> None:
    first = BoundGraph(relu("pixels", "features"), place="cpu", most=4)

    with pytest.raises(
        ValueError, match=r"'features' is given as tensor\(float\) \(4, 4\) on cpu: expected .* \(2, 4\)"
    ):
        BoundGraph(relu("features", "found"), place="cpu", most=2, given={"features": first.buffer("features")})


@pytest.mark.parametrize("shape", [(2, 5), (3, 4), (4,), (0, 4), (5, 4)])
def test_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    graph = BoundGraph(relu("pixels", "features"), place="cpu", most=4)

    with pytest.raises(ValueError, match="'pixels' is "):
        graph.run({"pixels": np.zeros(shape, np.float32)}, shape[0] if shape[0] != 3 else 2)


def test_numbers_of_another_type_and_layout_are_converted() -> None:
    graph = BoundGraph(relu("pixels", "features"), place="cpu", most=4)
    pixels = np.arange(16, dtype=np.int64).reshape(4, 4).T

    graph.run({"pixels": pixels}, 4)  # ONNX Runtime itself would copy bytes of integers into floats

    np.testing.assert_array_equal(graph.result("features", 4), pixels.astype(np.float32))


@pytest.mark.parametrize(
    "shapes",
    [
        {"left": ["N", 4], "right": ["M", 4]},
        {"left": ["N", "K"], "right": ["N", "K"]},
        {"left": [2, 4], "right": [2, 4]},
        {"left": [], "right": []},
        {"left": [None, 4], "right": [None, 4]},
    ],
    ids=["another batch", "a size that depends", "fixed batch", "no batch", "nameless batch"],
)
def test_graph_whose_sizes_are_not_known_is_not_bound(shapes: dict[str, list[str | int | None]]) -> None:
    session = open_session(plain(helper.make_node("Relu", ["left"], ["right"]), shapes=shapes), providers=[CPU])

    assert ports_of(session) is None
    with pytest.raises(ValueError, match="all sizes but the batch's are known"):
        BoundGraph(session, place="cpu", most=1)


def test_graphs_of_the_bundled_model_can_be_bound_but_for_suppression(bundle: Bundle) -> None:
    known = {
        name: ports_of(open_session(bundle.read_graph(name), providers=[CPU])) is not None for name in bundle.graphs
    }

    assert known == {"encoder": True, "localizer": True, "suppress": False}


def test_graph_that_cannot_be_bound_runs_as_it_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A localizer that finds another number of candidates than there are windows."""
    small = load_bundle(write_bundle(tmp_path_factory.mktemp("small") / "bundle"))

    def opened(name: GraphName, captures: bool) -> ort.InferenceSession:
        return open_session(small.read_graph(name), providers=[CPU], threads=1)

    graphs = DeviceGraphs(opened, {"localizer": 1}, place="cpu", captures=True)
    inputs = {
        "features": np.zeros((1, *graphs.session("localizer").get_inputs()[0].shape[1:]), np.float32),
        "start_frames": np.array([352]),
        "real_frames": np.array([480]),
    }

    segments, scores = graphs.run("localizer", inputs, ["segments", "scores"])

    assert (segments.shape, scores.shape) == ((3, 2), (3,))
    assert ", but not of localizer: expected a graph in which all sizes but the batch's are known" in graphs.remark


def test_graph_that_cannot_be_captured_runs_without_and_says_why(bundle: Bundle) -> None:
    def opened(name: GraphName, captures: bool) -> ort.InferenceSession:
        if captures:
            raise RuntimeError("This session cannot use the graph capture feature\nas some nodes run elsewhere")
        return open_session(bundle.read_graph(name), providers=[CPU], threads=1)

    graphs = DeviceGraphs(opened, {"encoder": 1, "localizer": 1}, place="cpu", captures=True)

    refused = "but not of encoder and localizer: This session cannot use the graph capture feature"
    assert graphs.remark == f"with CUDA graphs, {refused}"
    inputs = items_of(graphs.session("encoder"), 2)
    assert graphs.run("encoder", inputs, ["features"])[0].shape[0] == 2


def test_what_is_captured_is_said(graphs: DeviceGraphs, bundle: Bundle) -> None:
    without = DeviceGraphs(lambda *_: relu("a", "b"), {"encoder": 1}, place="cpu", captures=False)

    assert graphs.remark == "with CUDA graphs"
    assert without.remark == "without CUDA graphs"


def test_captured_runs_that_give_other_numbers_are_not_used() -> None:
    """A graph of random numbers stands for a capture that went wrong: no two runs of it are alike."""
    noise = helper.make_node("RandomNormalLike", ["pixels"], ["noise"])
    content = plain(
        noise,
        helper.make_node("Add", ["pixels", "noise"], ["features"]),
        shapes={"pixels": ["N", 64], "features": ["N", 64]},
    )
    graphs = DeviceGraphs(lambda *_: open_session(content, providers=[CPU]), {"encoder": 2}, place="cpu", captures=True)

    assert graphs.remark == "with CUDA graphs, but not of encoder: captured runs gave other numbers"


def test_graph_that_does_not_run_is_one_line() -> None:
    content = plain(
        helper.make_node("Constant", [], ["tenth"], value_int=9),
        helper.make_node("Gather", ["pixels", "tenth"], ["features"], axis=1),
        shapes={"pixels": ["N", 4], "features": ["N"]},
    )

    with pytest.raises(DeviceError, match=r"^graph encoder does not run on cpu: .*indices element out of data bounds"):
        DeviceGraphs(lambda *_: open_session(content, providers=[CPU]), {"encoder": 2}, place="cpu", captures=False)


def test_everything_is_done_by_one_thread(bundle: Bundle, sessions: dict[str, ort.InferenceSession]) -> None:
    seen: set[int] = set()

    class Watched(ort.InferenceSession):  # type: ignore[misc]
        def run_with_iobinding(self, *arguments: object) -> None:
            seen.add(threading.get_ident())
            super().run_with_iobinding(*arguments)

    graphs = DeviceGraphs(
        lambda name, _: Watched(bundle.read_graph(name), providers=[CPU]),
        {"encoder": MOST, "localizer": 1},
        place="cpu",
        captures=True,
    )
    calls: list[Callable[[], object]] = [
        lambda: graphs.run("encoder", items_of(sessions["encoder"], 4), ["features"]),
        lambda: graphs.run("localizer", items_of(sessions["localizer"], 2), ["scores"]),
    ]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 1
    assert threading.get_ident() not in seen


def test_two_threads_get_what_each_gets_alone(graphs: DeviceGraphs, sessions: dict[str, ort.InferenceSession]) -> None:
    clips, windows = items_of(sessions["encoder"], 4), items_of(sessions["localizer"], 2)
    (alone,), (localized,) = graphs.run("encoder", clips, ["features"]), graphs.run("localizer", windows, ["scores"])
    together: list[NDArray[np.generic]] = []

    thread = threading.Thread(target=lambda: together.extend(graphs.run("encoder", clips, ["features"])))
    thread.start()
    (scores,) = graphs.run("localizer", windows, ["scores"])
    thread.join()

    np.testing.assert_array_equal(together[0], alone)
    np.testing.assert_array_equal(scores, localized)


def test_stopped_run_says_so_and_leaves_the_graphs_usable(
    graphs: DeviceGraphs, sessions: dict[str, ort.InferenceSession]
) -> None:
    inputs = items_of(sessions["encoder"], 40)
    (expected,) = graphs.run("encoder", {name: values[:2] for name, values in inputs.items()}, ["features"])
    cancellation = Cancellation()
    threading.Timer(0.05, cancellation.cancel).start()

    with pytest.raises(StoppedError):
        graphs.run("encoder", inputs, ["features"], cancellation)

    found = graphs.run("encoder", {name: values[:2] for name, values in inputs.items()}, ["features"])
    np.testing.assert_array_equal(found[0], expected)


def test_session_that_asks_for_cuda_here_is_known_by_its_providers(bundle: Bundle) -> None:
    """ONNX Runtime takes the request without an error; see Note [silent fall-back]."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has a CUDA provider")

    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session = open_session(bundle.read_graph("encoder"), providers=[cuda_provider(captures=True), CPU])

    assert session.get_providers() == [CPU]
