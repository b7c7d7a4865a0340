"""A run from its beginning to its end, whatever drives it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from treadle.callbacks import Callback, active_callbacks, unwatched
from treadle.graph.ordering import order
from treadle.graph.plan import as_dict, read
from treadle.local.crew import Crew, current_crew
from treadle.local.hooks import Hooks
from treadle.local.run import Run
from treadle.local.threads import shared_pool
from treadle.local.trim import forget_frames

__all__ = ["HEARTBEAT", "Driver", "Outcome", "SyncDriver", "ThreadsDriver", "drive_crew", "execute"]

#: Seconds that an interrupted run waits for tasks that are running in threads, which nothing can stop.
GRACE = 0.5
#: Seconds after which a waiting caller looks for signals: one that comes just before it begins to wait, or that the
#: system hands to another thread, does not end the waiting.
HEARTBEAT = 0.2


class Outcome(NamedTuple):
    """The results of a run, or the error that its caller should see."""

    value: Any
    error: BaseException | None


class Driver(Protocol):
    """Brings a run to its end."""

    #: For callbacks: ``"sync"``, ``"threads"``, ``"processes"`` or ``"executor"``.
    name: str
    num_workers: int

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        """Run everything. Returns the error that ended the run early, if one did."""


def execute(graph: Any, keys: Any, driver: Driver, callbacks: Iterable[Callback] | None) -> Outcome:
    """Compute ``keys`` of ``graph``."""
    active = active_callbacks(callbacks)
    hooks = Hooks(active) if active else None
    value: Any = None
    error: BaseException | None = None
    run: Run | None = None
    try:
        tasks = as_dict(graph)
        if hooks is not None:
            tasks = hooks.known(tasks, keys)
        plan = read(tasks, keys)
        order(plan)
        run = Run(plan)
        if hooks is not None:
            hooks.start(plan.nodes, driver.name, driver.num_workers)
        with unwatched():
            error = driver.drive(run, hooks)
        if error is None:
            value = plan.results(graph)
    except BaseException as raised:
        error = forget_frames(raised)
    if error is not None and run is not None and run.running == 0:
        run.dismantle()
    if hooks is not None:
        error = hooks.finish(error)
    try:
        return Outcome(value, error)
    finally:
        # The frames of a task's traceback lead back to this one: the error must not be among its variables.
        del error


class SyncDriver:
    """One task after another in the caller's thread: for debugging, and for tasks that do not like threads."""

    name = "sync"
    num_workers = 1

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        return drive_crew(run, hooks, 1, None)


class ThreadsDriver:
    """A crew of Treadle's own threads."""

    name = "threads"

    def __init__(self, num_workers: int, submit: Callable[[Callable[[], None]], object] | None = None) -> None:
        self.num_workers = num_workers
        self._submit = submit

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        return drive_crew(run, hooks, self.num_workers, self._hire)

    def _hire(self, crew: Crew) -> None:
        submit = self._submit or shared_pool().run
        submit(crew.work)


def drive_crew(run: Run, hooks: Hooks | None, limit: int, hire: Callable[[Crew], None] | None) -> BaseException | None:
    """Run everything with a crew.

    The caller's thread only waits, so that an interrupt finds it at once; unless it is inside a task already: then it
    works for the inner run, which can therefore never wait for a thread that the outer one occupies.
    """
    outer = current_crew()
    works = hire is None or (outer is not None and threading.current_thread() is not threading.main_thread())
    if outer is not None:
        limit = min(limit, outer.spare() + 1)
    crew = Crew(run, limit, hire, hooks)
    try:
        if works:
            crew.hired = 1
            crew.work()
        else:
            crew.start()
        while not crew.finished.acquire(timeout=HEARTBEAT):
            pass
    except BaseException as interrupt:
        if hire is not None:  # otherwise nobody else works for this crew, and its lock may be in any state
            crew.stop()
            crew.finished.acquire(timeout=GRACE)
        return forget_frames(interrupt)
    try:
        return crew.error
    finally:
        crew.error = None  # see execute
