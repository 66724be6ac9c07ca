"""A file server for tests, on this machine only: as much of FTP (RFC 959, 3659) as fsspec speaks, and ways to fail."""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Site:
    """What the server has, and how it is to behave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        """Folder of its files."""
        self.address = ""
        self.stores_until_it_hangs_up: int | None = None
        """After so many files it breaks off in the midst of one, and takes no new connection."""
        self.commands: list[str] = []


@contextmanager
def serve(root: Path) -> Iterator[Site]:
    """Run a server; `site.address` is where."""
    site = Site(root)

    class Handler(_Session):
        pass

    Handler.site = site
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.address = f"ftp://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


class _Session(socketserver.StreamRequestHandler):
    site: Site
    _listener: socket.socket | None = None

    def handle(self) -> None:
        if self.site.stores_until_it_hangs_up == -1:
            return
        self._say("220 ready")
        self._rest, self._from, self._listener = 0, self.site.root, None
        for line in self.rfile:
            command, _, argument = line.decode().rstrip("\r\n").partition(" ")
            self.site.commands.append(f"{command} {argument}")
            answer = getattr(self, f"_do_{command.lower()}", None)
            try:
                self._say("500 unknown" if answer is None else answer(argument))
            except OSError as error:
                if self.site.stores_until_it_hangs_up == -1:
                    return
                self._say(f"550 {error.strerror}")

    def finish(self) -> None:
        self._stop_listening()
        super().finish()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(f"{line}\r\n".encode())

    def _path(self, argument: str) -> Path:
        return self.site.root / argument.lstrip("/")

    def _do_user(self, _: str) -> str:
        return "331 password"

    def _do_pass(self, _: str) -> str:
        return "230 welcome"

    def _do_type(self, _: str) -> str:
        return "200 so be it"

    def _do_pasv(self, _: str) -> str:
        self._stop_listening()
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        return f"227 passive (127,0,0,1,{port >> 8},{port & 255})"

    def _do_rest(self, argument: str) -> str:
        self._rest = int(argument)
        return "350 from there"

    @contextmanager
    def _data(self) -> Iterator[socket.socket]:
        self._say("150 here it comes")
        connection, _ = self._listener.accept()
        self._stop_listening()
        with connection:
            yield connection

    def _do_mlsd(self, argument: str) -> str:
        paths = sorted(self._path(argument).iterdir())
        with self._data() as data:
            for path in paths:
                kind = "dir" if path.is_dir() else "file"
                data.sendall(f"type={kind};size={path.stat().st_size}; {path.name}\r\n".encode())
        return "226 done"

    def _do_stor(self, argument: str) -> str:
        path = self._path(argument)
        rest, self._rest = self._rest, 0
        left = self.site.stores_until_it_hangs_up
        with path.open("r+b" if rest else "wb") as file, self._data() as data:
            file.seek(rest)
            if left == 0:
                file.write(data.recv(10))
                self.site.stores_until_it_hangs_up = -1
                self.connection.shutdown(socket.SHUT_RDWR)
                raise ConnectionAbortedError
            while block := data.recv(1 << 16):
                file.write(block)
        if left is not None:
            self.site.stores_until_it_hangs_up = left - 1
        return "226 done"

    def _do_retr(self, argument: str) -> str:
        with self._path(argument).open("rb") as file, self._data() as data, data.makefile("wb") as out:
            file.seek(self._rest)
            self._rest = 0
            shutil.copyfileobj(file, out)
        return "226 done"

    def _do_rnfr(self, argument: str) -> str:
        self._from = self._path(argument)
        self._from.stat()
        return "350 to where"

    def _do_rnto(self, argument: str) -> str:
        self._from.replace(self._path(argument))
        return "250 done"

    def _do_mkd(self, argument: str) -> str:
        self._path(argument).mkdir()
        return f'257 "{argument}" made'

    def _do_dele(self, argument: str) -> str:
        self._path(argument).unlink()
        return "250 done"
