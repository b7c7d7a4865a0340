"""Which client runs a graph when the call does not say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from treadle.client import inside
from treadle.integrations import adoption

__all__ = ["Runner", "current", "forget", "preferred", "register", "registered"]

#: Seconds that a task waits at most for the connection of its worker's client.
PATIENCE = 10.0


class Runner(Protocol):
    """What can stand in the place of a local scheduler."""

    @property
    def closed(self) -> bool: ...
    @property
    def asynchronous(self) -> bool: ...
    def __treadle_outcome__(self, graph: Any, keys: Any, callbacks: Any) -> Any:
        """The :class:`~treadle.local.drive.Outcome` of a call of ``treadle.get``."""


#: The default of an asynchronous task and what it starts; the defaults of the program (the last one counts).
_HERE: ContextVar[Runner | None] = ContextVar("treadle_client", default=None)
_EVERYWHERE: list[Runner] = []


def register(client: Runner) -> None:
    """Make ``client`` the default: of the whole program, or of the running asynchronous task if it is asynchronous."""
    if client.asynchronous:
        _HERE.set(client)
    else:
        _EVERYWHERE.append(client)
        adoption.adopt()


def forget(client: Runner) -> None:
    """``client`` is closed: the default is what it was before."""
    if _HERE.get() is client:
        _HERE.set(None)
    if client in _EVERYWHERE:
        _EVERYWHERE.remove(client)
        if not _EVERYWHERE:
            adoption.release()
            if _EVERYWHERE:  # another thread has opened one in between
                adoption.adopt()


@contextmanager
def preferred(client: Runner) -> Iterator[None]:
    """Make ``client`` the default of the running thread, or asynchronous task, in a ``with`` block."""
    before = _HERE.set(client)
    try:
        yield
    finally:
        _HERE.reset(before)


def current() -> Runner | None:
    """The default client, if there is one that is open; else, inside of a task, the client of its worker."""
    found = registered()
    if found is None:
        task = inside.current()
        if task is not None:
            return task.client(PATIENCE)
    return found


def registered() -> Runner | None:
    """The default client, if there is one that is open."""
    here = _HERE.get()
    if here is not None and not here.closed:
        return here
    while _EVERYWHERE and _EVERYWHERE[-1].closed:
        _EVERYWHERE.pop()
    return _EVERYWHERE[-1] if _EVERYWHERE else None
