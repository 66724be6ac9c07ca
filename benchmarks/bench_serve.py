"""Does the server lose or repeat a job if clients abort and it is killed, and how fast does it answer?

    python -m benchmarks.bench_serve [--clients N] >> benchmarks/results/serve.jsonl

A real server on loopback, with a worker per core. All clients upload different videos at once; one in five aborts its
upload. The server is killed (SIGKILL) twice and restarted; clients repeat unanswered requests with the same idempotency
key. In the end every accepted job must exist once and be done. Then, on the idle server: polling requests per second,
and upload throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import write_line

EXAMPLE = Path(__file__).parent.parent / "docs" / "example" / "example.mp4"
ABORTED = 5
"""One client in this many aborts its upload."""
KILLS = 2
POLL_S = 5.0
LARGE_BYTES = 200 << 20


class Server:
    """The server process, which can be killed and restarted on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tallformer_infer", "serve", "--model", "demo", "--quiet"]
        self._process = subprocess.Popen(
            [*command, "--data", str(self._folder), "--port", str(self.port)], stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise RuntimeError("the server did not start")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(120)

    @property
    def memory_mb(self) -> float:
        """Resident memory of the server process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024


async def upload(client: httpx.AsyncClient, number: int, content: bytes) -> str:
    """Submit a video, repeatedly until there is an answer; returns the job's id."""
    while True:
        try:
            answer = await client.post(
                "/v1/uploads",
                params={"name": f"{number}.mp4"},
                content=content + number.to_bytes(4),  # a different file
                headers={"Idempotency-Key": f"client-{number}"},
            )
            if answer.status_code == httpx.codes.ACCEPTED:
                return str(answer.json()["id"])
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.5)


async def abort(port: int) -> None:
    """Start an upload and abort it."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/uploads?name=half.mp4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
        writer.write(head.encode() + os.urandom(50_000))
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.close()
    except OSError:
        pass  # the server is restarting


async def follow(client: httpx.AsyncClient, job_id: str) -> str:
    """Wait for the end of a job; returns its state."""
    while True:
        try:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            if job["state"] in ("done", "failed", "cancelled"):
                return str(job["state"])
        except (httpx.HTTPError, KeyError, ValueError):
            pass
        await asyncio.sleep(1.0)


async def load(server: Server, clients: int) -> tuple[list[str], list[str], list[float]]:
    """Run all clients at once, and kill twice; returns ids, their states, and samples of the server's memory."""
    content, memory = EXAMPLE.read_bytes(), list[float]()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        sent = [asyncio.create_task(upload(client, number, content)) for number in range(clients) if number % ABORTED]
        aborted = [asyncio.create_task(abort(server.port)) for number in range(clients) if not number % ABORTED]
        for _ in range(KILLS):
            await asyncio.sleep(3.0)
            server.kill()
            await asyncio.to_thread(server.start)
        ids = await asyncio.gather(*sent)
        await asyncio.gather(*aborted)
        waiting = asyncio.gather(*(follow(client, job_id) for job_id in ids))
        while not waiting.done():
            memory.append(server.memory_mb)
            await asyncio.sleep(2.0)
        return list(ids), list(await waiting), memory


def polling(server: Server, job_id: str) -> float:
    """Answers per second to one client that polls one job."""
    with httpx.Client(base_url=server.url) as client:
        began_s, count = time.perf_counter(), 0
        while time.perf_counter() - began_s < POLL_S:
            client.get(f"/v1/jobs/{job_id}").raise_for_status()
            count += 1
        return count / (time.perf_counter() - began_s)


def throughput(server: Server) -> float:
    """Megabytes per second of one large upload, which is on disk when it is answered."""
    began_s = time.perf_counter()
    answer = httpx.post(f"{server.url}/v1/uploads?name=large.bin", content=bytes(LARGE_BYTES), timeout=300)
    answer.raise_for_status()
    return LARGE_BYTES / (time.perf_counter() - began_s) / 1e6


def main(clients: int) -> None:
    """Load, kill, count, and print one JSON line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = Server(folder)
        ids, states, memory = asyncio.run(load(server, clients))
        listed: list[dict[str, Any]] = httpx.get(f"{server.url}/v1/jobs?limit=500").json()
        line = {
            "name": "serve",
            "inputs": {"clients": clients, "aborted": -(-clients // ABORTED), "kills": KILLS},
            "accepted": len(ids),
            "lost": len(set(ids) - {job["id"] for job in listed}),
            "twice": len(ids) - len(set(ids)) + len(listed) - len({job["id"] for job in listed}),
            "not_asked_for": len({job["id"] for job in listed} - set(ids)),
            "states": dict(Counter(states)),
            "left_uploads": len(list((folder / "uploads").glob("*"))) - len(listed),
            "memory_mb": [round(value) for value in (memory[0], max(memory), memory[-1])],
            "polls_per_s": round(polling(server, ids[0])),
            "upload_mb_per_s": round(throughput(server)),
        }
        server.stop()
    write_line(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    main(parser.parse_args().clients)
