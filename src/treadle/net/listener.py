"""Takes connections, finds out who it is, and hands over those who may come in."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from treadle.errors import AddressInUseError, ProtocolError, RefusedError, UserError
from treadle.net.addresses import format_address, peer_address
from treadle.net.dial import receive_frame
from treadle.net.link import Decoder, Link, tune
from treadle.wire.frames import AFTER_HANDSHAKE, BEFORE_HANDSHAKE, FrameReader, Limits
from treadle.wire.handshake import Hello, Listening

__all__ = ["HANDSHAKE_TIMEOUT", "Admit", "Connected", "Listener"]

log = logging.getLogger("treadle.net")

#: Seconds in which a handshake must be over.
HANDSHAKE_TIMEOUT: Final = 10.0
#: How many may be in their handshakes at once; further ones wait in the system's queue.
MAX_PENDING: Final = 512
#: Seconds without accepting, when the process has no descriptors left.
_BREATHER: Final = 1.0
_CAPACITY: Final = 8192

Admit = Callable[[Hello, str], dict[str, Any]]
Connected = Callable[[Link], None]


class Listener:
    """A listening socket."""

    def __init__(
        self,
        sock: socket.socket,
        token: bytes,
        incarnation: str,
        decoders: Mapping[str, Decoder],
        admit: Admit,
        connected: Connected,
        limits: Limits,
        timeout: float,
    ) -> None:
        host, port = sock.getsockname()[:2]
        self.host: Final[str] = host
        self.port: Final[int] = port
        #: ``host:port``; the host is the one that it is bound to, which may be "any": ``0.0.0.0``.
        self.address: Final = format_address(host, port)
        self._sock = sock
        self._token = token
        self._incarnation = incarnation
        self._decoders = dict(decoders)
        self._admit = admit
        self._connected = connected
        self._limits = limits
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._pending: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._closed = False
        self._resume()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._pending)} in their handshakes"
        return f"<Listener {self.address}, {state}>"

    @classmethod
    async def listen(
        cls,
        host: str,
        port: int,
        *,
        token: bytes,
        incarnation: str,
        decoders: Mapping[str, Decoder],
        admit: Admit,
        connected: Connected,
        limits: Limits = AFTER_HANDSHAKE,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> Listener:
        """Listen at a host's address and a port (0: any free one).

        :param decoders: by role: what may come from a peer of that role. Others are refused.
        :param admit: given who it is and its address; returns the details of its welcome. It raises RefusedError
            with a reason for those who may not come in.
        :param connected: given the link of somebody who came in; has to start it before it returns.
        :raises AddressInUseError: somebody else listens there.
        :raises UserError: this process cannot listen there for another reason.
        """
        sock = await _bind(host, port)
        return cls(sock, token, incarnation, decoders, admit, connected, limits, timeout)

    def close(self) -> None:
        """Stop to listen, and give up the handshakes that are going on. Links that were made stay open."""
        if self._closed:
            return
        self._closed = True
        self._pause()
        self._sock.close()
        for task in self._pending:
            task.cancel()

    # Accepting

    def _resume(self) -> None:
        if not self._accepting and not self._closed:
            self._accepting = True
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        try:
            sock, name = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("%s: no connection can be taken for a while: %s", self.address, error.strerror)
            self._pause()
            self._loop.call_later(_BREATHER, self._resume)
            return
        task = self._loop.create_task(self._receive(sock, peer_address(name)))
        self._pending.add(task)
        task.add_done_callback(self._settled)
        if len(self._pending) >= MAX_PENDING:
            self._pause()

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        self._resume()

    async def _receive(self, sock: socket.socket, peer: str) -> None:
        """Shake hands with one who has connected."""
        link: Link | None = None
        try:
            link = await asyncio.wait_for(self._shake(sock, peer), self._timeout)
        except (asyncio.TimeoutError, TimeoutError):
            log.warning("%s: connection closed, because its handshake took more than %g s", peer, self._timeout)
        except RefusedError as error:
            log.warning("%s: refused, because %s", peer, error.reason)
        except ProtocolError as error:
            log.warning("%s: connection closed, because %s", peer, error)
        except OSError as error:
            log.info("%s: the connection broke during the handshake: %s", peer, error.strerror or error)
        except Exception:
            log.exception("%s: connection closed, because its handshake could not be handled", peer)
        finally:
            if link is None:
                sock.close()
        if link is not None:
            self._hand_over(link)

    async def _shake(self, sock: socket.socket, peer: str) -> Link:
        tune(sock)
        reader = FrameReader(BEFORE_HANDSHAKE, _CAPACITY)
        side = Listening(self._token, self._incarnation)
        await self._loop.sock_sendall(sock, side.challenge())
        try:
            hello = side.check(await receive_frame(sock, reader))
            decoder = self._decoders.get(hello.role)
            if decoder is None:
                raise RefusedError(f"nobody comes here as {hello.role!r}, but as {', '.join(self._decoders)}")
            details = self._admit(hello, peer)
        except RefusedError as error:
            await self._loop.sock_sendall(sock, side.refuse(error.reason))
            raise
        ident = hello.ident or f"{hello.role}-{secrets.token_hex(8)}"
        await self._loop.sock_sendall(sock, side.welcome(hello, ident, details))
        received = FrameReader(self._limits, received=reader.rest())
        return Link(sock, received, decoder, ident=ident, role=hello.role, details=hello.details)

    def _hand_over(self, link: Link) -> None:
        try:
            self._connected(link)
        except Exception:
            log.exception("%s: connection closed, because it could not be taken over", link.peer)
            link.close("it could not be taken over")


async def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the first address of a host that can be had."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"cannot listen on {host}: the host name is not known ({error})") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    failure: OSError | None = None
    for family, kind, protocol, _, name in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = failure or error
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(name)
            sock.listen(1024)
        except OSError as error:
            sock.close()
            failure = failure or error
            continue
        return sock
    address = format_address(host, port)
    if failure is not None and failure.errno == errno.EADDRINUSE:
        raise AddressInUseError(address)
    raise UserError(f"cannot listen on {address}: {failure.strerror if failure else 'it has no address'}")
