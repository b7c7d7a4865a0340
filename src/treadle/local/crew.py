"""Threads that schedule themselves: each takes the best ready task, runs it, settles it, and takes the next.

There is no coordinator. The run's state is touched only under ``lock``, which is held for a microsecond per task;
user code never runs under it. Workers are hired when there is a task for them: a chain of tasks never wakes
a second thread.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, local
from time import perf_counter
from typing import Any, Final, final

from treadle.callbacks import TaskRecord
from treadle.graph.node import Node
from treadle.local.hooks import Hooks, function_name
from treadle.local.run import Run
from treadle.local.trim import annotate

__all__ = ["Crew", "current_crew"]


@final
class Crew:
    """The workers of one run.

    :param limit: how many may run tasks at the same time.
    :param hire: called with this crew when one more worker is wanted; somebody then calls :meth:`work` on a thread of
        its own, at any later time, or never.
    """

    def __init__(self, run: Run, limit: int, hire: Callable[[Crew], None] | None, hooks: Hooks | None) -> None:
        self.run: Final = run
        self.limit: Final = limit
        self.hire: Final = hire
        self.hooks: Final = hooks
        self.lock: Any = Lock()
        #: One closed lock for each worker that waits for a task; opening it wakes the worker.
        self.idle: list[Any] = []
        #: Workers that were asked for, those of them that have come, and those that have not left yet.
        self.hired: int = 0
        self.arrived: int = 0
        self.working: int = 0
        #: The first error of a task or a callback.
        self.error: BaseException | None = None
        #: Closed until nothing runs and nothing will.
        self.finished: Any = Lock()
        self.finished.acquire()
        self.closed: bool = False

    def start(self) -> None:
        """Hire the first worker. An empty run is over at once."""
        with self.lock:
            if self.run.over():
                self.close()
            else:
                self.recruit()

    def stop(self) -> None:
        """Start no further task; those that run are not interrupted."""
        with self.lock:
            self.halt()
            if self.working == 0:
                self.close()

    def spare(self) -> int:
        """How many of the crew's slots no task occupies."""
        return max(0, self.limit - self.run.running)

    def work(self) -> None:
        """Run tasks in this thread until nothing is left for it to do."""
        outer = current_crew()
        self.lock.acquire()
        self.arrived += 1
        self.working += 1
        try:
            _HERE.crew = self
            if self.hooks is None:
                self.work_plain()
            else:
                self.work_hooked(self.hooks, f"thread-{self.arrived}" if self.hire is not None else "sync")
        finally:
            _HERE.crew = outer
            if self.hire is None and not self.lock.locked():
                self.lock.acquire()  # an interrupt came just before or after a task
            self.working -= 1
            if self.working == 0 and self.run.over():
                self.close()
            self.lock.release()

    # What follows is called with the lock held, and returns with the lock held.

    def work_plain(self) -> None:
        run = self.run
        acquire = self.lock.acquire
        release = self.lock.release
        garbage: list[Any] = []
        while True:
            node = self.next_task(garbage)
            if node is None:
                break
            release()
            if garbage:
                garbage.clear()
            try:
                result = node.call()
            except BaseException as error:
                acquire()
                self.fail(node, error)
                continue
            acquire()
            run.settle(node, result, garbage)
            result = None
        if garbage:
            release()
            garbage.clear()
            acquire()

    def work_hooked(self, hooks: Hooks, name: str) -> None:
        run = self.run
        garbage: list[Any] = []
        while True:
            node = self.next_task(garbage)
            if node is None:
                break
            self.lock.release()
            garbage.clear()
            func = node.func
            try:
                hooks.before(node.key, name)
            except BaseException as error:
                self.lock.acquire()
                run.drop()
                self.report(error)
                continue
            started = perf_counter()
            try:
                result = node.call()
            except BaseException as error:
                self.lock.acquire()
                self.fail(node, error)
                continue
            stopped = perf_counter()
            self.lock.acquire()
            run.settle(node, result, garbage)
            record = TaskRecord(node.key, function_name(func), name, started, stopped, run.live)
            self.lock.release()
            try:
                hooks.after(record, result)
            except BaseException as error:
                self.lock.acquire()
                self.report(error)
            else:
                self.lock.acquire()
            result = None
        if garbage:
            self.lock.release()
            garbage.clear()
            self.lock.acquire()

    def next_task(self, garbage: list[Any]) -> Node | None:
        """The next task for this worker; waits while there is none but some may come. None when it may go.

        ``garbage`` is dropped before it waits, which may take long.
        """
        run = self.run
        while True:
            node = run.take()
            if node is not None:
                if run.available() and (self.idle or self.hired < self.limit):
                    self.recruit()
                return node
            if run.stopped or run.unfinished == 0:
                self.wake_all()
                return None
            bell: Any = Lock()
            bell.acquire()
            self.idle.append(bell)
            self.lock.release()
            garbage.clear()
            bell.acquire()
            self.lock.acquire()

    def recruit(self) -> None:
        if self.idle:
            self.idle.pop().release()
        elif self.hire is not None and self.hired < self.limit:
            self.hired += 1
            try:
                self.hire(self)
            except Exception:  # no more threads, or somebody's pool was shut down: those that work carry on
                if self.working == 0:
                    raise

    def fail(self, node: Node, error: BaseException) -> None:
        self.run.drop()
        self.report(annotate(error, node.key))

    def report(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.halt()

    def halt(self) -> None:
        self.run.stop()
        self.wake_all()

    def wake_all(self) -> None:
        while self.idle:
            self.idle.pop().release()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.finished.release()


_HERE: Final = local()


def current_crew() -> Crew | None:
    """The crew that this thread works for, if it is inside a task."""
    crew: Crew | None = getattr(_HERE, "crew", None)
    return crew
