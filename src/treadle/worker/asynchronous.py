"""The event loop on which the asynchronous tasks of a worker run: all at once, in one thread.

It is not the loop of the connections, which what users write must not hold up. Tasks are handed over in batches, and
what has become of them goes back in batches: one for each turn of the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from threading import Lock, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from treadle.client.inside import here, in_coroutine
from treadle.core.worker import ALONG, CANCELLED, Job
from treadle.net.loops import new_event_loop
from treadle.wire.failures import PackedError
from treadle.wire.sizes import sizeof
from treadle.worker.calls import INLINE, call, failure, pack_small
from treadle.worker.context import Activity
from treadle.worker.setups import tell, tell_end

if TYPE_CHECKING:
    from treadle.worker.executor import Executor
    from treadle.worker.seats import Seat

__all__ = ["Coroutines", "Outcome"]

log = logging.getLogger("treadle.worker")

#: Job, result, its bytes, seconds, the packed result if it is to be sent along, the packed error.
Outcome: TypeAlias = "tuple[Job, Any, int, float, bytes | None, PackedError | None]"

#: How many tasks are started before those that run have their turn.
BATCH: Final = 500


class Coroutines:
    """Runs coroutines for an executor. The loop is started with the first one."""

    def __init__(self, executor: Executor) -> None:
        self._executor: Final = executor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: Final[deque[tuple[Job, list[Any]]]] = deque()
        #: True from when the loop is told to begin with what waits until it has begun.
        self._called = False
        #: What runs, by attempt: what to cancel if a task is cancelled.
        self._running: Final[dict[int, asyncio.Task[Any]]] = {}
        #: Lost values that are made again have no number. Kept, because a loop holds its tasks weakly.
        self._nameless: Final[set[asyncio.Task[Any]]] = set()
        self._ended: list[Outcome] = []

    def __repr__(self) -> str:
        return f"<Coroutines, {len(self._running)} running, {len(self._waiting)} to be started>"

    # From other threads

    def start(self, jobs: list[tuple[Job, list[Any]]]) -> None:
        """Run jobs, which were taken from the state, with the values of their inputs. With the executor's lock held."""
        self._waiting.extend(jobs)
        loop = self._begun()
        if not self._called:
            self._called = True
            loop.call_soon_threadsafe(self._begin)

    def cancel(self, attempts: list[int]) -> None:
        """Cancel those of these that are coroutines."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, attempts)

    def finish(self, coroutine: Coroutine[Any, Any, Any], seat: Seat) -> Any:
        """What a coroutine returns that a function has returned. Its thread is given up meanwhile.

        :raises BaseException: whatever it raises.
        """
        with self._executor.lock:
            loop = self._begun()
        bell = Lock()
        bell.acquire()
        outcome: list[Any] = []
        activity = Activity(seat.job, self._executor.worker)
        loop.call_soon_threadsafe(self._create, self._finish(coroutine, activity, outcome, bell), seat.attempt)
        try:
            seat.leave()
            bell.acquire()
        finally:
            seat.come_back()
        value, error = outcome
        if error is None:
            return value
        try:
            raise error
        finally:
            outcome.clear()
            del error  # they would tie the error, its traceback and the frames in it into a circle

    def _begun(self) -> asyncio.AbstractEventLoop:
        """The loop. With the executor's lock held."""
        if self._loop is None:
            self._loop = new_event_loop()
            Thread(target=self._work, args=(self._loop,), name="treadle-worker-async", daemon=True).start()
        return self._loop

    # On the loop

    @staticmethod
    def _work(loop: asyncio.AbstractEventLoop) -> None:
        here.is_loop = True
        asyncio.set_event_loop(loop)
        while True:  # no task can stop the loop of the others
            try:
                loop.run_forever()
            except BaseException:
                log.exception("what a task had started on the loop of the asynchronous tasks has tried to end it")

    def _begin(self) -> None:
        waiting = self._waiting
        self._called = False
        for _ in range(min(BATCH, len(waiting))):
            job, values = waiting.popleft()
            self._create(self._run(job, values), job.attempt)
        if waiting and not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _create(self, coroutine: Coroutine[Any, Any, None], attempt: int) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        if attempt:
            self._running[attempt] = task
        else:
            self._nameless.add(task)
            task.add_done_callback(self._nameless.discard)

    def _cancel(self, attempts: list[int]) -> None:
        while self._waiting:
            self._begin()
        for attempt in attempts:
            task = self._running.get(attempt)
            if task is not None:
                # Soon, and not now: one that has not taken its first step would end without it, and report nothing.
                asyncio.get_running_loop().call_soon(task.cancel)

    async def _run(self, job: Job, values: list[Any]) -> None:
        executor = self._executor
        in_coroutine.set(Activity(job, executor.worker))
        value: Any = None
        nbytes = 0
        packed: bytes | None = None
        error: PackedError | None = None
        if executor.transitions:
            tell(executor.transitions, job.key, "ready", "executing")
        started = perf_counter()
        try:
            value = call(executor.load(job.fid, job.key), job.payload, values)
            values = []
            if asyncio.iscoroutine(value):
                value = await value
        except BaseException as raised:
            error = failure(raised)
        seconds = perf_counter() - started
        if error is None:
            nbytes = sizeof(value)
            if job.flags & ALONG and nbytes <= INLINE:
                packed, error = pack_small(value)
        if executor.transitions:
            tell_end(executor.transitions, job.key, seconds, nbytes, error)
        self._running.pop(job.attempt, None)
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._report)
        self._ended.append((job, value, nbytes, seconds, packed, error))

    async def _finish(
        self, coroutine: Coroutine[Any, Any, Any], activity: Activity, outcome: list[Any], bell: Lock
    ) -> None:
        in_coroutine.set(activity)
        try:
            if activity.job.state == CANCELLED:  # before the loop knew this one
                coroutine.close()
                raise asyncio.CancelledError
            outcome[:] = await coroutine, None
        except BaseException as error:
            outcome[:] = None, error
        finally:
            self._running.pop(activity.attempt, None)
            bell.release()

    def _report(self) -> None:
        ended, self._ended = self._ended, []
        self._executor.settle(ended)
