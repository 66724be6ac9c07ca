"""A web server for tests, on this machine only, that answers to ranges or not, and counts what it is asked for."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What the server has, and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        """Bytes by path, for example `/a.mp4`."""
        self.redirects: dict[str, str] = {}
        """Addresses by path."""
        self.answers_ranges = True
        self.answers_head: int | None = None
        """Status for HEAD in place of the answer to GET."""
        self.headers: dict[str, str] = {}
        """Further headers of each answer, for example `ETag`."""
        self.busy = 0
        """Answer so many requests with 503 first."""
        self.on_answer: Callable[[int], None] = lambda _: None
        """Called before each answer, with the number of requests so far."""
        self.break_after_bytes: int | None = None
        """Hang up after so many bytes of each answer."""
        self.stall_after_bytes: int | None = None
        """Send nothing more after so many bytes, and keep the connection until `release`."""
        self.hits: list[str] = []
        self.release = threading.Event()
        self.address = ""


@contextmanager
def serve() -> Iterator[Site]:
    """Run a server; `site.address` is where."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, site)

        def do_HEAD(self) -> None:
            _answer(self, site)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        site.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    site.hits.append(handler.path)
    site.on_answer(len(site.hits))
    if handler.command == "HEAD" and site.answers_head is not None:
        handler.send_error(site.answers_head)
        return
    if site.busy:
        site.busy -= 1
        handler.send_error(503)
        return
    if handler.path in site.redirects:
        handler.send_response(302)
        handler.send_header("Location", site.redirects[handler.path])
        handler.end_headers()
        return
    if handler.path not in site.files:
        handler.send_error(404)
        return
    data = site.files[handler.path]
    wanted = _range(handler) if site.answers_ranges and _is_same_version(handler, site) else None
    start, end = wanted or (0, len(data))
    handler.send_response(200 if wanted is None else 206)
    body = data[start:end]
    if wanted is not None:
        handler.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
    for name, value in site.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command == "HEAD":
        return
    try:
        handler.wfile.write(body[: _smallest(site.break_after_bytes, site.stall_after_bytes)])
        handler.wfile.flush()
        if site.stall_after_bytes is not None:
            site.release.wait(30)
    except OSError:  # the reader left
        return


def _range(handler: BaseHTTPRequestHandler) -> tuple[int, int] | None:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    return (int(found[1]), int(found[2]) + 1 if found[2] else sys.maxsize) if found else None


def _is_same_version(handler: BaseHTTPRequestHandler, site: Site) -> bool:
    """RFC 9110, 13.1.5: a range is only sent if what `If-Range` holds is what the file has now."""
    wanted = handler.headers.get("If-Range")
    return wanted is None or wanted in (site.headers.get("ETag"), site.headers.get("Last-Modified"))


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
