"""The threads that execute tasks. They schedule themselves: each takes the best ready task, runs it, settles it, and
takes the next.

A task that waits gives up its thread, which is to say the right to execute: it keeps the thread of the system, and
another one takes its place, a new one if need be. Not more tasks execute at any time than the worker has slots. What a
task says of itself there is a note, and the event loop acts on it: code of the user's runs in that thread, and may have
been interrupted there by an exception, so that nothing that others rely on may be half done in it.

The worker's state is touched under one lock, which is held for about a microsecond per event; no code of the user runs
under it, and nothing is sent. While tasks follow one another, the event loop sends what they have to report, so
that the report of a short task is not stuck behind a long one. A thread that finds nothing more to do sends it itself.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from treadle.client.inside import here
from treadle.core.worker import ALONG, HANDS, TURN, Job, WorkerState
from treadle.errors import TaskNotSerializableError, UserError
from treadle.wire.failures import PackedError
from treadle.wire.functions import unpack_function
from treadle.wire.sizes import sizeof
from treadle.wire.values import brief
from treadle.worker.asynchronous import Coroutines, Outcome
from treadle.worker.calls import INLINE, call, failure, pack_small
from treadle.worker.logs import Logs
from treadle.worker.seats import Seat
from treadle.worker.setups import Transition, tell, tell_end
from treadle.worker.slots import Slots

if TYPE_CHECKING:
    from treadle.worker.context import WorkerInfo

__all__ = ["CRASHED", "Executor"]

log = logging.getLogger("treadle.worker")

#: The exit status of a worker that has found a bug of ours.
CRASHED: Final = 70


class Executor:
    """The state of the worker, its lock, and its threads."""

    def __init__(
        self, nthreads: int, slots: Slots, send: Callable[[list[Any]], None], wake: Callable[[], None]
    ) -> None:
        """
        :param send: sends messages to the scheduler. Called by any thread.
        :param wake: has the event loop call :meth:`requests` and :meth:`flush`. Called by any thread.
        """
        self.state: Final = WorkerState(nthreads)
        #: Held around every use of ``state``.
        self.lock: Final = Lock()
        self._slots: Final = slots
        self._send: Final = send
        self._wake: Final = wake
        #: Keeps messages in order.
        self._sending: Final = Lock()
        #: True while the event loop was told to look, and has not begun to.
        self._woken = False
        #: What :func:`treadle.get_worker` returns here; to be set before the first task.
        self.worker: WorkerInfo | None = None
        self.coroutines: Final = Coroutines(self)
        #: The threads that wait for a task.
        self._idle: list[Seat] = []
        #: How many threads were woken, or started, and have not come for their task yet.
        self._coming = 0
        self._started = 0
        #: The words of shared memory that no thread uses, and the threads that wait until they may go on.
        self._free: Final = list(range(nthreads))
        self._returning: Final[dict[Job, Seat]] = {}
        #: The threads whose tasks have begun to wait, or want to go on.
        self._moving: Final[deque[Seat]] = deque()
        self._functions: dict[int, Callable[..., Any]] = {}
        #: What tasks write, and the hooks of plugins that are called for each task.
        self.logs: Final = Logs(send)
        self.transitions: Final[list[Transition]] = []

    def __repr__(self) -> str:
        return f"<Executor of {self.state!r}>"

    def start(self) -> None:
        with self.lock:
            for _ in range(self.state.nthreads):
                self._start_thread()

    def rouse(self) -> None:
        """Have as many threads at work as there are tasks for. With the lock held, when tasks may have become ready."""
        state = self.state
        if state.ready_away:
            self.coroutines.start([(job, state.inputs(job)) for job in state.take_away()])
        if state.returning:
            return
        for _ in range(min(state.ready, state.nthreads - state.executing) - self._coming):
            if self._idle:
                self._coming += 1
                self._idle.pop().bell.release()
            else:
                self._start_thread()

    def _start_thread(self) -> None:
        thread = Thread(target=self._work, name=f"treadle-worker-{self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.error("no thread can be started for a task, in the place of one that waits: %s", error)
        else:
            self._coming += 1
            self._started += 1

    def heed(self, seat: Seat) -> None:
        """The task of this thread waits now, or wants to go on. Whatever interrupts this, it may be called again."""
        self._moving.append(seat)
        self._wake()

    def _move(self) -> None:
        """Let tasks that wait give up their threads, and those that want to go on have one. With the lock held."""
        moving = self._moving
        while moving:
            seat = moving.popleft()
            job = seat.job
            if seat.waits:
                if not job.away:
                    self._vacate(seat)
                    self.state.secede(job)
            elif seat.gate is not None and job not in self._returning:
                if not job.away:  # before anybody knew that it was to leave
                    seat.pass_gate()
                elif self.state.rejoin(job):
                    self._occupy(seat)
                else:
                    self._returning[job] = seat
        self._admit()
        self.rouse()

    def _admit(self) -> None:
        """Let tasks go on that have waited for a thread to be free. With the lock held, after one is."""
        while self._returning:
            job = self.state.admit()
            if job is None:
                return
            self._occupy(self._returning.pop(job))

    def _occupy(self, seat: Seat) -> None:
        seat.slot = self._free.pop()
        self._slots.execute(seat.slot, seat.job.attempt)
        seat.pass_gate()

    def _vacate(self, seat: Seat) -> None:
        """What this thread executes, if it does, has ended or waits."""
        if seat.slot >= 0:
            self._slots.execute(seat.slot, 0)
            self._free.append(seat.slot)
            seat.slot = -1

    def forget_functions(self) -> None:
        """Unpickle all functions anew: the modules that they come from may be others now."""
        self._functions.clear()

    def flush(self) -> None:
        """Send what the state has to report."""
        with self._sending:
            with self.lock:
                messages = self.state.take_outbox()
            if messages:
                self._send(messages)

    def requests(self) -> list[tuple[str, str, list[str]]]:
        """For the event loop when it was woken: what to fetch now. Drops what has left the store."""
        with self.lock:
            self._woken = False
            if self._moving:
                self._move()
            requests = self.state.fetches()
            garbage = self.state.take_garbage()
        garbage.clear()
        return requests

    def _work(self) -> None:
        try:
            seat = Seat(self)
            here.task = seat
            self._execute_forever(seat)
        except BaseException:
            log.critical("an error in the worker itself; this process ends", exc_info=True)
            os._exit(CRASHED)

    def _execute_forever(self, seat: Seat) -> None:
        state = self.state
        acquire, release = self.lock.acquire, self.lock.release
        execute = self._slots.execute
        functions = self._functions
        free = self._free
        logs, transitions = self.logs, self.transitions
        nthreads = state.nthreads
        nbytes = 0
        value: Any = None
        values: list[Any] | None = None
        packed: bytes | None = None
        error: PackedError | None = None
        acquire()
        self._coming -= 1
        while True:
            job = state.take()
            wanted = state.wants(job is None)
            if wanted >= HANDS:
                self.rouse()
            wakes = wanted & TURN and not self._woken
            if wakes:
                self._woken = True
            if job is None:
                stays = len(self._idle) < nthreads
                if stays:
                    self._idle.append(seat)
                if seat.slot >= 0:  # its word says already that nothing is executed
                    free.append(seat.slot)
                    seat.slot = -1
                release()
                # A result that was not kept dies with its last reference: not under the lock, and not much later.
                value = packed = error = None
                if wakes:
                    self._wake()
                self.flush()
                if not stays:
                    return
                seat.bell.acquire()
                acquire()
                self._coming -= 1
                continue
            values = state.inputs(job)
            slot = seat.slot
            if slot < 0:
                slot = seat.slot = free.pop()
            seat.job = job
            release()
            value = packed = error = None
            if wakes:
                self._wake()
            execute(slot, job.attempt)
            if transitions:
                tell(transitions, job.key, "ready", "executing")
            started = perf_counter()
            try:
                func = functions.get(job.fid)
                if func is None:
                    func = self.load(job.fid, job.key)
                value = call(func, job.payload, values)
                if type(value) is CoroutineType:
                    value = self.coroutines.finish(value, seat)
            except BaseException as raised:
                seconds = perf_counter() - started
                error = failure(raised)
            else:
                seconds = perf_counter() - started
                nbytes = sizeof(value)
                if job.flags & ALONG and nbytes <= INLINE:
                    packed, error = pack_small(value)
            moved = seat.moved
            if moved:
                seconds = seat.seconds_here(started, started + seconds)
            if transitions:
                tell_end(transitions, job.key, seconds, nbytes, error)
            if logs.pending:
                logs.flush()
            values = None
            if not moved:
                execute(slot, 0)
            acquire()
            if moved:
                self._vacate(seat)
                seat.forget()
            if error is None:
                state.on_success(job, value, nbytes, seconds, packed)
            else:
                state.on_failure(job, seconds, error)
            if self._returning:
                self._vacate(seat)
                self._admit()

    def settle(self, outcomes: list[Outcome]) -> None:
        """Tasks that occupied no thread have ended."""
        state = self.state
        if self.logs.pending:
            self.logs.flush()
        with self.lock:
            for job, value, nbytes, seconds, packed, error in outcomes:
                if error is None:
                    state.on_success(job, value, nbytes, seconds, packed)
                else:
                    state.on_failure(job, seconds, error)
            self.rouse()
            wakes = state.wants(True) & TURN and not self._woken
            if wakes:
                self._woken = True
        if wakes:
            self._wake()
        self.flush()

    def load(self, fid: int, key: str) -> Callable[..., Any]:
        """The function with a number, unpickled when it is first used.

        :raises TaskNotSerializableError: it cannot be unpickled.
        :raises UserError: it is an import path that leads nowhere.
        """
        known = self._functions.get(fid)
        if known is not None:
            return known
        with self.lock:
            name, blob = self.state.functions[fid]
        try:
            func: Callable[..., Any] = unpack_function(blob)
        except UserError:
            raise  # an import path that leads nowhere
        except Exception as error:
            reason = f"what was pickled cannot be read back, {brief(error)}"
            raise TaskNotSerializableError(key, f"its function {name!r}", reason) from None
        return self._functions.setdefault(fid, func)
