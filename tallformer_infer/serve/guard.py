"""Checks of client requests: cross-site requests, large bodies, paths and addresses.

Note [pages of others]
    A server on this machine can be reached by every page in this machine's browsers. Their requests carry the name of
    their own site as `Origin`, and are refused if they would change something. A foreign name that resolves to this
    machine (DNS rebinding) would make the browser treat both as one site: without a token, only requests to names of
    this machine are answered.

Note [addresses that clients name]
    A host must be allowed by the operator. It is resolved once, all its addresses must be public, and the connection
    uses the address that was checked, so that a second, different DNS answer has no effect. Each redirect is checked
    like the first address. Loopback, private and link-local addresses (where cloud machines serve credentials) are
    refused unless the operator allows them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tallformer_infer.errors import MediaError
from tallformer_infer.files import replacing

_LONGEST_NAME = 120
_MOST_BODY_BYTES = 16_000_000
_REDIRECTS = 5
_TIMEOUT_S = 30.0


def refusal(request: Request, token: str | None) -> Response | None:
    """Error response for a request that is refused, see Note [pages of others]; None if it is allowed.

    Args:
        request: The request.
        token: Token that clients must send; None: no authentication.
    """
    headers = request.headers
    host = headers.get("host", "")
    if token is None and not _is_this_machine(host):
        return JSONResponse({"detail": f"host {host!r} is not this machine"}, status_code=403)
    origin = headers.get("origin")
    if origin is not None and request.method not in ("GET", "HEAD") and urlsplit(origin).netloc != host:
        return JSONResponse({"detail": "requested by a page of another site"}, status_code=403)
    if token is None:
        return None
    if secrets.compare_digest(_given_token(headers.get("authorization", "")).encode(), token.encode()):
        return None
    return JSONResponse(
        {"detail": "expected the server's token, as `Authorization: Bearer TOKEN`"},
        status_code=401,
        headers={"WWW-Authenticate": 'Basic realm="tallformer: any name, the token as password"'},
    )


def _is_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    return False


def _given_token(header: str) -> str:
    """The token in an Authorization header: a bearer token, or the password of basic authentication."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
    return ""


class BodyLimit:
    """Refuses bodies that are too large for memory; uploads are streamed, and have a separate limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of a request body."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _MOST_BODY_BYTES:
                raise HTTPException(413, f"larger than the {_MOST_BODY_BYTES / 1e6:g} MB allowed here")
            return message

        is_upload = scope["type"] != "http" or scope["path"] == "/v1/uploads"
        await self._app(scope, receive if is_upload else counted, send)


async def receive(
    request: Request, target: Path, *, most_bytes: int, timeout_s: float, on_bytes: Callable[[int], None]
) -> None:
    """Stream an upload to disk.

    Args:
        request: Request whose body is the file.
        target: The file; its folder is created.
        most_bytes: Maximum size of the file.
        timeout_s: Timeout without data, in seconds.
        on_bytes: Called with the size of each block.

    Raises:
        HTTPException: The upload is empty, too large, or timed out.
    """
    received = 0
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most_bytes:
        raise _too_large(most_bytes)
    target.parent.mkdir(parents=True)
    blocks = request.stream()
    with target.open("wb") as file:
        while True:
            try:
                block = await asyncio.wait_for(anext(blocks), timeout_s)
            except StopAsyncIteration:
                break
            except TimeoutError as error:
                raise HTTPException(408, "the upload stopped") from error
            received += len(block)
            on_bytes(len(block))
            if received > most_bytes:
                raise _too_large(most_bytes)
            await run_in_threadpool(file.write, block)
        if received == 0:
            raise HTTPException(400, "expected the bytes of a video as the body")
        await run_in_threadpool(_to_disk, file)


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(413, f"larger than the {most_bytes / 1e9:g} GB allowed here")


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def file_name(name: str) -> str:
    """A safe name for a file on disk, with the same suffix."""
    suffix = Path(shown_name(name)).suffix
    return "video" + (suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= 8 else "")


def shown_name(name: str) -> str:
    """The last part of a name, without unprintable characters."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return "".join(character for character in last if character.isprintable())[-_LONGEST_NAME:].strip() or "video"


def file_below(root: Path | None, path: str) -> Path:
    """Resolve a path from a client: it must be below the server's root after links are followed.

    Raises:
        HTTPException: There is no such file, or the server has no root.
    """
    if root is None:
        raise HTTPException(422, "path: this server has no --root")
    try:
        named = (root / path).resolve(strict=True)
        is_inside = named.is_relative_to(root.resolve()) and named.is_file()
    except (OSError, ValueError, RuntimeError):
        is_inside = False
    if not is_inside:  # same message for missing files and files elsewhere
        raise HTTPException(422, f"path: {path!r}: no such file below the root")
    return named


def check_address(url: str, *, allowed_hosts: Collection[str]) -> httpx.URL:
    """Parse an address, and check its scheme and host.

    Raises:
        MediaError: The scheme or host is not allowed.
    """
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, UnicodeError) as error:
        raise MediaError("url: cannot be read as an address") from error
    if address.scheme not in ("http", "https") or address.userinfo:
        raise MediaError("url: expected http:// or https:// without a user name")
    if address.host.lower() not in {host.lower() for host in allowed_hosts}:
        raise MediaError(f"url: host {address.host!r} is not allowed here; the operator adds it with --allow-host")
    return address


def fetch(
    url: str,
    to: Path,
    *,
    allowed_hosts: Collection[str],
    allow_private: bool,
    most_bytes: int,
    authorization: str | None = None,
) -> None:
    """Download an address to a file, atomically, see Note [addresses that clients name].

    Args:
        url: The address.
        to: The file; its folder exists.
        allowed_hosts: Allowed host names.
        allow_private: Whether addresses may be private.
        most_bytes: Maximum size of the file.
        authorization: Header for the first address; not sent to redirect targets.

    Raises:
        MediaError: The address is refused, does not respond with a file, or the file is too large.
    """
    address = check_address(url, allowed_hosts=allowed_hosts)
    try:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, follow_redirects=False) as client:
            for _ in range(_REDIRECTS + 1):
                headers = {} if authorization is None else {"Authorization": authorization}
                onward = _fetch_once(client, address, to, headers, allow_private=allow_private, most_bytes=most_bytes)
                authorization = None
                if onward is None:
                    return
                address = check_address(str(address.join(onward)), allowed_hosts=allowed_hosts)
    except httpx.HTTPError as error:
        raise MediaError(f"url: cannot be fetched: {type(error).__name__}") from error
    raise MediaError(f"url: more than {_REDIRECTS} redirects")


def _fetch_once(
    client: httpx.Client, url: httpx.URL, to: Path, more: dict[str, str], *, allow_private: bool, most_bytes: int
) -> str | None:
    """Save one response; return the target if it is a redirect."""
    checked = url.copy_with(host=_public_address(url, allow_private=allow_private))
    headers = {**more, "Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"}
    extensions = {"sni_hostname": url.host}
    with client.stream("GET", checked, headers=headers, extensions=extensions) as answer:
        if answer.is_redirect:
            return answer.headers["Location"]
        if answer.status_code != httpx.codes.OK:
            raise MediaError(f"url: answered {answer.status_code}, expected 200")
        received = 0
        with replacing(to) as temporary, temporary.open("xb") as file:
            for block in answer.iter_bytes():
                received += len(block)
                if received > most_bytes:
                    raise MediaError(f"url: is larger than the {most_bytes / 1e9:g} GB allowed here")
                file.write(block)
    return None


def _public_address(url: httpx.URL, *, allow_private: bool) -> str:
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = [info[4][0] for info in socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise MediaError(f"url: host {url.host!r} cannot be found") from error
    for address in found:
        if not allow_private and not _is_public(str(address)):
            raise MediaError(f"url: host {url.host!r} is at an address that is not public")
    return str(found[0])


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not parsed.is_multicast
