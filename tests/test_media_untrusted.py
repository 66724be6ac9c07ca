"""Files that want other files or addresses opened. Each trap is first shown to work on FFmpeg left to itself."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe
from tallformer_infer.media.byte_sources import open_source
from tallformer_infer.media.decoding import SELF_CONTAINED_FORMATS
from tests.videos import numbered_pictures, read_number, write_video
from tests.web_server import Site, serve

AS_STORED = SamplingConfig(sample_fps=15, resize="none", crop_px=240)
SECRET = 1000
REFUSED = r"(not a video file \(playlists|cannot be opened as video)"


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that only its owner should name."""
    return write_video(tmp_path / "secret.ts", numbered_pictures(20, first=SECRET))


def unguarded(path: Path, **options: str) -> list[int]:
    """What FFmpeg reads when nothing holds it back."""
    with av.open(str(path), format=options.pop("format", None), options=options) as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def refuse(path: Path) -> None:
    for read in (probe, lambda source: open_video(source, AS_STORED)):
        with pytest.raises(MediaError, match=REFUSED):
            read(path)


def playlist(path: Path, target: str) -> Path:
    path.write_text(f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a.mkv"])
def test_an_hls_playlist_does_not_open_a_local_file(tmp_path, secret, name):
    path = playlist(tmp_path / name, str(secret))
    assert SECRET in unguarded(path, format="hls")

    refuse(path)


@pytest.mark.parametrize("byte_order_mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("is_pipe", [False, True])
def test_an_hls_playlist_is_told_as_what_it_is(tmp_path, secret, is_pipe, byte_order_mark):
    path = playlist(tmp_path / "a.m3u8", str(secret))
    data = byte_order_mark + path.read_bytes()
    path.unlink()
    if is_pipe:
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=[data]).start()
    else:
        path.write_bytes(data)

    with pytest.raises(MediaError, match=r"a.m3u8: not a video file \(playlists, .* are not read\)$"):
        probe(path)


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4"])
def test_an_hls_playlist_reaches_no_address(tmp_path, secret, site, name):
    site.files["/secret.ts"] = secret.read_bytes()
    path = playlist(tmp_path / name, f"{site.address}/secret.ts")
    assert SECRET in unguarded(path, format="hls", protocol_whitelist="file,http,tcp")
    site.hits.clear()

    refuse(path)

    assert site.hits == []


@pytest.mark.parametrize("target", ["file", "address"])
def test_even_an_allowed_playlist_could_open_nothing(tmp_path, secret, site, target):
    site.files["/secret.ts"] = secret.read_bytes()
    path = playlist(tmp_path / "a.m3u8", str(secret) if target == "file" else f"{site.address}/secret.ts")
    source = open_source(path)

    with pytest.raises(av.error.FFmpegError):
        av.open(source, "r", format="hls", container_options={"protocol_whitelist": ""})

    source.close()
    assert site.hits == []


@pytest.mark.parametrize("name", ["a.ffconcat", "a.mp4"])
def test_a_concat_script_opens_nothing(tmp_path, secret, name):
    path = tmp_path / name
    path.write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    assert SECRET in unguarded(path, format="concat", safe="0")

    refuse(path)
    with pytest.raises(MediaError, match=r"not a video file \(playlists, scripts and images .* are not read\)"):
        probe(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("a.mpd", '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>\n'),
        ("a.xml", '<?xml version="1.0"?>\n<AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"/>\n'),
        ("a.avs", 'AviSource("secret.avi")\n'),
        ("a.smil", "<smil><body><video src='secret.mp4'/></body></smil>\n"),
        ("a.asx", "<asx version='3.0'><entry><ref href='secret.mp4'/></entry></asx>\n"),
        ("a.rtsp", "RTSPtext\nrtsp://127.0.0.1/x\n"),
    ],
)
def test_scripts_and_descriptions_are_no_videos(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    refuse(path)

    disguised = tmp_path / "film.mp4"
    disguised.write_text(text)
    refuse(disguised)


def test_a_name_that_looks_like_a_pattern_opens_no_other_file(tmp_path):
    write_video(tmp_path / "frame000.png", numbered_pictures(1, first=SECRET), codec="png")
    path = tmp_path / "frame%03d.png"
    assert unguarded(path) == [SECRET]

    with pytest.raises(MediaError, match=r"frame%03d.png: no such video"):
        open_video(path, AS_STORED)
    path.write_text("now it is there, but no video")
    refuse(path)


@pytest.mark.parametrize(
    "name",
    [
        "image2",
        "hls",
        "dash",
        "concat",
        "imf",
        "sdp",
        "rtsp",
        "lavfi",
        "avisynth",
        "png_pipe",
        "mlv",
        "vobsub",
        "webm_dash_manifest",
    ],
)
def test_no_demuxer_that_opens_other_things_is_allowed(name):
    assert name not in SELF_CONTAINED_FORMATS.split(",")


def test_an_mp4_that_keeps_its_pictures_in_another_file_does_not_get_them(tmp_path, secret):
    other = write_video(tmp_path / "other.mov", numbered_pictures(4, first=SECRET), codec="rawvideo")
    own = write_video(tmp_path / "own.mov", numbered_pictures(4), codec="rawvideo")
    path = tmp_path / "pointing.mov"
    path.write_bytes(refer_to(own.read_bytes(), str(other)))
    assert SECRET in unguarded(path, enable_drefs="1", use_absolute_path="1")

    with pytest.raises(MediaError, match=r"pointing.mov: no frame can be decoded"):
        open_video(path, AS_STORED)


def refer_to(movie: bytes, target: str) -> bytes:
    """A QuickTime movie with its index last, whose index says that the pictures are in the file `target`."""
    path = b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"
    alias = (
        bytes(10) + bytes([3]) + b"vol".ljust(27, b"\0") + bytes(12) + bytes([1]) + b"x".ljust(63, b"\0") + bytes(16)
    )
    alias += struct.pack(">hh", 1, 1) + bytes(16)
    name = target.encode()
    alias += struct.pack(">hh", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hh", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    return replace_atom(movie, path, bytes(4) + struct.pack(">I", 1) + entry)


def replace_atom(data: bytes, path: tuple[bytes, ...], content: bytes) -> bytes:
    """Replace what the first atom at `path` holds; the sizes of the atoms around it follow."""
    at = 0
    while data[at + 4 : at + 8] != path[0]:
        at += struct.unpack_from(">I", data, at)[0]
    size = struct.unpack_from(">I", data, at)[0]
    inner = replace_atom(data[at + 8 : at + size], path[1:], content) if len(path) > 1 else content
    return data[:at] + struct.pack(">I4s", 8 + len(inner), path[0]) + inner + data[at + size :]


OPENING = """
import sys
from pathlib import Path
from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (probe, lambda path: list(open_video(path, SamplingConfig()))):
        try:
            read(path)
        except MediaError as error:
            print(error)
"""
TRAPS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n",
    "hls_key.m3u8": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{address}/key"\n#EXTINF:2,\n{address}/secret.ts\n',
    "hls_map.m3u8": '#EXTM3U\n#EXT-X-MAP:URI="{secret}"\n#EXTINF:2,\n{address}/secret.ts\n#EXT-X-ENDLIST\n',
    "plain.m3u": "{secret}\n{address}/secret.ts\n",
    "list.pls": "[playlist]\nFile1={secret}\nFile2={address}/secret.ts\n",
    "list.xspf": "<playlist><trackList><track><location>{address}/secret.ts</location></track></trackList></playlist>",
    "concat.ffconcat": "ffconcat version 1.0\nfile '{secret}'\nfile '{address}/secret.ts'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "manifest.mpd": "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{address}/</BaseURL><Period/></MPD>",
    "subtitles.idx": "# VobSub index file, v7 \nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 0\n",
    "package.xml": "<CompositionPlaylist xmlns='http://www.smpte-ra.org/schemas/2067-3/2016'/>",
    "script.avs": 'AviSource("{secret}")\n',
    "movie.ref": "RTSPtext\nrtsp://127.0.0.1/x\n",
    "metadata.txt": ";FFMETADATA1\ntitle={address}\n",
    "image%03d.png": "nothing",
    "disc.cue": 'FILE "{secret}" BINARY\n  TRACK 01 MODE2/2352\n',
    "page.smil": "<smil><body><video src='{address}/secret.ts'/></body></smil>",
    "stream.asx": "<asx version='3.0'><entry><ref href='{address}/secret.ts'/></entry></asx>",
}


def test_no_file_makes_us_open_another_file_or_a_connection(tmp_path, secret, site):
    """The system calls of reading each trap, under its own name and as a film."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    traps = tmp_path / "traps"
    traps.mkdir()
    for name, text in TRAPS.items():
        content = text.format(secret=secret, address=site.address)
        (traps / name).write_text(content)
        (traps / f"{name}.mp4").write_text(content)
    own = write_video(tmp_path / "own.mov", numbered_pictures(4), codec="rawvideo")
    (traps / "pointing.mov").write_bytes(refer_to(own.read_bytes(), str(secret)))
    (traps / "first.mlv").write_bytes(b"MLVI" + struct.pack("<I", 52) + b"v2.0".ljust(44, b"\0") + bytes(200))
    for beside in ("subtitles.sub", "first.M00", "image001.png"):
        (tmp_path / beside).write_bytes(secret.read_bytes())
        (traps / beside).symlink_to(tmp_path / beside)
    calls = tmp_path / "calls"
    command = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=openat,open,connect",
        "-o",
        str(calls),
        sys.executable,
        "-c",
        OPENING,
    ]

    done = subprocess.run([*command, str(traps)], capture_output=True, text=True, check=True, env=dict(os.environ))

    opened = re.findall(rf'open(?:at)?\([^"]*"({re.escape(str(tmp_path))}[^"]*)"', calls.read_text())
    assert len(done.stdout.splitlines()) >= 2 * 2 * len(TRAPS)
    assert {Path(path).parent for path in opened} <= {traps, tmp_path}
    beside = ("subtitles.sub", "first.M00", "image001.png")
    times = {name: sum(path == str(traps / name) for path in opened) for name in beside}
    assert times == dict.fromkeys(beside, 2)  # as itself, by us
    assert str(secret) not in opened
    assert not re.search(r"connect\(.*AF_INET6?\b", calls.read_text())
    assert site.hits == []
