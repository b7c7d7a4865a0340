"""A connection whose handshake is done: messages out from any thread, messages in on the event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias

from treadle.errors import ProtocolError
from treadle.net.addresses import peer_address
from treadle.wire.frames import FrameReader, Pieces, encode_frame

__all__ = ["Decoder", "Link", "OnClosed", "OnMessages", "tune"]

log = logging.getLogger("treadle.net")

#: About how many bytes are read before others on the loop have their turn.
READ_BUDGET: Final = 1 << 20
#: How many pieces the system takes at once.
MAX_PIECES: Final = 1024

OnMessages: TypeAlias = Callable[[list[Any], list[memoryview]], None]
OnClosed: TypeAlias = Callable[[str], None]


class Decoder(Protocol):
    """Makes messages of a control part."""

    def decode(self, control: memoryview, /) -> list[Any]:
        """:raises ProtocolError: it holds something else."""


def tune(sock: socket.socket) -> None:
    """The options that every connection has: no waiting for more to send, and a sign of life when it is quiet.

    The sizes of the system's buffers are left to it: none that we tried made big buffers travel faster.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Link:
    """One connection. :func:`treadle.net.dial.dial` and a listener make them."""

    def __init__(
        self,
        sock: socket.socket,
        reader: FrameReader,
        decoder: Decoder,
        *,
        ident: str,
        role: str,
        details: dict[str, Any],
        incarnation: str = "",
    ) -> None:
        #: Of the dialer, as it was confirmed by the listener: the same on both sides.
        self.ident: Final = ident
        self.role: Final = role
        #: What the other side said in its handshake.
        self.details: Final = details
        #: Of the process that listens.
        self.incarnation: Final = incarnation
        #: ``host:port`` of the other side, and of this one.
        self.peer: Final = peer_address(sock.getpeername())
        self.local: Final = peer_address(sock.getsockname())
        #: True from the moment in which the socket is closed.
        self.closed = False
        #: Why, once it is.
        self.reason = ""
        #: Bytes that were given to :meth:`send` and that the system has not taken yet.
        self.unsent = 0
        #: Bytes that have come.
        self.received = 0
        #: What the messages that are being handed over are made of; not valid any longer.
        self.control = memoryview(b"")
        self._sock = sock
        self._fd = sock.fileno()
        self._reader = reader
        self._decode = decoder.decode
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        #: Held while the socket is written to or closed. Only the loop's thread closes it.
        self._lock = threading.Lock()
        self._pieces: deque[bytes | memoryview] = deque()
        self._on_messages: OnMessages | None = None
        self._on_closed: OnClosed | None = None
        self._drains: list[tuple[int, asyncio.Future[None]]] = []
        self._ends: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        state = f"closed: {self.reason}" if self.closed else f"{self.unsent} bytes unsent"
        return f"<Link {self.role} {self.ident} at {self.peer}, {state}>"

    def start(self, on_messages: OnMessages, on_closed: OnClosed) -> None:
        """Begin to read.

        :param on_messages: called with the messages and the buffers of each frame. What it raises closes the link.
        :param on_closed: called once, with the reason, when the link is closed by whomever.
        """
        self._on_messages = on_messages
        self._on_closed = on_closed
        if self.closed:
            self._loop.call_soon(on_closed, self.reason)
            return
        self._loop.add_reader(self._fd, self._readable)
        if self._reader.midway:  # what came together with the end of the handshake
            self._loop.call_soon(self._deliver)

    # Out

    def send(self, messages: Sequence[Sequence[Any]], buffers: Sequence[Any] = ()) -> None:
        """Send one frame, from any thread. What the system does not take at once, the loop sends later.

        The buffers are not copied: they must not change until they are sent. On a closed link nothing happens.

        :param messages: tuples, each with the name of a message first.
        :raises UserError: the messages are too big for one frame.
        :raises Exception: a message holds what msgpack cannot.
        """
        self.send_pieces(encode_frame(messages, buffers))

    def send_pieces(self, pieces: Pieces) -> None:
        """Send one frame, encoded already; otherwise as :meth:`send`."""
        with self._lock:
            if self.closed:
                return
            waits = bool(self._pieces)
            if waits:
                self._pieces.extend(pieces)
                self.unsent += sum(map(len, pieces))
                return
            try:
                if len(pieces) == 1:
                    piece = pieces[0]
                    sent = self._sock.send(piece)
                    if sent == len(piece):
                        return
                else:
                    sent = self._sock.sendmsg(pieces[:MAX_PIECES])
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._soon(self._close, _why(error))
                return
            self._pieces.extend(pieces)
            self.unsent = sum(map(len, pieces))
            self._skip(sent)
            if not self._pieces:
                return
        self._soon(self._watch)

    def _skip(self, count: int) -> None:
        """Forget the first ``count`` bytes of what is unsent."""
        self.unsent -= count
        pieces = self._pieces
        while count:
            piece = pieces[0]
            if count < len(piece):
                pieces[0] = memoryview(piece)[count:]
                return
            count -= len(piece)
            pieces.popleft()

    def _watch(self) -> None:
        if not self.closed:
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        failure = ""
        with self._lock:
            if self.closed:
                return
            try:
                if self._pieces:
                    self._skip(self._sock.sendmsg(list(islice(self._pieces, MAX_PIECES))))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                failure = _why(error)
            emptied = not self._pieces
        if failure:
            self._close(failure)
            return
        if emptied:
            self._loop.remove_writer(self._fd)
        if self._drains:
            self._settle_drains()

    async def drain(self, limit: int = 0) -> None:
        """Wait until at most ``limit`` bytes are unsent, or the link is closed. To be called on the loop."""
        if self.unsent > limit and not self.closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._drains.append((limit, future))
            await future

    def _settle_drains(self) -> None:
        waiting, self._drains = self._drains, []
        for limit, future in waiting:
            if future.done():
                continue
            if self.closed or self.unsent <= limit:
                future.set_result(None)
            else:
                self._drains.append((limit, future))

    # In

    def _readable(self) -> None:
        reader = self._reader
        budget = READ_BUDGET
        while budget > 0 and not self.closed:
            space = reader.space()
            try:
                count = self._sock.recv_into(space)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._close(_why(error))
                return
            if count == 0:
                self._end()
                return
            self.received += count
            reader.filled(count)
            self._deliver()
            if count < len(space):
                return  # that was all; if it was not, the loop calls again
            budget -= count

    def _end(self) -> None:
        """The other side sends no more."""
        if self._reader.midway:
            self._violated("it closed the connection in the middle of a frame")
        else:
            self._close("the other side closed the connection")

    def _deliver(self) -> None:
        """Hand over the frames that are complete."""
        assert self._on_messages is not None
        try:
            while not self.closed:
                frame = self._reader.take()
                if frame is None:
                    return
                self.control, buffers = frame
                self._on_messages(self._decode(self.control), buffers)
        except ProtocolError as error:
            self._violated(str(error))
        except Exception as error:
            log.exception("%s %s at %s: a message could not be handled", self.role, self.ident, self.peer)
            self._close(f"a message could not be handled: {type(error).__name__}: {error}")

    def _violated(self, reason: str) -> None:
        log.warning("%s %s at %s: connection closed, because %s", self.role, self.ident, self.peer, reason)
        self._close(reason)

    # The end

    def close(self, reason: str = "") -> None:
        """Close the connection, from any thread. What is unsent is lost; :meth:`drain` first where that matters."""
        reason = reason or "closed by this side"
        if threading.get_ident() == self._thread or self._loop.is_closed():
            self._close(reason)
        else:
            self._soon(self._close, reason)

    async def wait_closed(self) -> None:
        """Wait until the link is closed. To be called on the loop."""
        if not self.closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._ends.append(future)
            await future

    def _close(self, reason: str) -> None:
        with self._lock:  # no thread is writing, and none will: the number of the descriptor may be given out again
            if self.closed:
                return
            self.closed = True
            self.reason = reason
            self._pieces.clear()
            self.unsent = 0
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
                self._loop.remove_writer(self._fd)
            self._sock.close()
        self._settle_drains()
        for future in self._ends:
            if not future.done():
                future.set_result(None)
        if self._on_closed is not None and not self._loop.is_closed():
            self._loop.call_soon(self._on_closed, reason)

    def _soon(self, callback: Callable[..., None], *args: Any) -> None:
        if threading.get_ident() == self._thread:
            self._loop.call_soon(callback, *args)
            return
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass  # the loop is closed, and with it all that it watched


def _why(error: OSError) -> str:
    return f"the connection broke: {error.strerror or error}"
