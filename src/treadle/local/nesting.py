"""Whether this code already runs inside a task that somebody else's slot is paying for.

A task may call ``get``. On Treadle's own threads the calling thread then works for the inner run (see
:mod:`treadle.local.drive`). In a worker process, or on somebody's executor, the inner run stays in the calling
thread: asking the same pool for more would wait for a slot that the task itself occupies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["become_worker", "confined", "confining"]

_here = threading.local()
_worker_process = False


def become_worker() -> None:
    """This whole process runs tasks for another one."""
    global _worker_process
    _worker_process = True


@contextmanager
def confining() -> Iterator[None]:
    """Runs that are started inside the block stay in this thread."""
    before = getattr(_here, "confined", False)
    _here.confined = True
    try:
        yield
    finally:
        _here.confined = before


def confined() -> bool:
    return _worker_process or getattr(_here, "confined", False)
