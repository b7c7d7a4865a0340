"""A pool of threads that are kept between runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["ThreadPool", "shared_pool"]


class ThreadPool:
    """Parked threads, each woken for one job at a time. There are never more than were busy at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: list[_Thread] = []
        self._started = 0

    def run(self, job: Callable[[], Any]) -> None:
        """Have a thread call ``job``, which must not raise."""
        with self._lock:
            if self._parked:
                thread = self._parked.pop()
            else:
                self._started += 1
                thread = _Thread(self, self._started)
                thread.start()
        thread.give(job)

    def park(self, thread: _Thread) -> None:
        with self._lock:
            self._parked.append(thread)


class _Thread(threading.Thread):
    def __init__(self, pool: ThreadPool, number: int) -> None:
        # A daemon, so that a parked thread does not keep the interpreter from exiting.
        super().__init__(name=f"treadle-{number}", daemon=True)
        self._pool = pool
        self._bell = threading.Lock()
        self._bell.acquire()
        self._job: Callable[[], Any] | None = None

    def give(self, job: Callable[[], Any]) -> None:
        self._job = job
        self._bell.release()

    def run(self) -> None:
        while True:
            self._bell.acquire()
            job = self._job
            self._job = None
            assert job is not None
            job()
            del job  # what the job holds must not live until the next one comes
            self._pool.park(self)


_shared = ThreadPool()


def shared_pool() -> ThreadPool:
    """The pool that runs use when none is given."""
    return _shared


def _forget_threads() -> None:
    global _shared
    _shared = ThreadPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
