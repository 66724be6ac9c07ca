"""The Python API as its users meet it: `Detector`, `Bundle`, `Action` and `Result`."""

from __future__ import annotations

import doctest
import inspect
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from tallformer_infer import Action, Bundle, Detector, Result
from tallformer_infer.errors import MediaError, OutputError
from tallformer_infer.media import given_video, open_video, probe
from tallformer_infer.results import load_schema
from tests.result_samples import action, result
from tests.videos import textured_pictures, write_video

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "example" / "example.mp4"
FPS = 15


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("demo", device="cpu", threads=1)


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """40 s of pictures that need no resizing."""
    return np.stack(list(textured_pictures(40 * FPS, height_px=64, width_px=64)))


@pytest.fixture(scope="module")
def lossless(pictures: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lossless") / "same.mkv"
    return write_video(path, list(pictures), fps=FPS, codec="ffv1", pixel_format="bgr0")


@pytest.mark.parametrize("public", [Detector, Bundle, Action, Result])
def test_the_examples_in_the_docstrings_are_true(public: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    scope = {"Detector": Detector, "Bundle": Bundle, "Action": Action, "Result": Result}
    for example in doctest.DocTestFinder(recurse=False).find(public, globs=scope):
        runner.run(example)

    assert runner.tries > 0
    assert runner.failures == 0


@pytest.mark.parametrize("public", [Detector, Bundle, Action, Result])
def test_the_reference_shows_the_examples_as_code(public: type) -> None:
    griffe = pytest.importorskip("griffe", reason="needs the tools of `make docs`")

    sections = griffe.Docstring(inspect.getdoc(public)).parse("google")

    (examples,) = (section for section in sections if section.kind is griffe.DocstringSectionKind.examples)
    assert all(kind is griffe.DocstringSectionKind.examples for kind, _ in examples.value)


def test_a_file_object_gives_what_its_path_gives(detector: Detector) -> None:
    by_path = detector.detect(EXAMPLE)
    with EXAMPLE.open("rb") as file:
        by_file = detector.detect(file)
        assert not file.closed
    by_content = detector.detect(io.BytesIO(EXAMPLE.read_bytes()))

    assert by_file.actions == by_content.actions == by_path.actions
    assert by_file.video.path == str(EXAMPLE)
    assert by_content.video.path == "<file>"
    assert by_content.video_sha256 is None


def test_arrays_and_iterators_give_what_a_lossless_file_gives(
    detector: Detector, pictures: NDArray[np.uint8], lossless: Path
) -> None:
    expected = detector.detect(lossless, operating_point="none")
    timed = ((number / FPS, picture) for number, picture in enumerate(pictures))

    from_array = detector.detect(pictures, fps=FPS, operating_point="none")
    from_pictures = detector.detect(iter(pictures), fps=FPS, operating_point="none")
    from_pairs = detector.detect(timed, operating_point="none")

    assert expected.actions
    assert from_array.frame_count == from_pictures.frame_count == from_pairs.frame_count == 600
    assert from_array.actions == from_pictures.actions == from_pairs.actions == expected.actions
    assert from_array.video.path == "<frames>"
    assert (from_array.video.width_px, from_array.video.source_fps, from_array.video.duration_s) == (64, 15.0, 40.0)


def test_times_of_pictures_decide_which_are_taken(detector: Detector, pictures: NDArray[np.uint8]) -> None:
    """Pictures at 5, 5.2, 5.4 … s: each stands for three frames at 15 per second."""
    pairs = ((5 + number / 5, picture) for number, picture in enumerate(pictures[:50]))

    found = detector.detect(pairs, operating_point="none")

    assert found.frame_count == 150
    assert found.video.start_s == 5
    assert all(5 <= one.start_s < one.end_s <= 15 for one in found.actions)


@pytest.mark.parametrize(
    ("video", "fps", "error", "message"),
    [
        (["a.mp4", "b.mp4"], None, TypeError, "got list of paths; call detect_many"),
        (b"\0\0", None, TypeError, r"got bytes; wrap the content of a video file in io.BytesIO"),
        (3, None, TypeError, "got int; expected a path or address"),
        (None, None, TypeError, "got NoneType; expected a path or address"),
        ({"a": 1}, None, TypeError, "got dict; expected a path or address"),
        ([1.5, 2.5], None, TypeError, "got list of float; expected a path or address"),
        (np.zeros((4, 8, 8, 3), np.uint8), None, TypeError, r"an array needs its frames per second"),
        (np.zeros((4, 3, 8, 8), np.uint8), 25, ValueError, r"uint8, shape \(4, 3, 8, 8\); expected uint8 RGB"),
        (np.zeros((4, 8, 8, 3), np.float32), 25, ValueError, "an array of float32"),
        (np.zeros((0, 8, 8, 3), np.uint8), 25, MediaError, "got no pictures"),
        ([], 25, MediaError, "got no pictures"),
        (iter([np.zeros((8, 8, 3), np.uint8)]), None, TypeError, "pictures without times need"),
        (iter([(0.0, np.zeros((8, 8, 3), np.uint8))]), 25, TypeError, "only for pictures without times"),
        ("a.mp4", 25, TypeError, "a file has its own timestamps"),
        (np.zeros((4, 8, 8, 3), np.uint8), 0, ValueError, "fps=0: expected frames per second, above 0"),
        (iter([(1.0, np.zeros((8, 8, 3), np.uint8))] * 2), None, ValueError, "picture 1 is at 1 s; expected a time"),
        (iter([(1.0, np.zeros((8, 8), np.uint8))]), None, ValueError, r"picture 0: got uint8, shape \(8, 8\)"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(
    detector: Detector, video: Any, fps: float | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        detector.detect(video, fps=fps)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_file_in_text_mode_is_refused(detector: Detector) -> None:
    with EXAMPLE.open(encoding="latin-1") as file, pytest.raises(TypeError, match="open it with mode 'rb'"):
        detector.detect(file)  # type: ignore[arg-type]


def test_an_iterator_that_fails_says_so_itself(detector: Detector) -> None:
    def broken() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        yield 0.0, np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        detector.detect(broken())


def test_a_path_like_object_is_a_path() -> None:
    class Named:
        def __fspath__(self) -> str:
            return "a.mp4"

    assert given_video(Named()) == Path("a.mp4")


def test_detect_many_goes_on_where_a_handler_takes_the_error(detector: Detector, tmp_path: Path) -> None:
    missing = tmp_path / "missing.mp4"
    failed: list[tuple[Any, str]] = []

    results = list(
        detector.detect_many(
            [missing, EXAMPLE], top_k=1, on_error=lambda video, error: failed.append((video, str(error)))
        )
    )

    assert [len(one.actions) for one in results] == [1]
    assert failed == [(missing, f"{missing}: no such video")]
    with pytest.raises(MediaError, match="no such video"):
        list(detector.detect_many([missing]))
    with pytest.raises(TypeError, match="got one str; expected several, or call detect"):
        list(detector.detect_many(str(EXAMPLE)))


def test_classes_are_those_of_the_model(detector: Detector) -> None:
    assert detector.classes == detector.bundle.recipe.classes
    assert "zigzag" in detector.classes


def test_a_result_is_saved_as_the_document_of_the_command_line(detector: Detector, tmp_path: Path) -> None:
    found = detector.detect(EXAMPLE, threshold=0.5)
    out = tmp_path / "new" / "actions.json"

    found.save(out)

    document = json.loads(out.read_text())
    jsonschema.validate(document, load_schema())
    assert document == json.loads(found.to_json())
    assert document["settings"]["threshold"] == 0.5
    assert document["settings"]["operating_point"] == "all"
    assert document["model"]["intended_use"] == detector.bundle.intended_use
    assert len(document["videos"][0]["actions"]) == len(found.actions) > 0
    with pytest.raises(OutputError, match=r"a.srt: a result is saved as .json; `tallformer convert`"):
        found.save(tmp_path / "a.srt")


def test_a_result_reads_well_in_a_console() -> None:
    many = result("a.mp4", tuple(action(number, number + 0.5, "wave", 0.25) for number in range(12)))

    lines = repr(many).splitlines()

    assert lines[0] == "Result(video='a.mp4', duration_s=10.0, model='sample', actions=12)"
    assert lines[1].split() == ["0.00", "-", "0.50", "s", "0.250", "wave"]
    assert len(lines) == 12
    assert lines[-1].strip() == "... and 2 more"


def test_the_view_in_a_notebook_escapes_names_and_loads_nothing() -> None:
    hostile = result("<b>.mp4", (action(2.5, 5.0, "<script>alert(1)</script>", 0.75),))

    html = hostile._repr_html_()

    assert "&lt;b&gt;.mp4" in html
    assert "<script" not in html
    assert "left:25.000%;width:25.000%" in html  # 2.5 to 5 s of 10 s
    assert "http" not in html
    assert "No action found" in result()._repr_html_()


@pytest.fixture(scope="module")
def two_streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose first video stream, the main one, is black, and whose second is white."""
    path = tmp_path_factory.mktemp("streams") / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("ffv1", rate=FPS) for _ in range(2)]
        for stream, side_px in zip(streams, (64, 96), strict=True):
            stream.width = stream.height = side_px
            stream.pix_fmt = "bgr0"
        for _ in range(FPS):
            for stream, side_px, value in zip(streams, (64, 96), (0, 255), strict=True):
                picture = np.full((side_px, side_px, 3), value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("wanted", "stream", "value"), [(None, 0, 0), (0, 0, 0), (1, 1, 255)])
def test_the_stream_that_is_asked_for_is_read(
    detector: Detector, two_streams: Path, wanted: int | None, stream: int, value: int
) -> None:
    with open_video(two_streams, detector.bundle.recipe.sampling, video_stream=wanted) as frames:
        assert (frames.info.stream, frames.info.streams) == (stream, 2)
        assert (next(frames) == value).all()


def test_a_stream_that_is_not_there_is_refused(detector: Detector, two_streams: Path) -> None:
    with pytest.raises(MediaError, match=r"two.mkv: no video stream 2; expected 0 to 1"):
        detector.detect(two_streams, video_stream=2)
    with pytest.raises(MediaError, match=r"example.mp4: no video stream 1; expected only 0"):
        detector.detect(EXAMPLE, video_stream=1)


def test_a_file_says_whether_it_was_generated(two_streams: Path) -> None:
    assert probe(EXAMPLE).is_generated
    assert not probe(two_streams).is_generated
