"""`--hwaccel`: what is refused and what falls back on a machine without devices, and the pixels of downloaded frames.

No device decodes here. Where one would, a stand-in gives what FFmpeg documents for it: the same frames as nv12.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest
from av.codec import Codec
from numpy.typing import NDArray
from typer.testing import CliRunner

from tallformer_infer import cli
from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import DeviceError, MediaError
from tallformer_infer.media import SOFTWARE, Hardware, choose_hardware, decoding, open_video
from tallformer_infer.media import hardware as hardware_module
from tallformer_infer.media.hardware import KINDS, offered_kinds, why_closed, why_unfit
from tallformer_infer.pipeline import Detector
from tallformer_infer.results import actions_document, load_schema, results_of_document
from tests.result_samples import result
from tests.videos import textured_pictures, write_video

EXAMPLE = Path(__file__).parents[1] / "docs" / "example" / "example.mp4"
SAMPLING = SamplingConfig(sample_fps=15, resize="squash", resize_px=64, crop_px=56)
AUTO, REQUIRED = (Hardware("cuda", is_required=required, reason="for a test") for required in (False, True))

nothing_opens = pytest.mark.skipif(
    any(why_closed(kind) is None for kind in offered_kinds()), reason="a hardware decoder opens here"
)
needs_cuda_built_in = pytest.mark.skipif("cuda" not in offered_kinds(), reason="this FFmpeg is built without NVDEC")


def pictures_of(path: Path, hardware: Hardware, *, threads: int | None = None) -> NDArray[np.uint8]:
    with open_video(path, SAMPLING, threads=threads, hardware=hardware) as stream:
        return np.stack(list(stream))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A film in H.264 with B-frames and odd chroma, 4:2:0."""
    frames = textured_pictures(45, height_px=98, width_px=130)
    return write_video(tmp_path / "film.mp4", frames, fps=30, codec_options={"bf": "2", "g": "12"})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """A device that gives every frame as nv12; the list has the kinds that containers were opened with."""
    opened: list[str | None] = []
    open_here = decoding.open_container

    def open_container(source, path, *, hwaccel=None):
        opened.append(hwaccel)
        return open_here(source, path)

    decode = decoding.Decoder._decode

    def as_downloaded(self, *arguments) -> Iterator[object]:
        for item in decode(self, *arguments):
            if self.hwaccel is None or not isinstance(item, av.VideoFrame):
                yield item
                continue
            frame = item.reformat(format="nv12")
            frame.pts, frame.dts = item.pts, item.dts
            yield frame

    monkeypatch.setattr(decoding, "open_container", open_container)
    monkeypatch.setattr(decoding.Decoder, "_decode", as_downloaded)
    monkeypatch.setattr(decoding, "is_on_device", lambda *_: True)
    monkeypatch.setattr(decoding, "why_unfit", lambda *_: None)
    return opened


@nothing_opens
def test_auto_without_a_device_says_that_the_processor_decodes_and_why() -> None:
    chosen = choose_hardware("auto")

    assert (chosen.kind, chosen.is_required) == (None, False)
    assert chosen.reason.startswith("the processor decodes: ")
    assert all(f"{kind} does not open: " in chosen.reason for kind in offered_kinds())


@nothing_opens
@pytest.mark.parametrize("kind", KINDS)
def test_a_named_kind_that_is_not_here_is_refused_with_what_ffmpeg_offers(kind) -> None:
    offered = ", ".join(offered_kinds()) or "no hardware decoder"
    reason = r"no device opens \(.+\)" if kind in offered_kinds() else "not in this build of FFmpeg"

    with pytest.raises(
        DeviceError, match=rf"^hwaccel {kind}: {reason}; FFmpeg here offers {offered}; use auto or none$"
    ):
        choose_hardware(kind)


@nothing_opens
def test_detect_refuses_a_named_kind_in_one_line() -> None:
    ran = CliRunner().invoke(cli.app, ["detect", str(EXAMPLE), "--model", "demo", "--hwaccel", "cuda"])

    assert ran.exit_code == 1
    assert isinstance(ran.exception, DeviceError)
    assert str(ran.exception).count("\n") == 0


@nothing_opens
def test_label_refuses_a_named_kind_before_a_worker_starts(tmp_path) -> None:
    command = ["label", str(EXAMPLE), "--model", "demo", "--out", str(tmp_path / "out"), "--hwaccel", "cuda"]

    ran = CliRunner().invoke(cli.app, command)

    assert isinstance(ran.exception, DeviceError)
    assert not list((tmp_path / "out").glob("results/*"))


@nothing_opens
def test_auto_gives_the_actions_of_none_to_the_byte(tmp_path) -> None:
    documents = {}
    for hwaccel in ("none", "auto"):
        out = tmp_path / f"{hwaccel}.json"
        command = [
            "detect",
            str(EXAMPLE),
            "--model",
            "demo",
            "--device",
            "cpu",
            "--hwaccel",
            hwaccel,
            "--out",
            str(out),
        ]
        ran = CliRunner().invoke(cli.app, command)
        assert ran.exit_code == 0, ran.output
        assert ("decoding: the processor decodes: " in ran.stderr) == (hwaccel == "auto")
        documents[hwaccel] = json.loads(out.read_text())
        for video in documents[hwaccel]["videos"]:
            del video["timings_s"]

    assert documents["auto"] == documents["none"]
    assert documents["none"]["videos"][0]["actions"]


@needs_cuda_built_in
@pytest.mark.parametrize(
    ("codec", "pixel_format", "hardware", "problem"),
    [
        ("libx264", "yuv420p", AUTO, None),
        ("libx264", "yuv444p", AUTO, "cuda does not decode pixels of format yuv444p"),
        ("libx264", "yuv444p", REQUIRED, "cuda does not decode pixels of format yuv444p"),
        ("ffv1", "yuv420p", AUTO, "cuda does not decode ffv1"),
        ("mpeg4", "yuv420p", AUTO, "two decoders of mpeg4 may differ"),
        ("mpeg4", "yuv420p", REQUIRED, None),
    ],
)
def test_a_device_is_given_what_it_can_decode_to_the_bit(tmp_path, codec, pixel_format, hardware, problem) -> None:
    frames = textured_pictures(3, height_px=64, width_px=64)
    film = write_video(tmp_path / "a.mkv", frames, codec=codec, pixel_format=pixel_format)

    with av.open(str(film)) as container:
        assert why_unfit(container.streams.video[0].codec_context, hardware) == problem


@needs_cuda_built_in
def test_a_video_that_is_not_for_the_device_is_decoded_with_a_note_or_refused(tmp_path) -> None:
    film = write_video(tmp_path / "a.mkv", textured_pictures(5, height_px=64, width_px=64), codec="ffv1")

    with open_video(film, SAMPLING, hardware=AUTO) as stream:
        pictures = np.stack(list(stream))
        assert stream.notes == ("decoded on the CPU: cuda does not decode ffv1",)
        assert stream.info.hwaccel is None

    assert np.array_equal(pictures, pictures_of(film, SOFTWARE))
    message = rf"^{film}: cannot be decoded by cuda: cuda does not decode ffv1; use --hwaccel auto or none$"
    with pytest.raises(MediaError, match=message):
        open_video(film, SAMPLING, hardware=REQUIRED)


@needs_cuda_built_in
@nothing_opens
def test_a_device_that_no_longer_opens_leaves_the_video_to_the_processor(path) -> None:
    with open_video(path, SAMPLING, hardware=AUTO) as stream:
        pictures = np.stack(list(stream))
        assert len(stream.notes) == 1
        assert stream.notes[0].startswith("decoded on the CPU: cannot be opened as video: ")

    assert np.array_equal(pictures, pictures_of(path, SOFTWARE))


@pytest.mark.parametrize("hardware", [AUTO, REQUIRED])
def test_frames_downloaded_as_nv12_give_the_same_pixels(path, device, hardware) -> None:
    with open_video(path, SAMPLING, hardware=hardware) as stream:
        downloaded = np.stack(list(stream))
        assert (stream.info.hwaccel, stream.notes, stream.decode_errors) == ("cuda", (), 0)

    assert device == [None, "cuda"]
    assert np.array_equal(downloaded, pictures_of(path, SOFTWARE))


def test_ten_bits_downloaded_as_p010_give_the_same_pixels(tmp_path) -> None:
    film = write_video(
        tmp_path / "ten.mkv", textured_pictures(6, height_px=96, width_px=128), codec="ffv1", pixel_format="yuv420p10le"
    )
    with av.open(str(film)) as container:
        for frame in container.decode(video=0):
            stored, downloaded = (
                each.reformat(width=64, height=64, format="rgb24", interpolation="BICUBIC").to_ndarray().astype(int)
                for each in (frame, frame.reformat(format="p010le"))
            )
            assert np.abs(stored - downloaded).max() <= 1


def test_where_a_device_gives_the_frames_of_the_processor_it_starts_over_with_all_threads(
    path, device, monkeypatch
) -> None:
    monkeypatch.setattr(decoding, "is_on_device", lambda *_: False)

    with open_video(path, SAMPLING, hardware=AUTO) as stream:
        pictures = np.stack(list(stream))
        assert stream.info.hwaccel is None
        assert stream.notes == ("decoded on the CPU: cuda does not support this profile or size",)
        assert stream.decode_errors == 0

    assert device == [None, "cuda", None]
    assert np.array_equal(pictures, pictures_of(path, SOFTWARE))
    with pytest.raises(MediaError, match="cannot be decoded by cuda: cuda does not support this profile or size"):
        open_video(path, SAMPLING, hardware=REQUIRED)


def test_a_pipe_is_left_to_the_processor(tmp_path, device) -> None:
    film = write_video(tmp_path / "film.ts", textured_pictures(20, height_px=64, width_px=64))

    class Pipe(io.RawIOBase):
        """A file that only goes forward."""

        def __init__(self) -> None:
            self._content = io.BytesIO(film.read_bytes())

        def read(self, size: int = -1) -> bytes:
            return self._content.read(size)

    with open_video(Pipe(), SAMPLING, hardware=AUTO) as stream:
        assert len(list(stream)) > 0
        assert stream.info.hwaccel is None
        assert stream.notes == ("decoded on the CPU: a pipe cannot be reopened",)


def test_the_device_is_written_beside_the_codec_and_read_back() -> None:
    plain = result()
    decoded = replace(plain, video=replace(plain.video, hwaccel="vaapi"))
    document = actions_document([decoded])

    jsonschema.validate(document, load_schema())
    assert document["videos"][0]["hwaccel"] == "vaapi"
    assert results_of_document(document)[0].video.hwaccel == "vaapi"
    assert "hwaccel" not in actions_document([plain])["videos"][0]


def test_python_takes_the_same_names() -> None:
    assert Detector.load("demo", device="cpu", threads=1).hardware is SOFTWARE
    auto = Detector.load("demo", device="cpu", threads=1, hwaccel="auto")
    assert auto.hardware == choose_hardware("auto")


def test_kinds_are_those_of_ffmpegs_own_decoders() -> None:
    """Decoders that belong to a device are never selected for a container, so what only they offer is not offered."""
    assert set(offered_kinds()) <= set(KINDS)
    for name in hardware_module.EXACT_CODECS:
        assert Codec(name, "r").name == name
