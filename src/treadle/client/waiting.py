"""Waiting for several futures, of clients or of the standard library."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from operator import attrgetter
from typing import Any, NamedTuple

from treadle.client.future import Future
from treadle.client.latch import Stream, deadline_of, run_async, run_blocking
from treadle.client.session import Session

__all__ = ["DoneAndNotDone", "as_completed", "wait"]

_MODES = (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION)


class DoneAndNotDone(NamedTuple):
    """What :func:`wait` returns: the futures that have ended, and the others."""

    done: set[Any]
    not_done: set[Any]


def wait(fs: Iterable[Any], timeout: float | None = None, return_when: str = ALL_COMPLETED) -> Any:
    """Wait for futures, of clients and of the standard library in any mixture. Results are not fetched.

    With an asynchronous client it has to be awaited.

    :param timeout: wait no longer than this many seconds.
    :param return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION`` of ``concurrent.futures``.
    :returns: a named tuple of two sets, ``done`` and ``not_done``.
    """
    if return_when not in _MODES:
        raise ValueError(f"return_when must be one of {', '.join(_MODES)}, not {return_when!r}")
    futures = set(fs)
    sessions = _sessions(futures)
    asked = (futures, sessions, timeout, return_when)
    return run_async(_wait(*asked)) if _belongs_here(sessions) else run_blocking(_wait, *asked)


async def _wait(futures: set[Any], sessions: set[Session], timeout: float | None, return_when: str) -> DoneAndNotDone:
    """Steps of :func:`wait`."""
    deadline = deadline_of(timeout)
    try:
        if return_when == ALL_COMPLETED and all(map(_is_ours, set(map(type, futures)))):
            for session in sessions:
                own = futures if len(sessions) == 1 else {each for each in futures if each._session is session}
                await session.obtain(own, fetch=False, deadline=deadline)
            return DoneAndNotDone(futures, set())
        else:
            await _wait_for_some(futures, sessions, deadline, return_when)
    except concurrent.futures.TimeoutError:
        pass
    done = {future for future in futures if future.done()}
    return DoneAndNotDone(done, futures - done)


async def _wait_for_some(futures: set[Any], sessions: set[Session], deadline: float | None, return_when: str) -> None:
    for session in sessions:
        session.flush()
    stream = Stream()
    stream.watch(futures)
    left = len(futures)
    try:
        while left:
            await stream.ready(deadline)
            ended = stream.take()
            left -= len(ended)
            if return_when == FIRST_COMPLETED or (return_when == FIRST_EXCEPTION and any(map(_has_failed, ended))):
                break
    finally:
        stream.close()


def _has_failed(future: Any) -> bool:
    return not future.cancelled() and future.exception() is not None


def _sessions(futures: Iterable[Any]) -> set[Session]:
    if all(map(_is_ours, set(map(type, futures)))):
        return set(map(_session_of, futures))
    return {future._session for future in futures if isinstance(future, Future)}


_session_of = attrgetter("_session")


def _is_ours(kind: type) -> bool:
    return issubclass(kind, Future)


def _belongs_here(sessions: Iterable[Session]) -> bool:
    """Whether this is the thread of an event loop that must not be blocked, because futures are settled by it."""
    return any(session.in_loop() for session in sessions)


class as_completed:
    """Iterate over futures in the order in which they end, with ``for`` or with ``async for``.

    Futures of clients and of the standard library, in any mixture. More can be added while it goes on.

    :param futures: duplicates are returned once.
    :param timeout: seconds after which waiting for the next one ends with ``concurrent.futures.TimeoutError``, counted
        from now.
    :param with_results: give pairs of a future and its result; a failed one raises.
    """

    def __init__(self, futures: Iterable[Any] = (), timeout: float | None = None, with_results: bool = False) -> None:
        self._stream = Stream()
        self._known: set[Any] = set()
        self._sessions: set[Session] = set()
        self._left = 0
        self._deadline = deadline_of(timeout)
        self._with_results = with_results
        self.update(futures)

    def __repr__(self) -> str:
        return f"<as_completed, {self._left} of {len(self._known)} futures to come>"

    def add(self, future: Any) -> None:
        """Wait for one more."""
        self.update([future])

    def update(self, futures: Iterable[Any]) -> None:
        """Wait for some more."""
        new = [future for future in dict.fromkeys(futures) if future not in self._known]
        self._known.update(new)
        self._left += len(new)
        self._sessions |= _sessions(new)
        self._stream.watch(new)

    def count(self) -> int:
        """How many have not been returned yet."""
        return self._left

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        for session in self._sessions:
            session.check_thread(self)
        future = run_blocking(self._next)
        return (future, future.result()) if self._with_results else future

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        future = await run_async(self._next())
        if not self._with_results:
            return future
        return future, (await future if isinstance(future, Future) else future.result())

    async def _next(self) -> Any:
        ended = self._stream.take(1)
        if not ended:
            for session in self._sessions:
                session.flush()
            await self._stream.ready(self._deadline)
            ended = self._stream.take(1)
        self._left -= 1
        return ended[0]
