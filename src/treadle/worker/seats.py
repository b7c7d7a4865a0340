"""The threads of a worker, and what they say of the tasks that they execute."""

from __future__ import annotations

from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Final

from treadle.core.worker import Job
from treadle.worker.context import Activity

if TYPE_CHECKING:
    from treadle.worker.executor import Executor

__all__ = ["Seat"]

_NO_JOB: Final = Job(0, "", 0, 0, b"", [], 0)


class Seat(Activity):
    """A thread of an executor, with the task that it executes."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(_NO_JOB, executor.worker)
        self._executor = executor
        #: Closed; opening it wakes the thread.
        self.bell: Final = Lock()
        self.bell.acquire()
        #: The word of shared memory that says what is executed here; -1 while the task is away, or there is none.
        self.slot = -1
        #: What the task wants: True while it waits for something else than a thread.
        self.waits = False
        #: Closed while it waits for a thread; then opened and gone.
        self.gate: Lock | None = None
        #: True if the task has been away. Then: for how many seconds, and since when it is.
        self.moved = False
        self._absent = 0.0
        self._left = 0.0
        self._depth = 0
        self._seceded = False

    def forget(self) -> None:
        """The next task has not been away."""
        self.waits = False
        self.gate = None
        self.moved = False
        self._absent = 0.0
        self._depth = 0
        self._seceded = False

    def pass_gate(self) -> None:
        """The task has its thread again. With the lock of the executor held."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.release()

    def leave(self) -> None:
        self.moved = True
        self._depth += 1
        if self._depth == 1:
            self._left = perf_counter()
            self.waits = True
            self._executor.heed(self)

    def come_back(self) -> None:
        self._depth = max(0, self._depth - 1)  # whoever leaves may have been interrupted before it was counted
        if self._depth == 0:
            self._await_turn()

    def _await_turn(self) -> None:
        """Wait until the task may execute. An exception that another thread raises here does not keep it from that."""
        gate = Lock()
        gate.acquire()
        self.gate = gate
        interrupt: BaseException | None = None
        while self.gate is gate:
            try:
                self.waits = False
                self._executor.heed(self)
                while self.gate is gate:
                    gate.acquire()
                self._absent += perf_counter() - self._left
            except BaseException as raised:
                interrupt = raised
        if interrupt is not None:
            raise interrupt

    def secede(self) -> None:
        if not self._seceded:
            self._seceded = True
            self.leave()

    def rejoin(self) -> None:
        if self._seceded:
            self._seceded = False
            self.come_back()

    def seconds_here(self, started: float, ended: float) -> float:
        """For how long the task that ran between two readings of the clock occupied a thread; never below zero."""
        absent = self._absent
        if self._depth:  # it seceded, and ended like that
            absent += ended - self._left
        return max(0.0, ended - started - absent)
