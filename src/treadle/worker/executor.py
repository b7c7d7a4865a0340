"""The threads that execute tasks. They schedule themselves: each takes the best ready task, runs it, settles it, and
takes the next.

The worker's state is touched under one lock, which is held for about a microsecond per event; no code of the user runs
under it, and nothing is sent. While tasks follow one another, the event loop sends what they have to report, so
that the report of a short task is not stuck behind a long one. A thread that finds nothing more to do sends it itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from threading import Lock, Thread
from time import perf_counter
from typing import Any, Final

from treadle.core.worker import WorkerState
from treadle.errors import TaskNotSerializableError
from treadle.wire.failures import PackedError
from treadle.wire.functions import unpack_function
from treadle.wire.sizes import sizeof
from treadle.wire.values import brief, pack_value
from treadle.worker.calls import call, failure, refusal
from treadle.worker.slots import Slots

__all__ = ["CRASHED", "INLINE", "Executor"]

log = logging.getLogger("treadle.worker")

#: A result of at most this many bytes, packed, is sent along with the news that its task has finished.
INLINE: Final = 16 * 1024
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
        #: One closed lock for each thread that waits for a task; opening it wakes the thread.
        self._idle: list[Any] = []
        #: How many threads were woken and have not come for their task yet.
        self._coming = 0
        self._functions: dict[int, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<Executor of {self.state!r}>"

    def start(self) -> None:
        for number in range(self.state.nthreads):
            Thread(target=self._work, args=(number,), name=f"treadle-worker-{number}", daemon=True).start()

    def rouse(self) -> None:
        """Wake as many threads as there are tasks for. Called with the lock held, after tasks may have become ready."""
        idle = self._idle
        while idle and self._coming < self.state.ready:
            self._coming += 1
            idle.pop().release()

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
            requests = self.state.fetches()
            garbage = self.state.take_garbage()
        garbage.clear()
        return requests

    def _work(self, number: int) -> None:
        try:
            self._execute_forever(number)
        except BaseException:
            log.critical("an error in the worker itself; this process ends", exc_info=True)
            os._exit(CRASHED)

    def _execute_forever(self, number: int) -> None:
        state = self.state
        acquire, release = self.lock.acquire, self.lock.release
        execute = self._slots.execute
        functions = self._functions
        bell = Lock()
        bell.acquire()
        value: Any = None
        values: list[Any] | None = None
        packed: bytes | None = None
        error: PackedError | None = None
        acquire()
        while True:
            job = state.take()
            wakes = self._wants_turn(job is None)
            if job is None:
                self._idle.append(bell)
                release()
                # A result that was not kept dies with its last reference: not under the lock, and not much later.
                value = packed = error = None
                if wakes:
                    self._wake()
                self.flush()
                bell.acquire()
                acquire()
                self._coming -= 1
                continue
            values = state.inputs(job)
            if self._idle and state.ready:
                self.rouse()
            release()
            value = packed = error = None
            if wakes:
                self._wake()
            execute(number, job.attempt)
            started = perf_counter()
            try:
                func = functions.get(job.fid)
                if func is None:
                    func = self._load(job.fid, job.key)
                value = call(func, job.payload, values)
            except BaseException as raised:
                seconds = perf_counter() - started
                error = failure(raised)
            else:
                seconds = perf_counter() - started
                nbytes = sizeof(value)
                if job.flags & 1 and nbytes <= INLINE:
                    packed, error = _pack(value)
            values = None
            execute(number, 0)
            acquire()
            if error is None:
                state.on_success(job, value, nbytes, seconds, packed)
            else:
                state.on_failure(job, seconds, error)

    def _wants_turn(self, idle: bool) -> bool:
        """Whether the event loop is to be woken. Called with the lock held.

        :param idle: the calling thread has nothing to execute, and sends what there is to report itself.
        """
        state = self.state
        if self._woken or not ((state.outbox and not idle) or state.fetching.idle):
            return False
        self._woken = True
        return True

    def _load(self, fid: int, key: str) -> Callable[..., Any]:
        """The function with a number, unpickled when it is first used."""
        with self.lock:
            name, blob = self.state.functions[fid]
        try:
            func: Callable[..., Any] = unpack_function(blob)
        except Exception as error:
            reason = f"what was pickled cannot be read back, {brief(error)}"
            raise TaskNotSerializableError(key, f"its function {name!r}", reason) from None
        return self._functions.setdefault(fid, func)


def _pack(value: Any) -> tuple[bytes | None, PackedError | None]:
    """A small result, packed; None if it turns out to be big. Or why it can never be."""
    try:
        packed = pack_value(value)
    except Exception as error:
        return None, refusal(value, error)
    return (packed if len(packed) <= INLINE else None), None
