"""What a client holds: it tells the scheduler from time to time that it is still there, while it holds something."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final

from treadle.client.session import EventRow, Session
from treadle.core.coordination import AGAIN, GRANTED
from treadle.errors import LeaseLostError

__all__ = ["Lease", "ask_for", "give_back"]

#: How many signs of life there are in the time of a lease.
SIGNS: Final = 4


class Lease:
    """Something that is held."""

    __slots__ = ("__weakref__", "lost", "number", "rows", "session", "token")

    def __init__(self, session: Session, number: int, token: int, rows: Sequence[tuple[bytes, list[str]]]) -> None:
        self.session = session
        #: Of the inquiry that it was granted to.
        self.number = number
        #: Bigger than that of any lease that was granted before.
        self.token = token
        #: Packed items with the keys of their futures.
        self.rows = rows
        #: True once the scheduler has said that it was taken away.
        self.lost = False

    def __repr__(self) -> str:
        return f"<Lease {self.number}, token {self.token}{', lost' if self.lost else ''}>"

    def end(self) -> None:
        """It is over, without a word to the scheduler."""
        _leases_of(self.session).remove(self)


class Leases:
    """All that one session holds."""

    def __init__(self, session: Session) -> None:
        self._session: Final = weakref.ref(session)
        self._held: Final[dict[int, Lease]] = {}
        self._renewing = False
        session.listen("lease.lost", self._lost)

    def add(self, lease: Lease, seconds: float) -> None:
        """Something was granted for so many seconds of silence."""
        with _lock:
            self._held[lease.number] = lease
            start = not self._renewing
            self._renewing = True
        if start:
            lease.session.start(lambda: self._renew(seconds / SIGNS))

    def remove(self, lease: Lease) -> None:
        with _lock:
            self._held.pop(lease.number, None)

    def _lost(self, rows: Sequence[EventRow]) -> None:
        for number, _, _ in rows:
            lease = self._held.pop(number, None)
            if lease is not None:
                lease.lost = True

    async def _renew(self, interval: float) -> None:
        """Give signs of life, for as long as anything is held."""
        while True:
            await asyncio.sleep(interval)
            session = self._session()
            with _lock:
                if not self._held or session is None or session.ended is not None:
                    self._renewing = False
                    return
            session.post("ask", session.count(), "lease.renew", None)
            session.flush()
            del session


_lock: Final = threading.Lock()
_leases: Final[weakref.WeakKeyDictionary[Session, Leases]] = weakref.WeakKeyDictionary()


def _leases_of(session: Session) -> Leases:
    with _lock:
        leases = _leases.get(session)
        if leases is None:
            leases = _leases[session] = Leases(session)
        return leases


async def ask_for(session: Session, topic: str, argument: Any, deadline: float | None = None) -> Lease | str:
    """Steps: something that is granted as a lease, or why it is not.

    :raises concurrent.futures.TimeoutError: it was not granted by the deadline.
    """
    while True:
        number = session.count()
        answer = await session.ask(topic, argument, deadline, number)
        if answer[0] == GRANTED and len(answer) > 1:
            break
        if answer[0] != AGAIN:
            how: str = answer[0]
            return how
    _, token, seconds, rows = answer
    lease = Lease(session, number, token, rows)
    if token:
        _leases_of(session).add(lease, seconds)
    return lease


async def give_back(
    lease: Lease, what: str, consumed: bool = False, deadline: float | None = None, quiet: bool = False
) -> None:
    """Steps: end a lease.

    :param what: names it in the error.
    :param consumed: its items are taken for good.
    :param quiet: do not wait for the answer.
    :raises LeaseLostError: it had been taken away.
    """
    session = lease.session
    lease.end()
    if quiet:
        session.post("ask", session.count(), "lease.release", (lease.number, consumed))
        session.flush()
    elif not await session.ask("lease.release", (lease.number, consumed), deadline):
        raise LeaseLostError(what)
