"""A network that fails on command: a proxy to put between two real peers."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TypeVar

__all__ = ["Proxy"]

#: How much is read at once, and how much of one connection may wait before its sender has to wait too.
_CHUNK = 1 << 16
_WINDOW = 1 << 20

_Self = TypeVar("_Self", bound="Proxy")


class _Way:
    """One direction of one connection: what was read from ``source`` and is to be written to ``target``."""

    def __init__(self, source: socket.socket, target: socket.socket, forward: bool) -> None:
        self.source = source
        self.target = target
        #: True from the dialer to the listener.
        self.forward = forward
        self.waiting: deque[tuple[float, bytearray]] = deque()
        self.size = 0
        #: True once the source has sent its last byte, and once the target was told so.
        self.ended = False
        self.closed = False


class Proxy:
    """Listens at :attr:`address` and passes on what it gets to ``target``, and back, as it is told to.

    It does its work in a thread of its own; what a method changes has changed when it returns. ::

        with Proxy("127.0.0.1:8786") as proxy:
            connect_to(proxy.address)
            proxy.stall()  # nothing passes, nothing is lost
            proxy.resume()
            proxy.corrupt(0)  # the next byte to the target is a wrong one
            proxy.cut()  # all connections are reset

    :param target: host and port of the listener that is hidden behind the proxy.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host.strip("[]"), int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        #: Where to connect to instead of ``target``.
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        #: How many connections there have been, and how many bytes were passed on to the target, and back. After a
        #: call of any method these count all that has arrived before.
        self.connections = 0
        self.forwarded = 0
        self.returned = 0
        self._ways: list[_Way] = []
        self._delay = 0.0
        self._stalled = {True: False, False: False}
        self._refusing = False
        self._corrupt: dict[int, int] = {}
        self._cut_at: int | None = None
        self._closing = False
        #: What others want changed, and whether there is nobody any more to do so. The rest is the thread's alone.
        self._changes: list[tuple[Callable[[], object], threading.Event]] = []
        self._ended = False
        self._lock = threading.Lock()
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._work, name="treadle-proxy", daemon=True)
        self._thread.start()

    def delay(self, seconds: float) -> None:
        """From now on every byte takes so much longer, in each direction. Their order stays."""
        self._tell(lambda: setattr(self, "_delay", seconds))

    def stall(self, forward: bool = True, back: bool = True) -> None:
        """Pass nothing on until :meth:`resume`; connections stay open, and new ones are accepted.

        :param forward: stop what goes to the target.
        :param back: stop what comes from the target.
        """
        stalled = {True: self._stalled[True] or forward, False: self._stalled[False] or back}
        self._tell(lambda: self._stalled.update(stalled))

    def resume(self) -> None:
        """Pass on what :meth:`stall` has held, and what comes."""
        self._tell(lambda: self._stalled.update({True: False, False: False}))

    def cut(self) -> None:
        """Reset all connections at once; what has not been passed on is lost. New ones are accepted."""
        self._tell(lambda: self._reset(list(self._ways)))

    def cut_after(self, nbytes: int) -> None:
        """Reset all connections when so many more bytes have been passed on to the target."""
        self._tell(lambda: setattr(self, "_cut_at", self.forwarded + nbytes))

    def refuse(self, refusing: bool = True) -> None:
        """Reset each new connection at once, or accept them again. Those that are open stay."""
        self._tell(lambda: setattr(self, "_refusing", refusing))

    def corrupt(self, offset: int, mask: int = 0xFF) -> None:
        """Change one byte on its way to the target.

        :param offset: which one, counted from what was passed on so far.
        :param mask: the bits to flip.
        """
        self._tell(lambda: self._corrupt.update({self.forwarded + offset: mask}))

    def close(self) -> None:
        """Reset all connections, listen no more, and wait for the thread to end."""
        self._tell(lambda: setattr(self, "_closing", True))
        self._thread.join()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, change: Callable[[], object]) -> None:
        """Have the thread make a change, between two of its steps, and wait until it has."""
        made = threading.Event()
        with self._lock:
            if self._ended:
                return
            self._changes.append((change, made))
            self._waker.send(b"\0")
        made.wait()

    def _work(self) -> None:
        with selectors.DefaultSelector() as selector:
            timeout: float | None = None
            while not self._closing:
                for file, events in self._interests().items():
                    selector.register(file, events)
                ready = {key.fileobj: events for key, events in selector.select(timeout)}
                for key in list(selector.get_map().values()):
                    selector.unregister(key.fileobj)
                if self._woken in ready:
                    self._woken.recv(_CHUNK)
                    self._change()
                if self._listener in ready:
                    self._accept()
                self._read([way for way in self._ways if ready.get(way.source, 0) & selectors.EVENT_READ])
                timeout = self._write()
        self._reset(list(self._ways))
        self._listener.close()
        with self._lock:
            self._ended = True
            self._waker.close()
            self._woken.close()
        self._change()

    def _change(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, []
        for change, made in changes:
            change()
            made.set()

    def _interests(self) -> dict[socket.socket, int]:
        """What to wait for: readers with room, and writers that are behind."""
        now = monotonic()
        interests = {self._listener: selectors.EVENT_READ, self._woken: selectors.EVENT_READ}
        for way in self._ways:
            if not way.ended and way.size < _WINDOW:
                interests[way.source] = interests.get(way.source, 0) | selectors.EVENT_READ
            if way.waiting and way.waiting[0][0] <= now and not self._stalled[way.forward]:
                interests[way.target] = interests.get(way.target, 0) | selectors.EVENT_WRITE
        return interests

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        self.connections += 1
        try:
            far = None if self._refusing else socket.create_connection(self._target, 10.0)
        except OSError:
            far = None
        if far is None:
            _abort(near)
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ways += [_Way(near, far, True), _Way(far, near, False)]

    def _read(self, ways: list[_Way]) -> None:
        for way in ways:
            if way not in self._ways:
                continue  # reset a moment ago
            try:
                data = bytearray(way.source.recv(_CHUNK))
            except BlockingIOError:
                continue
            except OSError:
                self._reset([way])
                continue
            if not data:
                way.ended = True
            way.size += len(data)
            way.waiting.append((monotonic() + self._delay, data))

    def _write(self) -> float | None:
        """Pass on what is due. Returns in how many seconds something else will be; None: not before somebody acts."""
        soonest: float | None = None
        for way in list(self._ways):
            if way in self._ways and not self._stalled[way.forward]:
                due = self._pass_on(way)
                if due is not None and (soonest is None or due < soonest):
                    soonest = due
        return None if soonest is None else max(0.0, soonest - monotonic())

    def _pass_on(self, way: _Way) -> float | None:
        while way.waiting:
            due, data = way.waiting[0]
            if due > monotonic():
                return due
            if not data:
                way.waiting.popleft()
                self._end(way)
                return None
            if not self._pass_some(way, data):
                return None
            if not data:
                way.waiting.popleft()
        return None

    def _pass_some(self, way: _Way, data: bytearray) -> bool:
        """False if nothing more can be passed on now."""
        limit = len(data)
        if way.forward:
            for offset in [offset for offset in self._corrupt if offset < self.forwarded + len(data)]:
                data[offset - self.forwarded] ^= self._corrupt.pop(offset)
            if self._cut_at is not None:
                limit = min(limit, self._cut_at - self.forwarded)
        try:
            sent = way.target.send(bytes(data[:limit])) if limit else 0
        except BlockingIOError:
            return False
        except OSError:
            self._reset([way])
            return False
        del data[:sent]
        way.size -= sent
        if way.forward:
            self.forwarded += sent
            if self._cut_at is not None and self.forwarded >= self._cut_at:
                self._cut_at = None
                self._reset(list(self._ways))
                return False
        else:
            self.returned += sent
        return True

    def _end(self, way: _Way) -> None:
        """The source has sent its last byte: so has this end, and when both have, the connection is over."""
        way.closed = True
        pair = self._pair(way)
        try:
            way.target.shutdown(socket.SHUT_WR)
        except OSError:
            self._reset([way])
            return
        if all(other.closed for other in pair):
            for other in pair:
                self._ways.remove(other)
                other.source.close()

    def _pair(self, way: _Way) -> list[_Way]:
        return [other for other in self._ways if other.source in (way.source, way.target)]

    def _reset(self, ways: list[_Way]) -> None:
        for way in ways:
            for other in self._pair(way):
                self._ways.remove(other)
                _abort(other.source)


def _abort(end: socket.socket) -> None:
    """Close a connection in such a way that the other side sees it reset, not ended."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.close()
