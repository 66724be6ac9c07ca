"""Videos behind http addresses."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tallformer_infer.archive.processes import LEAST_S
from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import open_video, probe, web
from tallformer_infer.media.web import RECONNECTS, Version, WebBytes, version_on_web
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


def test_a_server_without_ranges_gives_an_mp4_with_its_index_at_the_end(site, tmp_path):
    site.answers_ranges = False
    address = put(site, tmp_path, "a.mp4")

    assert numbers(address) == list(range(20))
    assert probe(address).duration_s == pytest.approx(20 / 15, abs=0.01)
    assert len(site.hits) == 2


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

    with pytest.raises(MediaError, match=r"a.mkv: redirects to http://.*/secret.mkv; use that address"):
        numbers(f"{site.address}/a.mkv")
    assert site.hits == ["/a.mkv"]


def test_what_the_server_refuses_is_told(site):
    with pytest.raises(MediaError, match=r"/missing.mp4: the server answered 404 Not Found"):
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


CONTENT = bytes(range(256)) * 400
VERSIONS = [
    ({"ETag": '"one"'}, {"ETag": '"two"'}),
    ({"ETag": 'W/"one"'}, {"ETag": 'W/"two"'}),
    ({"Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}, {"Last-Modified": "Sat, 28 Nov 2026 10:00:01 GMT"}),
]


def read_all(site: Site) -> tuple[bytes, str | None]:
    """What comes of `CONTENT`, and why it ended."""
    source = WebBytes(f"{site.address}/a.bin")
    found = b"".join(iter(lambda: source.read(1000), b""))
    source.close()
    return found, source.failure


@pytest.fixture
def breaking(site: Site) -> Site:
    """A server that hangs up after a third of the file, each time."""
    site.files["/a.bin"] = CONTENT
    site.break_after_bytes = len(CONTENT) // 3
    return site


@pytest.mark.parametrize(("before", "after"), VERSIONS)
def test_a_file_that_changes_between_two_ranges_is_an_error_and_not_spliced(breaking, before, after):
    breaking.headers = before
    breaking.on_answer = lambda number: breaking.headers.update(after) if number == 2 else None

    assert read_all(breaking) == (CONTENT[: len(CONTENT) // 3], "changed while it was read; try again")


def test_a_file_that_grows_between_two_ranges_is_an_error_where_the_server_tells_no_version(breaking):
    breaking.on_answer = lambda number: breaking.files.update({"/a.bin": CONTENT + b"more"}) if number == 2 else None

    assert read_all(breaking)[1] == "changed while it was read; try again"


def test_a_video_that_changes_while_it_is_read_is_one_line(site, tmp_path):
    address = put(site, tmp_path, "a.mkv", count=60, codec="ffv1")
    site.break_after_bytes = len(site.files["/a.mkv"]) // 8
    site.headers = {"ETag": '"one"'}
    site.on_answer = lambda number: site.headers.update({"ETag": '"two"'}) if number == 6 else None

    with (
        pytest.raises(MediaError, match=r"a\.mkv: [^\n]*changed while it was read; try again$"),
        closing(open_video(address, AS_STORED)) as video,
    ):
        list(video)


@pytest.mark.parametrize("headers", [{}, *(before for before, _ in VERSIONS)])
def test_tries_count_only_without_progress(breaking, headers):
    breaking.headers = headers
    breaking.break_after_bytes = len(CONTENT) // (4 * RECONNECTS)

    assert read_all(breaking) == (CONTENT, None)
    assert len(breaking.hits) > 2 * RECONNECTS


def test_a_server_that_is_busy_for_a_moment_is_asked_again(breaking):
    breaking.on_answer = lambda number: setattr(breaking, "busy", 1) if number == 2 else None

    assert read_all(breaking) == (CONTENT, None)


def test_a_server_that_hangs_up_at_once_is_given_up(breaking):
    breaking.on_answer = lambda number: setattr(breaking, "break_after_bytes", 0) if number > 1 else None

    found, reason = read_all(breaking)

    assert reason == f"the connection broke after {len(found)} bytes"
    assert len(breaking.hits) == 1 + RECONNECTS


def test_a_silent_server_is_given_up_before_a_worker_is_taken_for_dead(breaking, monkeypatch):
    default_factor = 30  # of --timeout-factor
    assert default_factor * LEAST_S >= web.PATIENCE_S + 10
    monkeypatch.setattr(web, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(web, "PATIENCE_S", 0.5)
    breaking.stall_after_bytes, breaking.break_after_bytes = 50_000, None
    breaking.on_answer = lambda number: setattr(breaking, "stall_after_bytes", 0) if number > 1 else None
    began_s = time.perf_counter()

    found, reason = read_all(breaking)

    assert found == CONTENT[:50_000]
    assert reason is not None
    assert re.match("the server sent nothing for|the connection broke after", reason)
    assert time.perf_counter() - began_s < 5


@pytest.mark.parametrize("refusal", [403, 405, 501])
def test_an_address_that_refuses_head_tells_its_version_by_its_first_byte(site, tmp_path, refusal):
    address = put(site, tmp_path, "a.mkv")
    site.headers = {"ETag": '"one"'}
    by_head = version_on_web(address)
    site.answers_head = refusal

    assert version_on_web(address) == by_head == Version('"one"', "", len(site.files["/a.mkv"]))
