"""Plain futures programs on engines that people already run."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Any, Final, TypeVar

from treadle.errors import ClosedError, UserError
from treadle.integrations.engines import Engine, Step, Unit, engine_of, reason
from treadle.scheduling import SchedulerError
from treadle.wire.functions import display_name, pack_function
from treadle.wire.values import find_dependencies, pack_call

__all__ = ["EngineExecutor", "EngineFuture"]

T = TypeVar("T")


class EngineExecutor(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` whose calls run on an engine that is there.

    >>> with EngineExecutor("ray") as executor:
    ...     future = executor.submit(pow, 323, 1235)
    ...     squares = list(executor.map(abs, [-1, -2, -3]))

    Each call is a task of the engine's. Its result stays there until somebody asks for it, and other calls of this
    executor may have its future among their arguments. Nothing of the engine is closed with the executor.

    :param engine: ``"dask"``, a client of ``distributed``, or ``"ray"``.
    :raises SchedulerError: it is none of these.
    :raises UserError: its package is not installed, or it is not running.
    """

    def __init__(self, engine: Any) -> None:
        found = engine_of(engine)
        if found is None:
            raise SchedulerError(f"an engine is 'dask', a client of distributed, or 'ray', not {engine!r:.200}")
        self._engine: Final[Engine] = found
        self._lock: Final = threading.Lock()
        self._count = 0
        self._pending: Final[set[EngineFuture[Any]]] = set()
        self._shut = False

    def __repr__(self) -> str:
        return f"<EngineExecutor on {self._engine!r}, {len(self._pending)} calls pending>"

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> EngineFuture[T]:
        """Have ``fn(*args, **kwargs)`` called there. Futures among the arguments are replaced by their results.

        :raises ClosedError: (a RuntimeError) the executor was shut down.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        """
        with self._lock:
            if self._shut:
                raise ClosedError("this executor was shut down, it takes no more calls")
            self._count += 1
            key = f"{display_name(fn)}-{self._count}"
            unit, jobs = self._pack(key, fn, args, kwargs)
            (job,) = self._engine.submit([(unit, jobs)])
            future: EngineFuture[T] = EngineFuture(self._engine, job, key)
            self._pending.add(future)
        future.add_done_callback(self._forget)
        self._engine.watch(job, future._settle)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        :param wait: return when those that are pending are done.
        :param cancel_futures: cancel them.
        """
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            concurrent.futures.wait(pending)

    def _pack(
        self, key: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Unit, list[Any]]:
        deps: list[EngineFuture[Any]] = find_dependencies(args, kwargs, EngineFuture)
        for dep in deps:
            if dep._engine is not self._engine:
                raise UserError(f"{dep!r} belongs to another executor: submit to that one, or pass its result")
        # The function may have changed since it was sent last, and then is another one.
        function = pack_function(fn, key).blob
        step = Step(key, function, pack_call(key, args, kwargs, deps), tuple(range(len(deps))))
        return Unit(display_name(fn), (step,)), [dep._job for dep in deps]

    def _forget(self, future: Any) -> None:
        with self._lock:
            self._pending.discard(future)


class EngineFuture(concurrent.futures.Future[T]):
    """A call of an :class:`EngineExecutor`. Its result is fetched when it is asked for."""

    def __init__(self, engine: Engine, job: Any, key: str) -> None:
        super().__init__()
        self.key: Final = key
        self._engine: Final = engine
        self._job: Final = job
        self._fetching: Final = threading.Lock()
        self._fetched: list[T] = []
        self._told = False

    def result(self, timeout: float | None = None) -> T:
        """The result, or the exception of the call. :raises TimeoutError: it is not done in ``timeout`` seconds."""
        super().result(timeout)
        with self._fetching:
            if not self._fetched:
                self._fetched = self._engine.fetch([self._job])
            return self._fetched[0]

    def cancel(self) -> bool:
        """Nobody wants this result any more. False if the call is done.

        A call that has not started does not. One that runs is interrupted by Ray; on Dask it runs on, for nothing.
        """
        if not super().cancel():
            return False
        with self._fetching:
            if not self._told:
                self._told = True
                self.set_running_or_notify_cancel()  # so that those who wait are told
                self._engine.abandon([self._job])
        return True

    def _settle(self, job: Any, error: BaseException | None) -> None:
        """The call is over, for all that the engine says."""
        try:
            if error is None:
                super().set_result(None)  # type: ignore[arg-type]
            else:
                self.set_exception(reason(error, self.key))
        except InvalidStateError:
            pass  # it was cancelled
