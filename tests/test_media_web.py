"""Videos behind http addresses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tallformer_infer.archive.processes import LEAST_S
from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe, web
from tallformer_infer.media.web import RECONNECTS, Version, version_on_web
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


# The first three requests of a Matroska file are for its start, for its index at the end, and for its start again.
VERSIONS = [
    ({"ETag": '"one"'}, {"ETag": '"two"'}),
    ({"ETag": 'W/"one"'}, {"ETag": 'W/"two"'}),
    ({"Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}, {"Last-Modified": "Sat, 28 Nov 2026 10:00:01 GMT"}),
]


@pytest.mark.parametrize(("before", "after"), VERSIONS)
def test_a_file_that_changes_between_two_ranges_is_one_error_and_not_spliced(site, tmp_path, before, after):
    address = put(site, tmp_path, "a.mkv", count=60, codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) // 3
    site.headers = before
    site.on_answer = lambda number: site.headers.update(after) if number == 4 else None
    found = []

    with open_video(address, AS_STORED) as video, pytest.raises(MediaError, match=r"a\.mkv: .*changed while it was re"):
        found.extend(read_number(frame, shown_of_width=240 / 320) for frame in video)

    assert found == list(range(len(found)))
    assert len(found) < 60


def test_a_file_that_grows_between_two_ranges_is_an_error_where_the_server_tells_no_version(site, tmp_path):
    address = put(site, tmp_path, "a.mkv", count=60, codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) // 3
    grown = site.files["/a.mkv"] + b"more"
    site.on_answer = lambda number: site.files.update({"/a.mkv": grown}) if number == 4 else None

    with open_video(address, AS_STORED) as video, pytest.raises(MediaError, match="changed while it was read"):
        list(video)


@pytest.mark.parametrize("headers", [{}, *(before for before, _ in VERSIONS)])
def test_a_file_that_stays_is_read_over_many_connections(site, tmp_path, headers):
    address = put(site, tmp_path, "a.mkv", codec="ffv1")
    site.headers = headers
    site.break_after_bytes = len(site.files["/a.mkv"]) // 8  # more often than there are tries without progress

    assert numbers(address) == list(range(20))
    assert len(site.hits) > RECONNECTS + 2


def test_a_server_that_is_busy_for_a_moment_is_asked_again(site, tmp_path):
    address = put(site, tmp_path, "a.mkv", codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) // 2
    site.on_answer = lambda number: setattr(site, "busy", 1) if number == 4 else None

    assert numbers(address) == list(range(20))


def test_a_server_that_hangs_up_at_once_is_given_up(site, tmp_path):
    address = put(site, tmp_path, "a.mkv", codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) // 2

    def hang_up(number: int) -> None:
        site.break_after_bytes = 0 if number > 3 else site.break_after_bytes

    site.on_answer = hang_up

    with open_video(address, AS_STORED) as video, pytest.raises(MediaError, match=r"the connection broke after \d+ by"):
        list(video)
    assert len(site.hits) == 3 + RECONNECTS


def test_a_silent_server_is_given_up_before_a_worker_is_taken_for_dead(site, tmp_path, monkeypatch):
    default_factor = 30  # of --timeout-factor
    assert default_factor * LEAST_S >= web.PATIENCE_S + 10
    monkeypatch.setattr(web, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(web, "PATIENCE_S", 0.5)
    address = put(site, tmp_path, "a.mkv", count=60, codec="ffv1")
    site.stall_after_bytes = len(site.files["/a.mkv"]) // 2
    site.on_answer = lambda number: setattr(site, "stall_after_bytes", 0) if number > 3 else None
    began_s = time.perf_counter()

    with open_video(address, AS_STORED) as video, pytest.raises(MediaError, match=r"sent nothing for|broke after"):
        list(video)

    assert time.perf_counter() - began_s < 5


@pytest.mark.parametrize("refusal", [403, 405, 501])
def test_an_address_that_refuses_head_tells_its_version_by_its_first_byte(site, tmp_path, refusal):
    address = put(site, tmp_path, "a.mkv")
    site.headers = {"ETag": '"one"'}
    by_head = version_on_web(address)
    site.answers_head = refusal

    assert version_on_web(address) == by_head == Version('"one"', "", len(site.files["/a.mkv"]))
