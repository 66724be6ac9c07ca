"""Decide which addresses may be read and written, by protocol and, for untrusted lists, by host.

Note [addresses that others name]
    A list fetched from an address is untrusted. It must not make this machine read local files or contact hosts that
    only this machine can reach: loopback, private and link-local ones, where cloud machines serve credentials. Such a
    list may therefore name no file and only public hosts. Host names are resolved when sources are listed, and again
    for each connection, which goes to the address that was checked (`web.py`). The command line and local lists may
    name anything.

Note [chains]
    fsspec reads `a::b` as a file system inside another (`zip::https://…`, `reference::…`), and some of these evaluate
    templates found in the data. Chains are never passed to fsspec.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from tallformer_infer.errors import MediaError

ALLOWED_PROTOCOLS = frozenset({"file", "http", "https", "s3", "gs", "az"})
"""Protocols that are allowed by default; `--allow-protocol` adds more."""
_ALIASES = {"local": "file", "s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
"""Aliases that fsspec knows for these."""
_WITHOUT_HOST = frozenset({"s3", "gs", "az"})
"""Protocols whose addresses name a bucket of a service that the user configured."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+._-]*(::[a-z][a-z0-9+._-]*)*://", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_CHAIN_ON_WEB = re.compile(r"::[a-z][a-z0-9+._-]*://", re.IGNORECASE)


def is_address(source: str) -> bool:
    """Whether `source` is an address, `scheme://…`."""
    return _ADDRESS.match(source) is not None


def is_web_address(source: str) -> bool:
    """Whether `source` is an http(s) address."""
    return _WEB.match(source) is not None


def check_protocol(address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS) -> None:
    """Refuse chains and protocols that are not allowed, see Note [chains].

    Args:
        address: The address.
        allowed: Names of allowed protocols.

    Raises:
        MediaError: The protocol is not allowed, or the address is a chain.
    """
    # A web address is read by our own client, and may have colons in it: http://[::1]/
    chained = _CHAIN_ON_WEB.search(address) if is_web_address(address) else "::" in address
    if chained:
        raise MediaError(f"{address}: chains of protocols (::) are not read; name the file itself")
    protocol = protocol_of(address)
    if protocol not in {_ALIASES.get(name, name) for name in allowed}:
        names = ", ".join(sorted(allowed))
        raise MediaError(
            f"{address}: protocol {protocol} is not allowed; expected {names}, or add --allow-protocol {protocol}"
        )


def check_foreign(address: str) -> None:
    """Refuse an address from an untrusted list that is local or not public.

    See Note [addresses that others name].

    Raises:
        MediaError: It is a local file, or its host is not public or cannot be resolved.
    """
    protocol = protocol_of(address)
    if protocol == "file":
        raise MediaError(f"{address}: a list at an address may not name files of this machine")
    if protocol in _WITHOUT_HOST:
        return
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise MediaError(f"{address}: not an address: {error}") from error
    if not host:
        raise MediaError(f"{address}: names no host")
    try:
        public_addresses(host, port or 443)
    except PermissionError as error:
        raise MediaError(f"{address}: {error}") from error
    except OSError as error:
        if not is_web_address(address):  # whose reader checks again; a host that is away for now fails on its own
            raise MediaError(f"{address}: {error.strerror or error}") from error


def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host and check that all its addresses are public.

    Raises:
        PermissionError: An address is loopback, private, link-local or otherwise not public.
        OSError: The host cannot be resolved.
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError as error:
        raise OSError(f"host {host!r} cannot be found") from error
    hidden = next((address for address in found if not _is_public(address)), None)
    if hidden is not None:
        raise PermissionError(
            f"host {host} is at {hidden}, which is not public; name it on the command line or in a list on this machine"
        )
    return found


def host_of(address: str) -> str:
    """Host of a web address in lower case; empty if it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def protocol_of(address: str) -> str:
    """Protocol of an address in lower case, with aliases resolved."""
    name = address.partition(":")[0].lower()
    return _ALIASES.get(name, name)


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None) or parsed
    return parsed.is_global and not parsed.is_multicast
