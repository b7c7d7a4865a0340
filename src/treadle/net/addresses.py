"""Addresses: ``host:port`` as people write them."""

from __future__ import annotations

import ipaddress
from typing import Any

from treadle.errors import UserError

__all__ = ["DEFAULT_PORT", "format_address", "is_loopback", "parse_address", "peer_address"]

#: Where a scheduler listens if nobody says otherwise.
DEFAULT_PORT = 8786


def parse_address(address: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """``"host:port"``, ``"host"``, ``"[::1]:port"`` or ``"tcp://host:port"`` as host and port.

    :raises UserError: it is none of these.
    """
    text = address.strip().removeprefix("tcp://").rstrip("/")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not _may_be_host(host) or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{address!r} is no address; write host:port, such as 127.0.0.1:{default_port}")
    return host, int(port)


def _may_be_host(host: str) -> bool:
    try:
        return bool(host.encode("idna"))
    except UnicodeError:  # an empty part between two dots, or one of more than 63 characters
        return False


def format_address(host: str, port: int) -> str:
    """``"host:port"``, with brackets where the host has colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_address(name: Any) -> str:
    """What ``getpeername`` and ``getsockname`` return, in one string."""
    return format_address(str(name[0]).partition("%")[0], int(name[1]))


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached under this name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
