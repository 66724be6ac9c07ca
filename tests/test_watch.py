"""Live sources: files that grow, pipes, HTTP, and a real RTSP server that goes away and comes back."""

from __future__ import annotations

import datetime
import functools
import http.server
import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tallformer_infer import Detector
from tallformer_infer.errors import MediaError
from tallformer_infer.live import Feed, FeedOptions, Gap, Recorder, Session, watch
from tallformer_infer.live import feed as live_feed
from tallformer_infer.live.watch import Tracker
from tallformer_infer.pipeline import StreamStep
from tallformer_infer.structures import Action

EXAMPLE = Path("docs/example/example.mp4")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("demo", device="cpu")


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The example as MPEG-TS, which can be read from anywhere on."""
    return _transport_stream(root / EXAMPLE, tmp_path_factory.mktemp("ts") / "example.ts")


def _transport_stream(film: Path, path: Path, until_s: float = math.inf) -> Path:
    with av.open(str(film)) as source, av.open(str(path), "w", format="mpegts") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size and packet.pts * packet.time_base < until_s:
                packet.stream = stream
                output.mux(packet)
    return path


def watched(address: str, detector: Detector, **options: Any) -> list[dict[str, Any]]:
    return list(watch(Feed(address, FeedOptions(**options)), detector, threshold=0.5))


def test_a_file_gives_what_detect_gives(detector: Detector, root: Path) -> None:
    expected = detector.detect(root / EXAMPLE, threshold=0.9).actions

    events = watched(str(root / EXAMPLE), detector, idle_s=0.1)

    found = [event for event in events if event["event"] == "action" and event["score"] >= 0.9]
    assert [event["label"] for event in found] == [action.label for action in expected]
    for event, action in zip(found, expected, strict=True):
        assert event["segment"] == pytest.approx([action.start_s, action.end_s], abs=0.05)
    assert events[-1] == {
        "event": "end",
        "sessions": 1,
        "actions": events[-1]["actions"],
        "gaps": 0,
        "dropped_packets": 0,
    }


def test_a_file_is_followed_while_it_grows(detector: Detector, transport_stream: Path, tmp_path: Path) -> None:
    content, growing = transport_stream.read_bytes(), tmp_path / "growing.ts"
    growing.write_bytes(content[: len(content) // 8])

    def grow() -> None:
        for part in range(1, 8):
            time.sleep(0.2)
            with growing.open("ab") as file:
                file.write(content[part * len(content) // 8 : (part + 1) * len(content) // 8])

    threading.Thread(target=grow, daemon=True).start()
    events = watched(str(growing), detector, idle_s=3.0)

    whole = watched(str(transport_stream), detector, idle_s=0.1)
    assert [event["label"] for event in _actions(events)] == [event["label"] for event in _actions(whole)]
    assert len(_actions(whole)) >= 5


def test_a_file_that_still_grows_is_opened_at_once_and_ends_after_one_wait(transport_stream: Path) -> None:
    """Opening once looked for the end of the file and waited there, and each of several reads at the end waited."""
    feed = Feed(str(transport_stream), FeedOptions(idle_s=4.0))
    began_s = time.monotonic()

    found = feed.sessions()
    session = next(found)
    opened_s = time.monotonic() - began_s
    assert isinstance(session, Session)
    assert len(list(session.pictures(0.0))) > 600
    whole_s = time.monotonic() - began_s

    assert opened_s < 4.0
    assert 4.0 <= whole_s < 8.0
    assert list(found) == []


def test_an_action_is_told_while_the_pipe_stays_open_and_silent(root: Path, tmp_path: Path) -> None:
    """What was given is read, decoded, encoded and told without waiting for anything that comes later."""
    film = _transport_stream(root / EXAMPLE, tmp_path / "film.ts", until_s=44.0)  # the last whole clip ends at 42.67 s
    command = [sys.executable, "-m", "tallformer_infer", "watch", "-", "-m", "demo", "--quiet", "--provisional"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(90.0, process.kill)
        watchdog.start()
        process.stdin.write(film.read_bytes())
        lines = (json.loads(line) for line in process.stdout)  # until the watchdog kills it
        told = next((line["label"] for line in lines if "segment" in line and line["segment"][1] > 41.2), None)
        watchdog.cancel()
        process.kill()

    assert told == "orbit"


def test_standard_input_is_read(transport_stream: Path) -> None:
    with transport_stream.open("rb") as content:
        done = subprocess.run(
            [sys.executable, "-m", "tallformer_infer", "watch", "-", "-m", "demo", "--threshold", "0.9"],
            stdin=content,
            capture_output=True,
            timeout=120,
            check=True,
        )

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["label"] for event in _actions(events)} >= {"orbit", "bounce"}


def test_every_provisional_action_ends_once_and_final_ones_are_those_without_the_option(transport_stream: Path) -> None:
    """Through a pipe that gives an eighth of the film at a time."""
    content = transport_stream.read_bytes()
    plain, early = (_piped(content, *options) for options in ((), ("--provisional",)))

    lines = [event for event in early if "id" in event]
    ends = Counter(event["id"] for event in lines if event["event"] != "provisional")
    told = [event for event in lines if event["event"] == "provisional"]
    assert set(ends) == {event["id"] for event in lines}
    assert set(ends.values()) == {1}
    assert [_without_id(event) for event in _actions(early)] == [_without_id(event) for event in _actions(plain)]
    assert len(_actions(plain)) >= 5
    assert {event["id"] for event in _actions(early)} <= {event["id"] for event in told}  # each came earlier, too
    for number in ends:
        own = [event for event in lines if event["id"] == number]
        assert len({event["label"] for event in own}) == 1
        assert own[-1]["event"] != "provisional"
        assert [event["revision"] for event in own[:-1]] == list(range(1, len(own)))


def _piped(content: bytes, *options: str) -> list[dict[str, Any]]:
    """Events of a film that comes through a pipe, bit by bit."""
    command = [sys.executable, "-m", "tallformer_infer", "watch", "-", "-m", "demo", "--quiet", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for start in range(0, len(content), -(-len(content) // 8)):
            process.stdin.write(content[start : start + -(-len(content) // 8)])
            process.stdin.flush()
            time.sleep(0.1)
        process.stdin.close()
        return [json.loads(line) for line in process.stdout.read().splitlines()]


def _without_id(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "id"}


def _action(label: str, start_s: float, end_s: float, score: float = 0.9) -> Action:
    return Action(start_s=start_s, end_s=end_s, label=label, score=score)


def test_an_id_grows_ends_and_is_never_used_again() -> None:
    tracker = Tracker()
    steps = [
        StreamStep((), (_action("wave", 10.0, 12.0), _action("jump", 11.0, 12.0))),
        StreamStep((), (_action("wave", 10.0, 12.1), _action("wave", 14.0, 15.0))),  # 0.1 s longer; no jump
        StreamStep((_action("wave", 10.0, 12.1),), (_action("wave", 14.0, 18.0),)),
        StreamStep((_action("jump", 30.0, 31.0),), ()),
    ]

    told = [[(one.kind, one.id, one.revision) for one in tracker.told(step)] for step in steps]

    assert told == [
        [("provisional", 1, 1), ("provisional", 2, 1)],
        [("provisional", 3, 1), ("withdrawn", 2, 1)],  # 0.1 s is not told
        [("final", 1, 1), ("provisional", 3, 2)],
        [("final", 4, 0), ("withdrawn", 3, 2)],
    ]


def test_of_two_that_overlap_an_id_the_larger_tiou_continues_it() -> None:
    tracker = Tracker()
    list(tracker.told(StreamStep((), (_action("wave", 0.0, 10.0),))))

    told = list(tracker.told(StreamStep((), (_action("wave", 0.0, 3.0), _action("wave", 4.0, 10.0)))))

    assert [(one.id, one.action.start_s) for one in told] == [(2, 0.0), (1, 4.0)]


def test_clips_hold_their_action(detector: Detector, root: Path, tmp_path: Path) -> None:
    feed = Feed(str(root / EXAMPLE), FeedOptions(idle_s=0.1, keep_s=200.0))

    events = list(watch(feed, detector, threshold=0.9, recorder=Recorder(tmp_path / "clips")))

    for event in _actions(events):
        start_s, end_s = event["segment"]
        with av.open(event["clip"]) as clip:
            pictures = list(clip.decode(video=0))
        length_s = float(pictures[-1].time - pictures[0].time)
        assert length_s >= min(end_s + 1.5, 44.9) - max(start_s - 2.0, 0.0) - 0.2
    assert not list((tmp_path / "clips").glob(".*"))


@pytest.fixture
def site(transport_stream: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(transport_stream.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_comes_too_fast_is_dropped_counted_and_reported(detector: Detector, site: str) -> None:
    events = watched(f"{site}/example.ts", detector, most_delay_s=2.0, reconnects=False)

    gaps = [event for event in events if event["event"] == "gap"]
    assert gaps
    assert {gap["reason"] for gap in gaps} == {"too slow"}
    assert all("packets were dropped" in gap["detail"] for gap in gaps)
    assert events[-1]["dropped_packets"] > 0


def test_what_waits_is_bounded_over_sessions_that_nobody_has_read(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost every 45 s, on a machine that is busy with the first one."""
    monkeypatch.setattr(live_feed, "_FIRST_WAIT_S", 0.01)
    feed = Feed(f"{site}/example.ts", FeedOptions(most_delay_s=100.0))
    found = feed.sessions()
    first = next(found)
    began = time.time()
    while feed.dropped_packets < 2000 and time.time() - began < 30:  # 675 packets each: in the third, and again
        time.sleep(0.05)

    gap = next(found)
    feed.close()

    assert isinstance(first, Session)
    assert isinstance(gap, Gap)
    assert gap.reason == "too slow"
    assert "this machine is 100 s behind" in gap.detail
    assert gap.start == pytest.approx(first.start, abs=0.01)  # of the first, nothing was read either
    assert gap.end >= gap.start


def test_a_source_that_is_opened_again_and_again_is_seen_whole_and_left_closed(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources once stayed open until a garbage collection; sessions that ended before they were read were lost."""
    monkeypatch.setattr(live_feed, "_FIRST_WAIT_S", 0.01)
    feed, containers = Feed(f"{site}/example.ts", FeedOptions(most_delay_s=1e6)), list[Any]()

    for found in feed.sessions():
        assert all(not container.streams for container in containers)
        if isinstance(found, Session):
            containers.append(found.stream.container)
            assert len(list(found.pictures(1.0))) == 45
        if len(containers) == 5:
            break
    feed.close()

    assert containers[0] is not containers[1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://camera/x", "expected one of rtsp://"),
        ("no such file.mp4", "No such file"),
        ("concat:a|b", "No such file"),
    ],
)
def test_other_sources_are_refused(address: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        Feed(address, FeedOptions())


def test_a_source_that_never_answers_is_an_error(detector: Detector) -> None:
    with pytest.raises(MediaError, match="Connection refused"):
        watched("rtsp://127.0.0.1:9/camera", detector, timeout_s=1.0)


def test_a_playlist_from_the_network_reads_no_local_file(
    detector: Detector, site: str, transport_stream: Path, root: Path
) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:45\n#EXTINF:45,\nfile://{transport_stream}\n#EXT-X-ENDLIST\n"
    (transport_stream.parent / "list.m3u8").write_text(playlist)

    with pytest.raises(MediaError, match=r"list\.m3u8"):
        watched(f"{site}/list.m3u8", detector, reconnects=False, timeout_s=2.0)


Camera = tuple[str, Callable[[], subprocess.Popen[bytes]]]


@pytest.fixture
def camera(root: Path) -> Iterator[Camera]:
    """The address of a camera, and what starts it."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    needs = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if python is None or subprocess.run([python, "-c", needs], capture_output=True, check=False).returncode:
        pytest.skip("needs apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good and -bad")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        script = Path(__file__).parent / "rtsp_server.py"
        started.append(subprocess.Popen([python, str(script), str(root / EXAMPLE), str(port)]))
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return started[-1]
            time.sleep(0.1)
        raise AssertionError("the RTSP server did not start")

    yield f"rtsp://127.0.0.1:{port}/camera", start
    for process in started:
        process.kill()
        process.wait()


def test_a_camera_that_is_away_for_ten_seconds_leaves_a_gap_of_the_wall_clock(
    detector: Detector, camera: Camera
) -> None:
    address, start = camera
    first = start()
    feed = Feed(address, FeedOptions(timeout_s=2.0))
    events = watch(feed, detector, provisional=True)
    moments: dict[str, float] = {}

    def leave() -> None:
        first.send_signal(signal.SIGKILL)
        moments["left"] = time.time()
        threading.Timer(10.0, come_back).start()

    def come_back() -> None:
        start()
        moments["back"] = time.time()

    assert next(events)["event"] == "session"
    threading.Timer(1.0, leave).start()
    gap = next(event for event in events if event["event"] == "gap")
    session = next(events)
    feed.close()

    assert gap["reason"] == "connection"
    assert _seconds(gap["start"]) == pytest.approx(moments["left"], abs=1.0)
    assert _seconds(gap["end"]) > moments["back"] - 1.0
    assert gap["seconds"] == pytest.approx(_seconds(gap["end"]) - _seconds(gap["start"]), abs=0.01)
    assert 10.0 <= gap["seconds"] < 40.0  # asked again after 0.5, 1, 2, 4 and 8 s
    assert session["event"] == "session"
    assert _seconds(session["start"]) == pytest.approx(_seconds(gap["end"]), abs=0.01)


def test_a_gap_begins_with_the_last_picture_not_when_the_timeout_notices(detector: Detector, camera: Camera) -> None:
    address, start = camera
    server = start()
    feed = Feed(address, FeedOptions(timeout_s=4.0))
    events = watch(feed, detector)
    assert next(events)["event"] == "session"

    time.sleep(1.0)
    server.send_signal(signal.SIGSTOP)  # the connection stays, and nothing comes
    left = time.time()
    threading.Timer(6.0, lambda: server.send_signal(signal.SIGCONT)).start()
    gap = next(event for event in events if event["event"] == "gap")
    feed.close()

    assert _seconds(gap["start"]) == pytest.approx(left, abs=1.0)
    assert gap["seconds"] >= 4.0


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _actions(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "action"]
