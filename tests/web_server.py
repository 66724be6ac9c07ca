"""A web server for tests, on this machine only, that answers to ranges or not, and counts what it is asked for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
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
    if handler.path in site.redirects:
        handler.send_response(302)
        handler.send_header("Location", site.redirects[handler.path])
        handler.end_headers()
        return
    if handler.path not in site.files:
        handler.send_error(404)
        return
    data = site.files[handler.path]
    start = _start(handler) if site.answers_ranges else None
    handler.send_response(200 if start is None else 206)
    if start is not None:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    body = data[start or 0 :]
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    try:
        handler.wfile.write(body[: _smallest(site.break_after_bytes, site.stall_after_bytes)])
        handler.wfile.flush()
        if site.stall_after_bytes is not None:
            site.release.wait(30)
    except OSError:  # the reader left
        return


def _start(handler: BaseHTTPRequestHandler) -> int | None:
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    return int(found[1]) if found else None


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
