"""The decoding thread: it runs ahead, ends with its reader, and passes on what goes wrong."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import FrameStream, open_video
from tallformer_infer.media.reader import FrameQueue, run_ahead
from tests.videos import numbered_pictures, write_video

AS_STORED = SamplingConfig(sample_fps=15, resize="none", crop_px=240)


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tallformer")]


def wait_until(condition, timeout_s: float = 10) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end_s:
        threading.Event().wait(0.005)
    return bool(condition())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", numbered_pictures(200))


def test_the_thread_is_gone_after_the_last_frame(path):
    with open_video(path, AS_STORED) as video:
        assert len(list(video)) == 200
        assert wait_until(lambda: not decoding_threads())


@pytest.mark.parametrize("taken", [0, 1, 50])
def test_closing_in_the_middle_ends_the_thread_at_once(path, taken):
    video = open_video(path, AS_STORED, queue_frames=2)
    for _ in range(taken):
        next(video)

    video.close()

    assert decoding_threads() == []
    assert list(video) == []
    video.close()


def test_an_error_of_the_reader_ends_the_thread(path):
    with pytest.raises(KeyboardInterrupt), open_video(path, AS_STORED, queue_frames=2):
        raise KeyboardInterrupt

    assert decoding_threads() == []


def test_a_forgotten_stream_ends_its_thread(path):
    video = open_video(path, AS_STORED, queue_frames=2)
    next(video)

    del video
    gc.collect()

    assert wait_until(lambda: not decoding_threads())


def test_many_streams_opened_and_closed_leave_no_descriptor_behind(path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))

    for _ in range(20):
        with open_video(path, AS_STORED, queue_frames=1) as video:
            next(video)

    assert len(list(descriptors.iterdir())) <= before


def test_one_thread_is_all_that_works_where_one_is_asked_for(path):
    tasks = Path("/proc/self/task")
    if not tasks.is_dir() or not hasattr(av.filter.Graph, "threads"):
        pytest.skip("needs /proc, and a PyAV that sets the threads of filters")
    before = len(list(tasks.iterdir()))

    with open_video(path, AS_STORED, threads=1, queue_frames=2) as video:
        next(video)

        assert len(list(tasks.iterdir())) == before + 1


def stands_still(value: Callable[[], float]) -> bool:
    before = value()
    threading.Event().wait(0.1)
    return value() == before


def test_decoding_stops_when_the_queue_is_full(path):
    with open_video(path, AS_STORED, queue_frames=5) as video:
        assert wait_until(lambda: len(video._work.frames._items) == 5)
        assert wait_until(lambda: stands_still(lambda: video.decode_s))


def test_two_streams_of_one_file_do_not_disturb_each_other(path):
    with open_video(path, AS_STORED) as first, open_video(path, AS_STORED) as second:
        assert sum(int((one != other).sum()) for one, other in zip(first, second, strict=True)) == 0


def test_closing_does_not_wait_for_a_pipe_that_has_gone_silent(tmp_path):
    source = write_video(tmp_path / "a.mkv", numbered_pictures(200, noisy=True))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    may_leave = threading.Event()

    def write_half() -> None:
        data = source.read_bytes()
        with open(fifo, "wb", buffering=0) as pipe:  # noqa: PTH123
            pipe.write(data[: len(data) // 2])
            may_leave.wait(20)

    writer = threading.Thread(target=write_half)
    writer.start()
    video = open_video(fifo, AS_STORED)
    next(video)
    began_s = time.perf_counter()

    video.close()

    assert time.perf_counter() - began_s < 2
    assert decoding_threads() == []
    may_leave.set()
    writer.join()


WAITING_PROGRAM = """
import sys
from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video
try:
    with open_video("-", SamplingConfig()) as video:
        next(video)
        print("waiting", flush=True)
        list(video)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_gets_through_while_waiting_for_frames(tmp_path):
    data = write_video(tmp_path / "a.mkv", numbered_pictures(200, noisy=True)).read_bytes()
    command = [sys.executable, "-c", WAITING_PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(data[: len(data) // 2])
        process.stdin.flush()
        assert process.stdout.readline() == b"waiting\n"

        process.send_signal(signal.SIGINT)

        assert process.wait(5) == 0
        assert process.stdout.read() == b"interrupted\n"


def test_an_unexpected_error_in_the_thread_surfaces_in_the_reader(path, monkeypatch):
    from tallformer_infer.media import graph  # noqa: PLC0415

    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(graph, "_centre_crop", fail)
    with open_video(path, AS_STORED) as video, pytest.raises(ZeroDivisionError, match="in the thread"):
        next(video)


def test_a_stream_is_a_context_manager_and_an_iterator(path):
    with open_video(path, AS_STORED) as video:
        assert isinstance(video, FrameStream)
        assert iter(video) is video


def test_running_ahead_gives_the_same_items_and_the_same_error():
    def make() -> Iterator[int]:
        yield from range(5)
        raise OSError("broken")

    ahead = run_ahead(make(), 2, thread_name="tallformer-test")

    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="broken"):
        next(ahead)
    assert decoding_threads() == []


def test_running_ahead_stops_at_its_limit_and_when_it_is_left():
    made = []

    def make() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            yield item

    ahead = run_ahead(make(), 3, thread_name="tallformer-test")
    assert [next(ahead), next(ahead)] == [0, 1]
    assert wait_until(lambda: len(made) == 6)  # two taken, three waiting, one in hand
    threading.Event().wait(0.05)
    assert len(made) == 6

    ahead.close()

    assert decoding_threads() == []


def test_the_queue_gives_items_in_order_and_then_ends():
    queue: FrameQueue[int] = FrameQueue(3)
    for item in range(3):
        assert queue.put(item)
    queue.end()

    assert [queue.take() for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(StopIteration):
            queue.take()


def test_the_queue_gives_an_error_after_the_items_and_once():
    queue: FrameQueue[int] = FrameQueue(3)
    queue.put(7)
    queue.end(OSError("broken"))

    assert queue.take() == 7
    with pytest.raises(OSError, match="broken"):
        queue.take()
    with pytest.raises(StopIteration):
        queue.take()


def test_a_full_queue_holds_its_maker_until_there_is_room():
    queue: FrameQueue[int] = FrameQueue(1)
    queue.put(0)
    done = threading.Event()
    maker = threading.Thread(target=lambda: (queue.put(1), done.set()))
    maker.start()

    assert not done.wait(0.05)
    assert queue.take() == 0
    assert done.wait(5)
    maker.join()


def test_a_closed_queue_lets_its_maker_go():
    queue: FrameQueue[int] = FrameQueue(1)
    queue.put(0)
    results: list[bool] = []
    maker = threading.Thread(target=lambda: results.append(queue.put(1)))
    maker.start()

    queue.close()
    maker.join(5)

    assert results == [False]
    assert not queue.put(2)


@pytest.mark.parametrize(("taken", "interrupted"), [(1, [True]), (3, [])])
def test_only_a_maker_that_is_left_early_is_interrupted(taken: int, interrupted: list[bool]) -> None:
    """One that came to its end has a last item behind it, and others may be busy with the same things."""
    told: list[bool] = []
    ahead = run_ahead(iter([1, 2]), 1, thread_name="tallformer-test", interrupt=lambda: told.append(True))

    assert list(itertools.islice(ahead, taken)) == [1, 2][:taken]
    ahead.close()

    assert told == interrupted


def test_maker_that_does_not_end_is_left_behind_after_a_while() -> None:
    forever = threading.Event()

    def make() -> Iterator[int]:
        yield 1
        forever.wait()

    ahead = run_ahead(make(), 1, thread_name="tallformer-test", join_s=0.05)
    assert next(ahead) == 1
    started = time.perf_counter()
    ahead.close()

    assert time.perf_counter() - started < 2
    forever.set()
