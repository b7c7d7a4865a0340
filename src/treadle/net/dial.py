"""Connections to listeners."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from treadle.errors import ConnectError, ProtocolError, RefusedError
from treadle.net.addresses import parse_address
from treadle.net.link import Decoder, Link, tune
from treadle.wire.frames import AFTER_HANDSHAKE, BEFORE_HANDSHAKE, FrameReader, Limits, encode_frame
from treadle.wire.handshake import Dialing, Welcome

__all__ = ["blocking_call", "dial", "receive_frame"]

#: Memory for what comes before the handshake has ended, and a bit more.
_CAPACITY: Final = 8192
#: Seconds between attempts to reach somebody who does not listen yet.
_PAUSE: Final = 0.05

_NOBODY = "nobody listens there; is it running, and is the port right?"


async def dial(
    address: str,
    *,
    role: str,
    ident: str,
    token: bytes,
    details: dict[str, Any],
    decoder: Decoder,
    timeout: float = 10.0,
    patience: float = 1.0,
    limits: Limits = AFTER_HANDSHAKE,
) -> Link:
    """Connect and shake hands. The link reads nothing until its :meth:`~treadle.net.link.Link.start` is called.

    :param address: ``host:port``.
    :param ident: by which the listener will know us; "" lets it choose (see ``link.ident``).
    :param decoder: of what the listener will say.
    :param timeout: seconds for everything.
    :param patience: seconds for which to try again while nobody listens there.
    :raises ConnectError: nobody was reached, or it is no peer of ours.
    :raises RefusedError: the listener does not want us, and says why.
    :raises UserError: this is no address.
    """
    host, port = parse_address(address)
    dialing = Dialing(token, role, ident, details)
    deadline = time.monotonic() + timeout
    sock: socket.socket | None = None
    try:
        sock = await asyncio.wait_for(_connect(host, port, time.monotonic() + min(patience, timeout / 2)), timeout)
        reader = FrameReader(BEFORE_HANDSHAKE, _CAPACITY)
        welcome = await asyncio.wait_for(_shake(sock, reader, dialing), max(deadline - time.monotonic(), 0.001))
        link = Link(
            sock,
            FrameReader(limits, received=reader.rest()),
            decoder,
            ident=welcome.ident,
            role=role,
            details=welcome.details,
            incarnation=dialing.incarnation,
        )
        sock = None
        return link
    except RefusedError as error:
        raise _refused(address, role, error) from None
    except (asyncio.TimeoutError, OSError, ProtocolError) as error:
        raise _failed(address, error, timeout, sock is not None) from None
    finally:
        if sock is not None:
            sock.close()


async def _resolve(loop: asyncio.AbstractEventLoop, host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """The addresses of a host. Only a name has to be looked up, for which the loop starts a thread."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connect(host: str, port: int, patient_until: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    while True:
        failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        for family, kind, protocol, _, name in await _resolve(loop, host, port):
            sock = socket.socket(family, kind, protocol)
            try:
                tune(sock)
                await loop.sock_connect(sock, name)
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        if not isinstance(failure, ConnectionRefusedError) or time.monotonic() + _PAUSE > patient_until:
            raise failure
        await asyncio.sleep(_PAUSE)


async def _shake(sock: socket.socket, reader: FrameReader, dialing: Dialing) -> Welcome:
    loop = asyncio.get_running_loop()
    hello = dialing.answer(await receive_frame(sock, reader))
    await loop.sock_sendall(sock, hello)
    return dialing.finish(await receive_frame(sock, reader))


async def receive_frame(sock: socket.socket, reader: FrameReader) -> memoryview:
    """The control part of the next frame of a handshake.

    :raises ProtocolError: there is none.
    """
    loop = asyncio.get_running_loop()
    while True:
        frame = reader.take()
        if frame is not None:
            return frame[0]
        count = await loop.sock_recv_into(sock, reader.space())
        if count == 0:
            raise ProtocolError("it closed the connection during the handshake")
        reader.filled(count)


def _refused(address: str, role: str, error: RefusedError) -> RefusedError:
    return RefusedError(f"{address} refused this {role}: {error.reason}")


def _failed(address: str, error: Exception, timeout: float, connected: bool) -> ConnectError:
    """What to tell somebody who could not be connected."""
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        if connected:
            reason = f"the other side took the connection, and then said nothing for {timeout:g} s; is it a Treadle?"
        else:
            reason = f"no answer within {timeout:g} s; is the host up, and does a firewall let the port through?"
    elif isinstance(error, ProtocolError):
        reason = f"{error}; is there a Treadle of a fitting version at that port?"
    elif isinstance(error, socket.gaierror):
        reason = f"the host name is not known ({error.strerror})"
    elif isinstance(error, ConnectionRefusedError):
        reason = _NOBODY
    else:
        reason = getattr(error, "strerror", None) or str(error)
    return ConnectError(address, reason)


def blocking_call(
    address: str,
    *,
    role: str,
    ident: str,
    token: bytes,
    messages: Sequence[Sequence[Any]],
    timeout: float = 10.0,
) -> None:
    """Connect, shake hands, say something, and wait until the other side has read it. Without an event loop.

    :raises ConnectError: nobody was reached, or it is no peer of ours.
    :raises RefusedError: the listener does not want us, and says why.
    """
    host, port = parse_address(address)
    dialing = Dialing(token, role, ident, {})
    connected = False
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection((host, port), timeout) as sock:
            connected = True
            reader = FrameReader(BEFORE_HANDSHAKE, _CAPACITY)
            sock.sendall(dialing.answer(_receive_blocking(sock, reader, deadline)))
            dialing.finish(_receive_blocking(sock, reader, deadline))
            sock.sendall(b"".join(encode_frame(messages)))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(_CAPACITY):  # the listener closes its side when it has read all of it
                pass
    except RefusedError as error:
        raise _refused(address, role, error) from None
    except (OSError, ProtocolError) as error:
        raise _failed(address, error, timeout, connected) from None


def _receive_blocking(sock: socket.socket, reader: FrameReader, deadline: float) -> memoryview:
    while True:
        frame = reader.take()
        if frame is not None:
            return frame[0]
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        count = sock.recv_into(reader.space())
        if count == 0:
            raise ProtocolError("it closed the connection during the handshake")
        reader.filled(count)
