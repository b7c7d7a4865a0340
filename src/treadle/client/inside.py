"""Whether this code runs inside of a task, and what the client has to know of that task.

A worker tells it here, so that the client need not know workers: where tasks are submitted from inside of a task they
are more urgent than that one, and where a task waits it gives up its thread.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from treadle.client.client import Client

__all__ = ["Inside", "current", "here", "in_coroutine", "priority"]

#: The bounds of what a task may have.
MAX_PRIORITY: Final = 1 << 20


class Inside(Protocol):
    """The task that is being run."""

    @property
    def key(self) -> str: ...

    @property
    def attempt(self) -> int:
        """Its number on this worker; 0 if a lost value is made again."""

    @property
    def priority(self) -> int: ...

    @property
    def worker(self) -> Any:
        """What :func:`treadle.get_worker` returns."""

    def client(self, timeout: float) -> Client:
        """The client of the worker."""

    def leave(self) -> None:
        """Give up the thread of this task; others may run now. Calls may be nested."""

    def come_back(self) -> None:
        """Wait for a thread. To be called as often as :meth:`leave`."""

    def secede(self) -> None: ...

    def rejoin(self) -> None: ...


class _Here(threading.local):
    """What is to be known of the running thread."""

    #: The task that it executes.
    task: Inside | None = None
    #: Whether it is the thread of the event loop of a worker's asynchronous tasks.
    is_loop = False


here: Final = _Here()

#: The asynchronous task that this code is a part of.
in_coroutine: Final[ContextVar[Inside | None]] = ContextVar("treadle_task", default=None)


def current() -> Inside | None:
    """The task that this code is a part of, if it is one."""
    return here.task or in_coroutine.get()


def priority() -> int:
    """Of what is submitted here and has no priority of its own: children run before what is not begun yet."""
    task = here.task or in_coroutine.get()
    return 0 if task is None else min(task.priority + 1, MAX_PRIORITY)
