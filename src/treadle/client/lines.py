"""Calls that workers make outside of tasks: many on one connection, answered in any order.

A call that finds the line quiet is sent by the thread that makes it. While one is on its way, others gather until the
event loop has its turn, and travel in one frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from treadle.client.future import CANCELLED, PENDING, Failure, Future, Parts
from treadle.client.latch import run_blocking
from treadle.client.shield import Shield
from treadle.errors import PeerError, ProtocolError, TreadleError
from treadle.net.dial import dial
from treadle.wire.messages import TO_PEER, Reply

if TYPE_CHECKING:
    from treadle.client.registry import Unsettled
    from treadle.client.session import Session
    from treadle.net.link import Link

__all__ = ["CallFuture", "Line", "Lines", "settle"]

T = TypeVar("T")

#: How many calls one frame has at most, and how many buffers.
BATCH: Final = 2048
BATCH_BUFFERS: Final = 16384
#: Bytes of big arguments that may be on their way at the same time; the calls after these wait.
WINDOW: Final = 256 << 20
#: Seconds in which a worker must take a connection.
TIMEOUT: Final = 5.0

_encode = msgspec.msgpack.Encoder().encode


class Request(NamedTuple):
    """A call that is to be sent: its small argument, or the buffers of a big one."""

    future: CallFuture[Any]
    topic: str
    target: str
    packed: bytes
    parts: Sequence[Any]
    nbytes: int


class CallFuture(Future[T]):
    """The result of a call that a worker makes outside of any task. The cluster knows nothing of it."""

    #: By which the call is known on its line; 0 until it is sent.
    _number = 0
    #: What is called: the key of an actor.
    target = ""
    #: The topic that cancels calls like this one.
    _canceller = ""

    def __init__(self, key: str, line: Line) -> None:
        self._line = line
        super().__init__(key, line.session)

    def cancel(self) -> bool:
        """Do not make this call. True if it was not begun, and never will be.

        To find that out takes a round trip to the worker. In the thread of an asynchronous client's event loop, where
        nothing may wait for that, False is returned if the call was sent; the future is cancelled a moment later if
        that was in time.
        """
        if self._state == PENDING:
            self._line.cancel(self)
        return self._state == CANCELLED

    def release(self) -> None:
        """Nothing: the result is kept nowhere but here."""

    def __del__(self) -> None:
        pass  # unlike its base, it stands for nothing that the cluster keeps

    def _why_cancelled(self) -> str:
        return f"the call {self.key!r} was cancelled, or its client was closed"

    def _undone(self, worker: str, reason: str) -> BaseException:
        """The error of a call that was not answered.

        :param worker: the ident of the one that was to answer.
        """
        return PeerError(f"{self.key} was not answered: {reason}")

    def __repr__(self) -> str:
        return super().__repr__().replace("<Future ", f"<{type(self).__name__} ", 1)


class Line:
    """The calls of one session to one worker. Unless something else is said, for any thread."""

    def __init__(self, session: Session, ident: str, address: str) -> None:
        self.session: Final = session
        self.ident: Final = ident
        self.address: Final = address
        self._outbox: deque[Request] = deque()
        #: Calls that were sent, by number, and how many bytes of big arguments each of them has, if any.
        self._waiting: dict[int, CallFuture[Any]] = {}
        self._sizes: dict[int, int] = {}
        self._link: Link | None = None
        self._dialing = False
        self._over = False
        #: Held while calls are taken from the outbox and sent, so that they arrive in their order.
        self._sending = threading.Lock()
        self._scheduled = False
        self._count = 0
        self._unanswered = 0

    def __repr__(self) -> str:
        return f"<Line to {self.ident} at {self.address}, {len(self._waiting)} calls waiting>"

    # Out

    def call(self, future: CallFuture[Any], topic: str, target: str, packed: bytes, parts: Sequence[Any] = ()) -> None:
        """Make a call.

        :param packed: its small argument.
        :param parts: the buffers of a big one, which must not change any more.
        """
        quiet = self._link is not None and not self._outbox and not self._waiting
        self._outbox.append(Request(future, topic, target, packed, parts, sum(map(len, parts)) if parts else 0))
        if quiet or len(self._outbox) == BATCH:
            self.flush()
        elif not self._scheduled:
            self._nudge()

    def _nudge(self) -> None:
        self._scheduled = True
        loop = self.session.loop
        assert loop is not None
        try:
            if self.session.in_loop():
                loop.call_soon(self.flush)
            else:
                loop.call_soon_threadsafe(self.flush)
        except RuntimeError:
            self._settle_all("its client was closed")  # and with it the loop

    def flush(self) -> None:
        """Send what there is to send."""
        self._scheduled = False
        if self._over:
            self._settle_all(None)
            return
        link = self._link
        if link is None:
            if self.session.in_loop():
                self._dial()
            else:
                self._nudge()
            return
        with Shield(), self._sending:
            while self._outbox and self._unanswered < WINDOW:
                messages, buffers = self._take()
                link.send(messages, buffers)
        if link.closed:
            self.session.start(self._mourn)

    def _take(self) -> tuple[list[tuple[Any, ...]], list[Any]]:
        """The next frame."""
        outbox = self._outbox
        messages: list[tuple[Any, ...]] = []
        buffers: list[Any] = []
        number = self._count
        waiting = self._waiting
        while outbox and len(messages) < BATCH and len(buffers) < BATCH_BUFFERS and self._unanswered < WINDOW:
            future, topic, target, packed, parts, nbytes = outbox.popleft()
            number += 1
            future._number = number
            waiting[number] = future
            messages.append(("call", number, topic, target, len(parts), packed))
            if parts:
                buffers.extend(parts)
                self._sizes[number] = nbytes
                self._unanswered += nbytes
        self._count = number
        return messages, buffers

    def cancel(self, future: CallFuture[Any]) -> None:
        """Take back a call that was not begun."""
        with Shield(), self._sending:
            unsent = [request for request in list(self._outbox) if request.future is future]
            for request in unsent:
                self._outbox.remove(request)
        if unsent:
            settle(self.session, [(future, None)])
        elif future._canceller and future._number:
            answer: CallFuture[Any] = CallFuture(f"cancel {future.key}", self)
            self.call(answer, future._canceller, future.target, _encode(future._number))
            if not self.session.in_loop():
                run_blocking(self.session.obtain, [answer])

    # In. On the session's loop.

    def _dial(self) -> None:
        if not self._dialing:
            self._dialing = True
            self.session.start(self._connect)

    async def _connect(self) -> None:
        session = self.session
        try:
            link = await dial(
                self.address,
                role="peer",
                ident=session.ident,
                token=session.token,
                details={},
                decoder=TO_PEER,
                timeout=TIMEOUT,
                patience=0.0,
            )
            if link.details.get("ident") != self.ident:
                link.close("another worker listens there now")
                raise ProtocolError(f"another worker listens at {self.address} now")
        except (TreadleError, OSError) as error:
            self._settle_all(str(error))
        else:
            self._link = link
            link.start(self._receive, self._lost)
            self.flush()
        finally:
            self._dialing = False

    def _receive(self, batch: list[Any], buffers: list[memoryview]) -> None:
        rows: list[tuple[CallFuture[Any], Any]] = []
        used = 0
        for message in batch:
            future = self._waiting.pop(message.id, None) if type(message) is Reply else None
            if future is None:
                raise ProtocolError("it sent what nobody had asked for")
            if self._sizes:
                self._unanswered -= self._sizes.pop(message.id, 0)
            held: Any = message.packed
            if message.error is not None:
                held = None if message.error[0] == "cancelled" else Failure(future.key, message.error)
            elif message.count:
                held = Parts(buffers[used : used + message.count])
                used += message.count
            rows.append((future, held))
        if used != len(buffers):
            raise ProtocolError(f"it announced {used} buffers and sent {len(buffers)}")
        settle(self.session, rows)
        if self._outbox and not self._scheduled:
            self.flush()

    def _lost(self, reason: str) -> None:
        self._link = None
        self._settle_all(f"the connection to it was lost ({reason})")

    async def _mourn(self) -> None:
        """What was sent on a link that had just been closed will not be answered."""
        if self._link is None or self._link.closed:
            self._settle_all("the connection to it was lost")

    def _fail(self, futures: Sequence[CallFuture[Any]], reason: str) -> None:
        settle(self.session, [(future, future._undone(self.ident, reason)) for future in futures])

    def _settle_all(self, reason: str | None) -> None:
        """Nothing comes for any call: they failed, or are cancelled."""
        with self._sending:
            futures = list(self._waiting.values())
            self._waiting.clear()
            self._sizes.clear()
            while self._outbox:
                futures.append(self._outbox.popleft().future)
            self._unanswered = 0
        if reason is None:
            settle(self.session, [(future, None) for future in futures])
        else:
            self._fail(futures, reason)

    def refuse(self, future: CallFuture[Any], reason: str) -> None:
        """Do not make a call that could not succeed."""
        self._fail([future], reason)

    def lose(self, key: str, reason: str) -> None:
        """The scheduler says that an actor is gone, whatever the connection looks like."""
        with self._sending:
            futures = [future for future in self._waiting.values() if future.target == key]
        self._fail(futures, reason)

    def close(self) -> None:
        """Calls that are not done are cancelled."""
        self._over = True
        link, self._link = self._link, None
        if link is not None:
            link.close("the client was closed")
        self._settle_all(None)


class Lines:
    """The lines of one session, each made when it is first needed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lines: dict[tuple[str, str], Line] = {}

    def __repr__(self) -> str:
        return f"<Lines to {len(self._lines)} workers>"

    def to(self, ident: str, address: str) -> Line:
        line = self._lines.get((ident, address))
        if line is None:
            line = self._lines.setdefault((ident, address), Line(self._session, ident, address))
        return line

    def close(self) -> None:
        for line in list(self._lines.values()):
            line.close()


def settle(session: Session, rows: Sequence[tuple[CallFuture[Any], Any]]) -> None:
    """Give futures what has become of their calls: what came, an exception, or None if they are cancelled."""
    later: Unsettled = []
    with session.lock:
        for future, held in rows:
            if future._state != PENDING:
                continue
            if future._monitor is None:
                future._take(held)
            else:
                later.append((future, held))
    session.settle(later)
