"""Fetching a video from an address that a client named, which may try to lead the server astray.

Note [addresses that clients name]
    A host must be one that the operator allowed. It is looked up once, every address that it has must be public, and
    the connection goes to the address that was checked: a name that answers differently the second time gains nothing.
    Each redirect is a new address and is checked like the first. Loopback, private and link-local addresses (where
    cloud machines serve credentials) are refused unless the operator allows them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from pathlib import Path

import httpx

from tallformer_infer.errors import MediaError

_REDIRECTS = 5
_TIMEOUT_S = 30.0


def check_address(url: str, *, allowed_hosts: Collection[str]) -> httpx.URL:
    """The address, if its scheme and host are allowed.

    Raises:
        MediaError: They are not.
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
    """Save what is at an address as a file, see Note [addresses that clients name].

    Args:
        url: The address.
        to: The file, which is made.
        allowed_hosts: Host names that may be asked.
        allow_private: Addresses that are not public may be asked, too.
        most_bytes: Largest file.
        authorization: Header for the first address; not sent where a redirect leads.

    Raises:
        MediaError: The address is refused, does not answer with a file, or the file is too large.
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
    """Save one answer; where it leads, if it is a redirect."""
    checked = url.copy_with(host=_public_address(url, allow_private=allow_private))
    headers = {**more, "Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"}
    extensions = {"sni_hostname": url.host}
    with client.stream("GET", checked, headers=headers, extensions=extensions) as answer:
        if answer.is_redirect:
            return answer.headers["Location"]
        if answer.status_code != httpx.codes.OK:
            raise MediaError(f"url: answered {answer.status_code}, expected 200")
        received = 0
        with to.open("wb") as file:
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
