"""`tallformer detect --server`: a `tallformer serve` detects, this machine sends the videos and writes the results.

Note [what leaves this machine]
    Everything goes to the address that the user named, and nowhere else: proxy variables and `.netrc` are not read,
    redirects are not followed. TLS certificates are checked against the system's store and SSL_CERT_FILE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO

import typer

from tallformer_infer.commands.detect import DetectOptions
from tallformer_infer.commands.options import split_classes
from tallformer_infer.commands.progress import Reporter
from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES
from tallformer_infer.errors import ConfigError, ExtraError, ServerError
from tallformer_infer.installing import install_command
from tallformer_infer.pipeline import Progress
from tallformer_infer.results import check_selection, results_of_document
from tallformer_infer.structures import Result
from tallformer_infer.text import printable

try:
    import httpx
except ModuleNotFoundError as missing:
    raise ExtraError(
        f"--server needs the extra 'serve' ({missing.name} is not installed): {install_command('serve')}"
    ) from missing

_BLOCK_BYTES = 1 << 20
_POLL_S = 0.3
_PATIENCE_S = 30.0
"""How long a server may be gone, as while it restarts, before a video that it works on is given up."""
_AHEAD = 8
"""Videos that are sent while an earlier one is worked on, so that all workers of the server have work."""
_STOPPING_S = 2.0
_ENDED = ("done", "failed", "cancelled")


class RemoteModel:
    """The model of a server."""

    def __init__(self, url: str, token: str | None, options: DetectOptions) -> None:
        """Ask nothing yet.

        Raises:
            typer.BadParameter: The address is none.
        """
        self._options = options
        self._server = _Server(url, token)
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="tallformer-send")
        self._sent: dict[str, Future[dict[str, Any]]] = {}
        self._bytes: dict[str, tuple[int, int | None]] = {}
        self._unfinished: dict[str, None] = {}
        self._stopping = threading.Event()
        self._patience_s = _PATIENCE_S
        self._query: dict[str, Any] = {}

    def load(self, reporter: Reporter) -> None:
        """Ask which model the server has, and check that it can give what is asked for.

        Raises:
            ServerError: It does not answer.
            typer.BadParameter: An option does not fit the model.
        """
        options, model = self._options.detector, self._server.model()
        name, known, points = model["name"], model["classes"], model["operating_points"]
        try:
            classes = split_classes(options.classes, known)
            check_selection(classes=classes, known=known, see=f"{self._server.url}/v1/models")
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from error
        if options.operating_point not in (None, RAW_SCORES, *([ALL_ACTIONS] if points else []), *points):
            raise typer.BadParameter(
                f"operating point {options.operating_point!r}: the server's model {name} has "
                f"{', '.join(points) or 'none'}"
            )
        wanted = {"threshold": options.threshold, "top_k": options.top_k, "operating_point": options.operating_point}
        self._query = {key: value for key, value in wanted.items() if value is not None}
        if classes:
            self._query["classes"] = list(classes)
        reporter.say("loaded", printable(f"model {name} on {self._server.url}"), model=name, server=self._server.url)
        if model["intended_use"]:
            reporter.say("intended_use", printable(f"intended use: {model['intended_use']}"))

    def detect(self, path: str, reporter: Reporter) -> Result:
        """Have the server detect in one video; the next ones are sent meanwhile.

        Raises:
            ServerError: It cannot be reached, or refuses the video, or the job failed.
        """
        self._send_ahead(path)
        try:
            job = self._follow_sending(path, reporter)
        except _BusyError:  # earlier jobs of this run may have filled the queue; they have ended by now
            self._sent[path] = self._sender.submit(self._send, path)
            job = self._follow_sending(path, reporter)
        job = self._follow(job, reporter)
        self._unfinished.pop(job["id"], None)
        if job["state"] != "done":
            raise ServerError(_failure(path, job))
        for remark in job["remarks"]:
            reporter.say("remark", printable(f"{path}: {remark}"), path=path)
        (result,) = results_of_document(self._server.result(job["id"]))
        return dataclasses.replace(result, video=dataclasses.replace(result.video, path=path))

    def warning(self, result: Result) -> str:
        """The server says what its model is for when it is asked which it has."""
        return ""

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what was sent and is not done, and close the connections."""
        self._stopping.set()
        self._sender.shutdown(wait=False, cancel_futures=True)
        wait(self._sent.values(), timeout=_STOPPING_S)  # an upload that is just being answered has a job, too
        for job_id in list(self._unfinished):
            with contextlib.suppress(ServerError):
                self._server.cancel(job_id)
        self._server.close()

    def _send_ahead(self, path: str) -> None:
        index = self._options.videos.index(path)
        for other in self._options.videos[index : index + 1 + _AHEAD]:
            if other not in self._sent:
                self._sent[other] = self._sender.submit(self._send, other)

    def _send(self, path: str) -> dict[str, Any]:
        """Submit a video; gives the job."""
        if "://" in path:
            job = self._server.submit_address(path, self._query)
        elif path == "-":
            job = self._server.submit("stdin", self._blocks(path, sys.stdin.buffer, None), None, self._query)
        else:
            job = self._send_file(path)
        self._unfinished[job["id"]] = None
        return job

    def _send_file(self, path: str) -> dict[str, Any]:
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return self._server.submit(Path(path).name, self._blocks(path, file, size), size, self._query)
        except OSError as error:
            raise ServerError(f"{path}: cannot be read: {error.strerror or error}") from error

    def _blocks(self, path: str, file: BinaryIO, size: int | None) -> Iterator[bytes]:
        sent = 0
        while block := file.read(_BLOCK_BYTES):
            if self._stopping.is_set():
                raise ServerError("stopped")
            yield block
            sent += len(block)
            self._bytes[path] = (sent, size)

    def _follow_sending(self, path: str, reporter: Reporter) -> dict[str, Any]:
        sending = self._sent[path]
        while not sending.done():
            wait([sending], timeout=_POLL_S)
            reporter.waiting(f"sending {_described(*self._bytes.get(path, (0, None)))}")
        return sending.result()

    def _follow(self, job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
        """Ask for a job until it has ended."""
        started_s = heard_s = time.monotonic()
        while job["state"] not in _ENDED and not self._stopping.is_set():
            time.sleep(_POLL_S)
            try:
                job = self._server.job(job["id"])
            except _UnreachableError:
                if time.monotonic() - heard_s > self._patience_s:
                    self._patience_s = 0.0
                    raise
                continue
            heard_s = time.monotonic()
            if job["state"] == "running" and job["position_s"] > 0:
                speed = job["position_s"] / (heard_s - started_s)
                reporter.progressed(Progress(job["position_s"], job["duration_s"], speed))
            else:
                started_s = heard_s
                reporter.waiting("the server prepares it" if job["state"] == "running" else "in the server's queue")
        return job


class _UnreachableError(ServerError):
    """No answer, which may be different in a while."""


class _BusyError(ServerError):
    """Too many jobs, which may be different in a while."""


class _Server:
    """The requests to one server, see Note [what leaves this machine]."""

    def __init__(self, url: str, token: str | None) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise typer.BadParameter(f"--server {url}: {error}") from error
        if address.scheme not in ("http", "https") or not address.host or address.userinfo:
            raise typer.BadParameter(
                f"--server {address.copy_with(userinfo=b'')}: expected http:// or https:// without a user name, "
                "such as http://127.0.0.1:8080"
            )
        self.url = str(address).rstrip("/")
        self._has_token = token is not None
        self._client = httpx.Client(
            base_url=address,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(30.0, read=600.0),  # an upload is answered when it is on the disk
            trust_env=False,
            verify=ssl.create_default_context(),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def model(self) -> dict[str, Any]:
        """The model, as `GET /v1/models` describes it."""
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            (model,) = self._json("GET", "/v1/models")
            if {"name", "classes", "operating_points", "intended_use"} <= model.keys():
                return dict(model)
        raise ServerError(f"{self.url}: is no `tallformer serve`: it describes no model")

    def submit(self, name: str, blocks: Iterator[bytes], size: int | None, query: dict[str, Any]) -> dict[str, Any]:
        """Send a video; gives the job."""
        headers = {} if size is None else {"Content-Length": str(size)}
        return self._job("POST", "/v1/uploads", params={"name": name, **query}, content=blocks, headers=headers)

    def submit_address(self, address: str, query: dict[str, Any]) -> dict[str, Any]:
        """Have the server fetch a video; gives the job."""
        return self._job("POST", "/v1/jobs", json={"url": address, **query})

    def job(self, job_id: str) -> dict[str, Any]:
        """State and progress of a job."""
        return self._job("GET", f"/v1/jobs/{job_id}")

    def cancel(self, job_id: str) -> None:
        """Stop a job."""
        self._ask("POST", f"/v1/jobs/{job_id}/cancel", timeout=3.0)

    def result(self, job_id: str) -> Any:
        """`actions.json` of a job that is done."""
        return self._json("GET", f"/v1/jobs/{job_id}/result")

    def _job(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        job: dict[str, Any] = self._json(method, path, **request)
        return job

    def _json(self, method: str, path: str, **request: Any) -> Any:
        try:
            return self._ask(method, path, **request).json()
        except ValueError as error:
            raise ServerError(f"{self.url}: its answer is not JSON; expected a `tallformer serve`") from error

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **request)
        except httpx.ConnectError as error:
            raise _UnreachableError(f"{self.url}: no server answers there: {error}") from error
        except httpx.TimeoutException as error:
            raise _UnreachableError(f"{self.url}: no answer in time") from error
        except httpx.HTTPError as error:
            raise _UnreachableError(f"{self.url}: the connection was lost: {error}") from error
        if answer.is_success:
            return answer
        raise self._refusal(answer)

    def _refusal(self, answer: httpx.Response) -> ServerError:
        kind: type[ServerError] = ServerError
        detail = _detail(answer)
        match answer.status_code:
            case 401 if self._has_token:
                detail = "the server has another token"
            case 401:
                detail = "the server wants a token: give --token, or set TALLFORMER_TOKEN"
            case 404 if answer.request.url.path.endswith("/v1/models"):
                detail = "is no `tallformer serve`: it describes no model"
            case 429:
                kind, after = _BusyError, answer.headers.get("Retry-After", "")
                detail = f"{detail}; try again in {f'{after} s' if after.isdecimal() else 'a while'}"
            case 502 | 503 | 504:
                kind = _UnreachableError
            case code if answer.has_redirect_location:
                detail = f"answers {code}; the server is at {answer.headers['Location']}"
        return kind(f"{self.url}: {detail}")


def _detail(answer: httpx.Response) -> str:
    """What an answer says is wrong."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, LookupError, TypeError):
        return f"answered {answer.status_code} {answer.reason_phrase}"
    if isinstance(detail, list):
        return "; ".join(str(each.get("msg", each)) if isinstance(each, dict) else str(each) for each in detail)
    return str(detail)


def _described(sent_bytes: int, total_bytes: int | None) -> str:
    total = "" if total_bytes is None else f" of {total_bytes / 1e6:.1f}"
    return f"{sent_bytes / 1e6:.1f}{total} MB"


def _failure(path: str, job: dict[str, Any]) -> str:
    if job["state"] == "cancelled":
        return f"{path}: the job was cancelled on the server"
    error = str(job["error"])
    return path + error.removeprefix(job["name"]) if error.startswith(f"{job['name']}:") else f"{path}: {error}"
