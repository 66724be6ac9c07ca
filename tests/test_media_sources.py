"""What may be opened: files, pipes and addresses that the user names."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import byte_sources, file_sha256, open_video, probe
from tallformer_infer.media.byte_sources import open_source
from tallformer_infer.media.decoding import READ_BYTES
from tallformer_infer.media.given import FileObjectBytes
from tests.videos import numbered_pictures, read_number, write_video

AS_STORED = SamplingConfig(sample_fps=15, resize="none", crop_px=240)


def numbers(source: str | Path) -> list[int]:
    with open_video(source, AS_STORED) as video:
        return [read_number(frame, shown_of_width=240 / 320) for frame in video]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "plain.mp4", numbered_pictures(20))


@pytest.mark.parametrize(
    "name",
    [
        "a:b.mp4",
        "http:x.mp4",
        "file:x.mp4",
        "concat:a.mp4|b.mp4",
        "frame%03d.mp4",
        "frame%03d.png",
        "*.mp4",
        "-x.mp4",
        "no suffix",
        "list.m3u8",
        "movie.txt",
        "дом 家 🎬.mp4",
        "quote'\"\\.mp4",
        "new\nline.mp4",
    ],
)
def test_any_name_is_just_a_name(tmp_path, video, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.rename(name)

    assert numbers(name) == list(range(20))
    assert numbers(tmp_path / name) == list(range(20))


def test_a_path_object_is_always_a_file(tmp_path, video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.rename("-")

    assert numbers(Path("-")) == list(range(20))


def test_a_symbolic_link_is_followed(tmp_path, video):
    link = tmp_path / "link.mp4"
    link.symlink_to(video)

    assert numbers(link) == list(range(20))


@pytest.mark.parametrize("name", ["x.mp4", "no/such/folder/x.mp4"])
def test_a_missing_file_says_so(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(MediaError, match=f"^{name}: no such video$"):
        open_video(name, AS_STORED)
    with pytest.raises(MediaError, match=f"^{name}: no such video$"):
        probe(name)


@pytest.mark.parametrize(
    "address", ["file:{}", "file://{}", "concat:{}", "subfile,,start,0,end,0,,:{}", "crypto:{}", "async:{}", "ftp://{}"]
)
def test_protocols_of_ffmpeg_are_not_known(video, address):
    with pytest.raises(MediaError, match="no such video"):
        open_video(address.format(video), AS_STORED)


def test_an_address_of_another_kind_says_which_are_read(tmp_path):
    with pytest.raises(
        MediaError,
        match=r"rtsp://x/y: no such video; only files, - \(standard input\) and http\(s\) addresses are read",
    ):
        open_video("rtsp://x/y", AS_STORED)


def test_a_folder_says_so(tmp_path):
    with pytest.raises(MediaError, match="a directory, expected a video file"):
        open_video(tmp_path, AS_STORED)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_is_not_opened():
    with pytest.raises(MediaError, match="/dev/zero: a device or socket, expected a video file"):
        open_video("/dev/zero", AS_STORED)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="a superuser may read everything")
def test_a_file_that_may_not_be_read_says_so(video):
    video.chmod(0)

    with pytest.raises(MediaError, match="cannot be read: Permission denied"):
        open_video(video, AS_STORED)


def test_a_name_with_a_null_character_is_refused():
    with pytest.raises(MediaError, match="cannot be read: embedded null byte"):
        open_video("a\0b.mp4", AS_STORED)


def test_a_file_without_video_says_so(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 44_100
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    with pytest.raises(MediaError, match=r"sound.mp4: no video stream"):
        open_video(path, AS_STORED)


def with_cover(path: Path, *, film: bool) -> Path:
    """An MP4 with a cover picture (number 99), with or without a film (numbers from 0, smaller than the cover)."""
    cover = write_video(
        path.with_suffix(".png"), numbered_pictures(1, first=99, height_px=480, width_px=640), codec="png"
    )
    source = write_video(path.with_suffix(".film.mp4"), numbered_pictures(20))
    with av.open(str(path), "w") as target, av.open(str(cover)) as pictures, av.open(str(source)) as films:
        attached = target.add_stream_from_template(pictures.streams.video[0])
        attached.disposition = av.stream.Disposition.attached_pic
        moving = target.add_stream_from_template(films.streams.video[0]) if film else None
        for packet in pictures.demux(video=0):
            if packet.size:
                packet.stream = attached
                target.mux(packet)
        for packet in films.demux(video=0):
            if packet.size and moving:
                packet.stream = moving
                target.mux(packet)
    return path


def test_a_cover_picture_is_not_the_video(tmp_path):
    path = with_cover(tmp_path / "covered.mp4", film=True)

    assert numbers(path) == list(range(20))


def test_a_cover_picture_alone_is_no_video(tmp_path):
    path = with_cover(tmp_path / "cover.mp4", film=False)
    with av.open(str(path)) as container:
        assert container.streams.video  # FFmpeg calls it a video stream

    with pytest.raises(MediaError, match="no video stream"):
        open_video(path, AS_STORED)


def feed(fifo: Path, data: bytes) -> threading.Thread:
    def write() -> None:
        with suppress(BrokenPipeError), open(fifo, "wb") as pipe:  # noqa: PTH123
            pipe.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".h264"])
def test_a_named_pipe_is_read(tmp_path, suffix):
    path = write_video(tmp_path / f"a{suffix}", numbered_pictures(20))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = feed(fifo, path.read_bytes())

    found = numbers(fifo)
    writer.join()

    assert found == list(range(20))


@pytest.mark.parametrize(
    "options", [{}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}, {"movflags": "frag_keyframe"}]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_an_mp4_comes_through_a_pipe_wherever_its_index_is(tmp_path, suffix, options):
    video = write_video(tmp_path / f"a{suffix}", numbered_pictures(60, noisy=True), container_options=options)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = feed(fifo, video.read_bytes())

    found = numbers(fifo)
    writer.join()

    assert found == list(range(60))


def test_an_mp4_with_its_index_first_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    first = write_video(
        tmp_path / "first.mp4", numbered_pictures(60, noisy=True), container_options={"movflags": "faststart"}
    )

    assert numbers_of_stream(first.read_bytes()) == list(range(60))


def numbers_of_stream(data: bytes) -> list[int]:
    """Numbers in a film that a program hands over as a file object that cannot seek."""
    file = io.BytesIO(data)
    file.seekable = lambda: False  # type: ignore[method-assign]
    with open_video(file, AS_STORED) as video:
        return [read_number(frame, shown_of_width=240 / 320) for frame in video]


def test_a_kept_file_has_a_limit_and_leaves_nothing(tmp_path, monkeypatch):
    last = write_video(tmp_path / "last.mp4", numbered_pictures(60, noisy=True)).read_bytes()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    assert numbers_of_stream(last) == list(range(60))
    monkeypatch.setattr(byte_sources, "MAX_SPOOLED_BYTES", len(last) - 1)
    with pytest.raises(MediaError, match=r"<file>: cannot be read: its index comes last, after more than \d+ GiB"):
        numbers_of_stream(last)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    last = write_video(tmp_path / "last.mp4", numbered_pictures(60, noisy=True)).read_bytes()

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)

    with pytest.raises(MediaError, match="cannot be written to a temporary file: No space left on device"):
        numbers_of_stream(last)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\0\0\0\x18ftypmp42", b"\0\0\0\x01mdat", b"\0\0\0\x08free"]))
def test_whatever_comes_through_a_pipe_comes_out_as_it_was(data, beginning):
    source = byte_sources.SpooledBytes(FileObjectBytes(io.BytesIO(beginning + data)))
    source.seekable()

    assert b"".join(iter(lambda: source.read(7), b"")) == beginning + data
    source.close()


def test_closing_does_not_wait_for_a_pipe_whose_index_has_not_come(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    os.write(writer, write_video(tmp_path / "a.mp4", numbered_pictures(5)).read_bytes()[:2000])
    source = byte_sources.SpooledBytes(open_source(fifo))
    threading.Timer(0.2, source.abort).start()
    began_s = time.perf_counter()

    assert source.read(10) == b""
    assert time.perf_counter() - began_s < 2
    source.close()
    os.close(writer)


PROGRAM = """
import sys
from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video
from tallformer_infer.errors import MediaError
try:
    with open_video(sys.argv[1], SamplingConfig()) as video:
        print(len(list(video)), video.info.path)
except MediaError as error:
    print(error)
"""


def run_with_stdin(name: str, **stdin: object) -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, check=True, **stdin)
    assert done.stderr == b""
    return done.stdout.decode().strip()


@pytest.mark.parametrize("name", ["-", "pipe:"])
def test_standard_input_is_read_as_a_pipe(tmp_path, name):
    path = write_video(tmp_path / "a.mkv", numbered_pictures(20))

    assert run_with_stdin(name, input=path.read_bytes()) == f"20 {name}"


def test_standard_input_from_a_file_may_seek(video):
    with video.open("rb") as file:
        assert run_with_stdin("-", stdin=file) == "20 -"


def test_standard_input_that_is_a_device_is_refused():
    assert "standard input is a terminal or device" in run_with_stdin("-", stdin=subprocess.DEVNULL)


def test_the_hash_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 1_000_000)

    assert file_sha256(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert file_sha256(str(path)) == file_sha256(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "first.mp4", "cut.mkv"])
def test_a_video_is_hashed_as_it_is_read_and_every_byte_of_it_once(tmp_path, monkeypatch, name):
    path = write_video(
        tmp_path / name,
        numbered_pictures(60, noisy=True),
        container_options={"movflags": "faststart"} if name == "first.mp4" else {},
    )
    if name.startswith("cut"):
        path.write_bytes(path.read_bytes()[:-20_000])
    expected, read = hashlib.sha256(path.read_bytes()).hexdigest(), []
    system_read = os.read
    monkeypatch.setattr(os, "read", lambda *arguments: read.append(system_read(*arguments)) or read[-1])

    with open_video(path, AS_STORED, threads=1, is_hashed=True) as video:
        assert list(video)
        assert (video.sha256, video.notes) == (expected, ())

    assert sum(map(len, read)) < 1.5 * path.stat().st_size + 3 * READ_BYTES


def test_a_file_that_changes_while_it_is_read_is_noted(tmp_path, video):
    with open_video(video, AS_STORED, queue_frames=1) as stream:
        next(stream)
        with video.open("ab") as file:
            file.write(b"more")
        assert len(list(stream)) == 19
        assert stream.notes == ("the file changed while it was read",)


def test_only_regular_files_have_a_hash(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    for source in ("-", "pipe:", "http://127.0.0.1/a.mp4", tmp_path, tmp_path / "fifo", tmp_path / "missing"):
        assert file_sha256(source) is None
