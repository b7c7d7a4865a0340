"""What a local cluster knows of its workers: kept up to date by what its scheduler tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from treadle.deploy.child import Event

__all__ = ["LocalWorker", "Members"]


class LocalWorker(NamedTuple):
    """A worker process of a local cluster."""

    #: Unique for ever. One that replaces it has another ident, and the same name.
    ident: str
    name: str
    pid: int
    #: ``host:port`` where it serves its data.
    address: str
    nthreads: int


class Members:
    """The workers that have joined, and whether the cluster is in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._workers: dict[str, LocalWorker] = {}
        #: True once the scheduler is gone.
        self.ended = False
        #: Why a worker was not replaced.
        self.failure = ""

    def tell(self, event: Event) -> None:
        """Something has happened, says the scheduler. Called by a thread of its own."""
        with self._changed:
            if event["event"] == "joined":
                facts = {name: event[name] for name in LocalWorker._fields}
                self._workers[event["ident"]] = LocalWorker(**facts)
            elif event["event"] == "gone":
                self._workers.pop(event["ident"], None)
            else:
                self.ended = True
                self._workers.clear()
            self._changed.notify_all()

    def give_up(self, reason: str) -> None:
        """A worker will not be replaced. Called by a thread of its supervisor."""
        with self._changed:
            self.failure = reason
            self._changed.notify_all()

    def workers(self) -> list[LocalWorker]:
        """Those that are there, by name."""
        with self._changed:
            return sorted(self._workers.values(), key=lambda worker: (len(worker.name), worker.name))

    def wait(self, enough: Callable[[list[LocalWorker]], bool], timeout: float) -> bool:
        """Wait until the workers are as they should be. False if that takes longer, or will never be the case."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not enough(list(self._workers.values())):
                left = deadline - time.monotonic()
                if self.ended or self.failure or left <= 0:
                    return False
                self._changed.wait(left)
            return True
