"""What is the latency of `watch`, and does its memory stay constant over an hour of video?

    python -m benchmarks.bench_watch memory  [--minutes 60] >> benchmarks/results/watch.jsonl
    python -m benchmarks.bench_watch latency [--minutes 5]  >> benchmarks/results/watch.jsonl

A generated video of one minute is repeated as MPEG-TS through a pipe into `tallformer watch - --provisional` with the
model `demo`. `memory` sends it as fast as it is read, and samples the proportional set size of the process after every
minute of video. `latency` sends it in real time: the latency of a line is the time from the end of its action, as in
the final line, to the line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import av
import numpy as np

from benchmarks.measure import write_line
from tallformer_training.synthetic import VideoSpec, write_script, write_video

WARM_MINUTES = 10
"""First minute that counts for memory: until then buffers and caches fill."""
RIGHT_S = 0.5
"""A provisional line is correct if both its boundaries are this close to those of the final one."""


@dataclass
class Watched:
    """Lines of a run of `watch`, and their times."""

    began_s: float = 0.0
    """When the first picture was sent, on the clock of `time.monotonic`."""
    ended_s: float = 0.0
    """When the last one was sent: later lines were finalised by the end of the stream."""
    lines: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """Every line with its time of arrival."""
    memory_mb: list[float] = field(default_factory=list)
    """Memory after every minute of video, in megabytes."""


def watch_film(film: Path, minutes: int, *, is_paced: bool) -> Watched:
    """Send a video of one minute to `watch` repeatedly.

    Args:
        film: H.264 in any container.
        minutes: Minutes of video.
        is_paced: Send every picture at its time; otherwise as fast as it is read.
    """
    watched = Watched()
    command = [sys.executable, "-m", "tallformer_infer", "watch", "-", "-m", "demo", "--provisional", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        reader = threading.Thread(target=_collect, args=(process.stdout, watched))
        reader.start()
        try:
            _give(film, minutes, process, watched, is_paced=is_paced)
        finally:
            process.stdin.close()
            reader.join()
    if process.returncode:
        raise RuntimeError(f"watch ended with {process.returncode}")
    return watched


def _collect(file: IO[bytes], watched: Watched) -> None:
    for line in file:
        watched.lines.append((time.monotonic(), json.loads(line)))


def _give(film: Path, minutes: int, process: subprocess.Popen[bytes], watched: Watched, *, is_paced: bool) -> None:
    options = {"flush_packets": "1"}
    with av.open(process.stdin, "w", format="mpegts", options=options) as pipe, av.open(str(film)) as source:
        stream = pipe.add_stream_from_template(source.streams.video[0])
        watched.began_s, given = time.monotonic(), 0
        for seconds, packet in itertools.takewhile(lambda one: one[0] < 60 * minutes, _endless(film)):
            if is_paced:
                time.sleep(max(watched.began_s + seconds - time.monotonic(), 0))
            packet.stream = stream
            pipe.mux(packet)
            if seconds >= 60 * (given + 1):
                given += 1
                watched.memory_mb.append(memory_mb(process.pid))
        watched.memory_mb.append(memory_mb(process.pid))
        watched.ended_s = time.monotonic()


def _endless(film: Path) -> Iterator[tuple[float, av.Packet]]:
    """Packets of the repeated video with their times."""
    for turn in itertools.count():
        with av.open(str(film)) as source:
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is None or packet.pts is None or packet.time_base is None:
                    continue
                later = round(60 * turn / packet.time_base)
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                yield float(packet.dts * packet.time_base), packet


def memory_mb(pid: int) -> float:
    """Proportional set size of a process, in megabytes; Linux only."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} does not report its memory")


def growth(memory: Sequence[float], warm: int) -> float:
    """Largest growth of memory, relative to the first sample after the warm-up."""
    counted = memory[warm - 1 :]
    return max(counted) / counted[0] - 1


def latencies(watched: Watched) -> dict[str, list[float]]:
    """Seconds from the end of every final action to its first line, its first correct line, and its final line."""
    found: dict[str, list[float]] = {"first": [], "right": [], "final": []}
    for came_s, final in watched.lines:
        if final["event"] != "action" or came_s > watched.ended_s:
            continue
        ended_s = watched.began_s + final["segment"][1]
        own = [line for line in watched.lines if line[1].get("id") == final["id"]]
        found["first"].append(own[0][0] - ended_s)
        found["right"].append(next(moment_s for moment_s, line in own if _is_right(line, final)) - ended_s)
        found["final"].append(came_s - ended_s)
    return found


def _is_right(line: dict[str, Any], final: dict[str, Any]) -> bool:
    return all(abs(one - other) <= RIGHT_S for one, other in zip(line["segment"], final["segment"], strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "latency"))
    parser.add_argument("--minutes", type=int)
    given = parser.parse_args(arguments)
    minutes = given.minutes or {"memory": 60, "latency": 5}[given.what]
    with tempfile.TemporaryDirectory() as work:
        film = Path(work) / "minute.mp4"
        write_video(write_script(VideoSpec(subset="testing", seed=0, index=0, minutes=1)), film)
        watched = watch_film(film, minutes, is_paced=given.what == "latency")
    line: dict[str, Any] = {"name": f"watch_{given.what}", "inputs": {"minutes": minutes, "model": "demo"}}
    if given.what == "memory":
        line["film_s_per_s"] = round(60 * minutes / (watched.lines[-1][0] - watched.began_s), 1)
        line["memory_mb"] = [round(value, 1) for value in watched.memory_mb]
        line["growth"] = round(growth(watched.memory_mb, WARM_MINUTES), 4)
    else:
        events = [event for _, event in watched.lines]
        line["told"] = len({event["id"] for event in events if event["event"] == "provisional"})
        line["actions"] = sum(event["event"] == "action" for event in events)
        line["withdrawn"] = sum(event["event"] == "withdrawn" for event in events)
        for name, values in latencies(watched).items():
            line[f"{name}_s"] = [round(float(value), 2) for value in np.quantile(values, (0.25, 0.5, 0.75, 1))]
    write_line(line)


if __name__ == "__main__":
    main()
