"""Streams of events that a client has subscribed to."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from treadle.client.latch import Latch, deadline_of, run_async
from treadle.client.session import EventRow, Session
from treadle.errors import ClosedError, TreadleError
from treadle.wire.values import unpack_value

__all__ = ["Feed"]


class Feed:
    """The events of a topic that one subscriber has not read yet. If there are too many, it misses the oldest.

    :param size: how many events it keeps.
    """

    def __init__(self, topic: str, size: int) -> None:
        self.topic: Final = topic
        self.closed = False
        #: How many events it has missed.
        self.missed = 0
        self._lock: Final = threading.Lock()
        self._rows: Final[deque[EventRow]] = deque(maxlen=size)
        self._waiting: Final[list[Latch]] = []
        #: The number of the last event that has come; -1 before the first one.
        self._last = -1
        self._ended: TreadleError | None = None

    def __repr__(self) -> str:
        return f"<Feed of {self.topic!r}, {len(self._rows)} events, {self.missed} missed>"

    async def open(self, session: Session, deadline: float | None = None) -> None:
        """Steps: subscribe. What is sent after that arrives, and nothing that was sent before."""
        subscriptions = _subscriptions_of(session)
        subscriptions.add(self)
        try:
            number = await session.ask("topic.subscribe", self.topic, deadline)
        except BaseException:
            subscriptions.remove(self)
            raise
        with self._lock:
            later = [row for row in self._rows if row[0] > number]  # an earlier subscription may have brought others
            self._rows.clear()
            self._rows.extend(later)
            self._last = max(self._last, number)

    def begin(self, session: Session) -> None:
        """Subscribe without waiting for it."""
        session.check()
        _subscriptions_of(session).add(self)
        session.post("ask", session.count(), "topic.subscribe", self.topic)
        session.flush()

    def close(self, session: Session) -> None:
        """Read no more."""
        self.closed = True
        _subscriptions_of(session).remove(self)
        self.end(ClosedError(f"the subscription to {self.topic!r} was closed"))

    def end(self, error: TreadleError) -> None:
        """Nothing will come any more."""
        with self._lock:
            if self._ended is None:
                self._ended = error
            self._wake()

    def take(self, rows: Sequence[EventRow]) -> None:
        """Events have come."""
        with self._lock:
            for row in rows:
                if 0 <= self._last < row[0] - 1:
                    self.missed += row[0] - self._last - 1
                self._last = row[0]
                if len(self._rows) == self._rows.maxlen:
                    self.missed += 1
                self._rows.append(row)
            self._wake()

    def _wake(self) -> None:
        for latch in self._waiting:
            latch.open()
        self._waiting.clear()

    async def read(self, timeout: float | None = None) -> tuple[float, Any]:
        """Steps: the next event, and when it was.

        :raises concurrent.futures.TimeoutError: there was none in time.
        :raises ClosedError: the subscription, or the client, was closed.
        :raises ConnectError: the connection was lost.
        """
        deadline = deadline_of(timeout)
        while True:
            with self._lock:
                if self._rows:
                    _, when, data = self._rows.popleft()
                    break
                if self._ended is not None:
                    raise type(self._ended)(*self._ended.args)
                latch = Latch(self._lock, deadline=deadline)
                self._waiting.append(latch)
            try:
                await latch
            except BaseException:
                with self._lock:
                    if latch in self._waiting:
                        self._waiting.remove(latch)
                raise
        return when, unpack_value(data)


class _Subscriptions:
    """The feeds of one session, by topic."""

    def __init__(self, session: Session) -> None:
        self._session: Final = weakref.ref(session)
        self._feeds: Final[dict[str, weakref.WeakSet[Feed]]] = {}
        session.start(self._watch)

    def add(self, feed: Feed) -> None:
        session = self._session()
        with _lock:
            feeds = self._feeds.setdefault(feed.topic, weakref.WeakSet())
            feeds.add(feed)
            if session is not None:
                topic = feed.topic
                session.listen(topic, lambda rows: self._take(topic, rows))

    def remove(self, feed: Feed) -> None:
        with _lock:
            feeds = self._feeds.get(feed.topic)
            if feeds is None:
                return
            feeds.discard(feed)
        self._check(feed.topic)

    def _take(self, topic: str, rows: Sequence[EventRow]) -> None:
        with _lock:
            feeds = list(self._feeds.get(topic, ()))
        for feed in feeds:
            feed.take(rows)
        if not feeds:
            self._check(topic)

    def _check(self, topic: str) -> None:
        """Unsubscribe from a topic that nobody reads any more."""
        session = self._session()
        with _lock:
            if self._feeds.get(topic):
                return
            self._feeds.pop(topic, None)
            if session is not None and session.ended is None:
                session.listen(topic, None)
                session.post("ask", session.count(), "topic.unsubscribe", topic)

    async def _watch(self) -> None:
        """Tell all feeds when the session ends: this question is never answered."""
        session = self._session()
        try:
            if session is not None:
                await run_async(session.ask("session.end"))
        except TreadleError:
            pass  # that is how it ends
        finally:
            error = ClosedError("this client is closed") if session is None or session.ended is None else session.ended
            with _lock:
                feeds = [feed for each in self._feeds.values() for feed in each]
            for feed in feeds:
                feed.end(error)


_lock: Final = threading.Lock()
_subscriptions: Final[weakref.WeakKeyDictionary[Session, _Subscriptions]] = weakref.WeakKeyDictionary()


def _subscriptions_of(session: Session) -> _Subscriptions:
    with _lock:
        found = _subscriptions.get(session)
        if found is None:
            found = _subscriptions[session] = _Subscriptions(session)
        return found
