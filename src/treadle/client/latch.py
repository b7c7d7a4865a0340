"""Waiting, once for both faces of the client.

What has to wait is written as a coroutine that awaits nothing but latches. :func:`run_blocking` drives it in the thread
of the caller, :func:`run_async` in an event loop.
"""

from __future__ import annotations

import asyncio
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from treadle.client.inside import Inside, here
from treadle.client.shield import Steadied
from treadle.errors import UserError
from treadle.local.drive import HEARTBEAT

if TYPE_CHECKING:
    from treadle.client.future import Future

__all__ = ["Latch", "Steps", "Stream", "Watcher", "deadline_of", "run_async", "run_blocking"]

T = TypeVar("T")

#: Seconds that a task waits before it gives up its thread: what is over sooner costs others more than it gives them.
BRIEF = 0.0005

#: A coroutine that awaits nothing but latches.
Steps = Coroutine["Latch", None, T]


class Watcher(Protocol):
    """Is told, with the lock of the session held, when a future has changed."""

    def notify(self, future: Future[Any]) -> None: ...


def deadline_of(timeout: float | None) -> float | None:
    """When ``timeout`` seconds have passed."""
    return None if timeout is None else monotonic() + timeout


class Latch:
    """Opens when everything that it counts has happened.

    :param lock: guards the latch; held by whoever calls :meth:`notify` and :meth:`open`.
    :param left: how many events are to come.
    :param eager: open at the first future that failed or was cancelled.
    :param deadline: when waiting ends with a ``TimeoutError``.
    """

    __slots__ = ("_wake", "deadline", "eager", "failed", "left", "lock", "opened")

    def __init__(self, lock: Lock, left: int = 1, eager: bool = False, deadline: float | None = None) -> None:
        self.lock = lock
        self.left = left
        self.eager = eager
        self.deadline = deadline
        self.opened = False
        #: The first that did not succeed, if ``eager``.
        self.failed: Future[Any] | None = None
        self._wake: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Latch {'open' if self.opened else f'waiting for {self.left}'}>"

    def notify(self, future: Future[Any]) -> None:
        self.left -= 1
        if self.eager and self.failed is None and not future._succeeded():
            self.failed = future
            self.open()
        elif self.left == 0:
            self.open()

    def open(self) -> None:
        if not self.opened:
            self.opened = True
            if self._wake is not None:
                self._wake()

    def __await__(self) -> Generator[Latch, None, None]:
        if not self.opened:
            yield self

    def block(self) -> None:
        """Wait in this thread. The task that it executes, if it is one of a worker's, gives it up meanwhile.

        :raises concurrent.futures.TimeoutError: the deadline has passed.
        :raises UserError: this is the thread of all asynchronous tasks.
        """
        bell = Lock()
        bell.acquire()
        if here.is_loop and not self.opened:
            raise UserError(
                "an asynchronous task must not wait like this: all others of its worker would wait with it. Write "
                "`await`: `await future`, `await get_client().gather(futures)`."
            )
        with self.lock:
            if self.opened:
                return
            self._wake = bell.release
        task = here.task
        if task is None:
            self._sleep(bell)
        elif not bell.acquire(timeout=self._patience(BRIEF)):
            self._sleep_away(bell, task)

    def _sleep(self, bell: Lock) -> None:
        while not bell.acquire(timeout=self._patience(HEARTBEAT)):
            if self._late():
                raise FutureTimeoutError()

    def _sleep_away(self, bell: Lock, task: Inside) -> None:
        try:
            task.leave()
            self._sleep(bell)
        finally:
            task.come_back()

    def _patience(self, most: float) -> float:
        return most if self.deadline is None else min(most, max(0.0, self.deadline - monotonic()))

    def _late(self) -> bool:
        return self.deadline is not None and monotonic() >= self.deadline and not self.opened

    async def pause(self) -> None:
        """Wait in the running event loop. Errors as of :meth:`block`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        thread = threading.get_ident()

        def wake() -> None:
            if threading.get_ident() == thread:
                _set(turn)
            else:
                try:
                    loop.call_soon_threadsafe(_set, turn)
                except RuntimeError:
                    pass  # that loop is closed: nobody waits any more

        with self.lock:
            if self.opened:
                return
            self._wake = wake
        timer = None
        if self.deadline is not None:
            timer = loop.call_later(max(0.0, self.deadline - monotonic()), _set, turn)
        try:
            await turn
        finally:
            if timer is not None:
                timer.cancel()
        if self._late():
            raise FutureTimeoutError()


def _set(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class Stream:
    """The futures that have ended, in the order in which they did: those of clients, and of the standard library."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ready: deque[Any] = deque()
        self._latch: Latch | None = None
        self._watched: list[Future[Any]] = []

    def __repr__(self) -> str:
        return f"<Stream of {len(self._watched)} futures, {len(self._ready)} ready>"

    def watch(self, futures: Iterable[Any]) -> None:
        for future in futures:
            session = getattr(future, "_session", None)
            if session is None:
                future.add_done_callback(self.notify)
                continue
            with session.lock:
                ended = future.done()
                if not ended:
                    future._watch = (*future._watch, self)
                    self._watched.append(future)
            if ended:
                self.notify(future)

    def close(self) -> None:
        """Watch nothing any more."""
        watched, self._watched = self._watched, []
        for future in watched:
            with future._session.lock:
                future._watch = tuple([watcher for watcher in future._watch if watcher is not self])

    def notify(self, future: Any) -> None:
        with self._lock:
            self._ready.append(future)
            if self._latch is not None:
                self._latch.open()

    async def ready(self, deadline: float | None = None) -> None:
        """Steps: until :meth:`take` has something to return.

        :raises concurrent.futures.TimeoutError: the deadline has passed.
        """
        with self._lock:
            latch = self._latch = Latch(self._lock, deadline=deadline)
            if self._ready:
                latch.open()
        await latch

    def take(self, count: int | None = None) -> list[Any]:
        """The futures that have ended and were not taken yet, or the first ``count`` of them."""
        with self._lock:
            ready = self._ready
            return [ready.popleft() for _ in range(len(ready) if count is None else min(count, len(ready)))]


def run_blocking(make: Callable[..., Steps[T]], *args: Any) -> T:
    """Run the steps that ``make(*args)`` returns to their end in this thread, which sleeps while it waits."""
    with Steadied(run_blocking.__code__) as steadied:
        steps = make(*args)
        try:
            latch = steps.send(None)
            while True:
                try:
                    steadied.deliver()
                    latch.block()
                except BaseException as interrupt:
                    latch = steps.throw(interrupt)
                else:
                    latch = steps.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value


async def run_async(steps: Steps[T]) -> T:
    """Run to the end in the running event loop."""
    try:
        latch = steps.send(None)
        while True:
            try:
                await latch.pause()
            except GeneratorExit:
                _leave(steps)
                raise
            except BaseException as interrupt:
                latch = steps.throw(interrupt)
            else:
                latch = steps.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value


def _leave(steps: Steps[Any]) -> None:
    """Cancel steps whose coroutine was dropped while it waited.

    It was garbage, perhaps, which is collected in the middle of anything: this very thread may have the locks that the
    steps need to put things in order.
    """
    try:
        start_new_thread(_cancel, (steps,))  # threading.Thread needs a lock, too
    except RuntimeError:
        pass  # the interpreter is being shut down


def _cancel(steps: Steps[Any]) -> None:
    try:
        latch = steps.throw(asyncio.CancelledError())
        while True:
            latch.block()
            latch = steps.send(None)
    except BaseException:
        pass  # that was its end, and nobody waits for it
