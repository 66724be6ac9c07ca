"""Videos behind http addresses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe
from tests.videos import numbered_pictures, read_number, write_video
from tests.web_server import Site, serve

AS_STORED = SamplingConfig(sample_fps=15, resize="none", crop_px=240)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        yield running


def numbers(address: str) -> list[int]:
    with open_video(address, AS_STORED) as video:
        return [read_number(frame, shown_of_width=240 / 320) for frame in video]


def put(site: Site, tmp_path, name: str, count: int = 20, **options) -> str:
    site.files[f"/{name}"] = write_video(tmp_path / name, numbered_pictures(count, noisy=True), **options).read_bytes()
    return f"{site.address}/{name}"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_server_with_ranges_gives_any_file(site, tmp_path, name):
    address = put(site, tmp_path, name)

    assert numbers(address) == list(range(20))
    assert probe(address).path == address


def test_a_server_without_ranges_gives_what_can_be_read_front_to_back(site, tmp_path):
    site.answers_ranges = False

    assert numbers(put(site, tmp_path, "a.mkv")) == list(range(20))
    with pytest.raises(MediaError, match="server without ranges, cannot seek: save the file first"):
        numbers(put(site, tmp_path, "index_at_the_end.mp4"))


def test_a_broken_connection_is_taken_up_where_it_broke(site, tmp_path):
    address = put(site, tmp_path, "a.mkv", codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) * 2 // 5

    assert numbers(address) == list(range(20))
    assert len(site.hits) > 2


def test_a_connection_that_breaks_for_good_gives_its_frames_and_then_an_error(site, tmp_path):
    site.answers_ranges = False
    address = put(site, tmp_path, "a.mkv", codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) // 2
    found = []

    with open_video(address, AS_STORED) as video, pytest.raises(MediaError, match=r"a.mkv: .* broke after \d+ bytes"):
        found.extend(read_number(frame, shown_of_width=240 / 320) for frame in video)

    assert found == list(range(len(found)))
    assert 5 < len(found) < 15


def test_redirects_are_not_followed(site, tmp_path):
    put(site, tmp_path, "secret.mkv")
    site.redirects["/a.mkv"] = f"{site.address}/secret.mkv"

    with pytest.raises(MediaError, match=r"a.mkv: redirects to http://.*/secret.mkv; name that address itself"):
        numbers(f"{site.address}/a.mkv")
    assert site.hits == ["/a.mkv"]


def test_what_the_server_refuses_is_told(site):
    with pytest.raises(MediaError, match=r"/missing.mp4: the server says 404 Not Found"):
        numbers(f"{site.address}/missing.mp4")


def test_no_server_is_told():
    with pytest.raises(MediaError, match=r"http://127.0.0.1:9/a.mp4: cannot be reached: .*refused"):
        numbers("http://127.0.0.1:9/a.mp4")


@pytest.mark.parametrize("address", ["http://", "http://[/a.mp4", "http:///a.mp4"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(MediaError, match="cannot be reached"):
        numbers(address)


def test_closing_does_not_wait_for_a_server_that_has_gone_silent(site, tmp_path):
    address = put(site, tmp_path, "a.mkv", count=60, codec="ffv1")
    site.stall_after_bytes = len(site.files["/a.mkv"]) // 2

    video = open_video(address, AS_STORED)
    next(video)
    began_s = time.perf_counter()
    video.close()

    assert time.perf_counter() - began_s < 2
    assert list(video) == []
