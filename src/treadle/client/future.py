"""A future of the standard library whose result is on its way from a cluster.

Ten thousand of them are made and settled at once, so each is light: it has no condition, no lists of callbacks and
waiters until somebody asks for them, and its result stays packed until it is read.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from threading import Condition
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from treadle.client.excepting import make_exception
from treadle.errors import ClosedError, ConnectError, NotSerializableError
from treadle.wire.values import load_parts, unpack_value

if TYPE_CHECKING:
    from treadle.client.latch import Watcher
    from treadle.client.session import Session

__all__ = ["CANCELLED", "FINISHED", "PENDING", "Failure", "Future", "Parts", "Place"]

T = TypeVar("T")

# The standard library's names for the states; a task that runs is still pending for its client.
PENDING: Final = "PENDING"
FINISHED: Final = "FINISHED"
CANCELLED: Final = "CANCELLED_AND_NOTIFIED"


class Place(NamedTuple):
    """Where a result is that has not come along."""

    nbytes: int
    worker: str
    address: str


class Parts(NamedTuple):
    """A result that was fetched: its packed value and the buffers beside it."""

    buffers: list[Any]


class Failure(NamedTuple):
    """An error as it came: the key of the task that failed, and what is to be made into an exception."""

    culprit: str
    error: Any


class _Lazy:
    """An attribute that is an empty list until it is used."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        made: list[Any] = []
        return instance.__dict__.setdefault(self._name, made)


class Future(concurrent.futures.Future[T]):
    """The result of a task that runs on a cluster, or will, or has.

    It is a ``concurrent.futures.Future``, and it can be awaited. :meth:`result` fetches the result if it is big;
    callbacks are called when it is there. When the last reference to a future is gone, or after :meth:`release`, the
    cluster need not keep the result any longer.
    """

    # These are attributes of the class, so that a new future has next to none of its own.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _waiters = _Lazy()
    _done_callbacks = _Lazy()
    _monitor: Condition | None = None
    #: The result as it came: bytes, a Place, Parts, a Failure. None once it is in ``_result`` or ``_exception``.
    _held: Any = None
    #: The ident of a worker that held the result when it was done.
    _worker = ""
    _traceback: TracebackType | None = None
    _watch: tuple[Watcher, ...] = ()
    _released = False
    _running = False
    _lost = False
    #: True from a cancellation on until the task has stopped, and why it was cancelled.
    _stopping = False
    _reason = ""
    #: Futures of what the task needs and the scheduler cannot have made again; they live as long as this one.
    _apart: Sequence[Future[Any]] = ()

    def __init__(self, key: str, session: Session) -> None:  # not that of the base class, which makes a Condition
        #: What names the result on the cluster.
        self.key = key
        self._session = session  # last: a future that has it is complete

    @property
    def _condition(self) -> Condition:  # type: ignore[override]
        monitor = self._monitor
        if monitor is None:
            with self._session.lock:
                monitor = self._monitor
                if monitor is None:
                    monitor = self._monitor = Condition()
        return monitor

    @property
    def status(self) -> str:
        """``"pending"``, ``"finished"``, ``"error"``, ``"cancelling"``, ``"cancelled"``, or ``"lost"``.

        It is lost if the connection to the scheduler was. A future that is cancelled is done at once, but its task may
        be in the middle of something: it is ``"cancelling"`` until that has stopped, and occupies a thread no longer.
        """
        state = self._state
        if state == PENDING:
            return "pending"
        if state == CANCELLED:
            return "cancelling" if self._stopping else "cancelled"
        if self._lost:
            return "lost"
        return "finished" if self._succeeded() else "error"

    def _succeeded(self) -> bool:
        return self._state == FINISHED and self._exception is None and type(self._held) is not Failure

    def done(self) -> bool:
        return self._state != PENDING

    def cancelled(self) -> bool:
        return self._state == CANCELLED

    def running(self) -> bool:
        """True while the task is being executed, for the futures of an :class:`~treadle.Executor`.

        For others it is always False: a client is not told when a task starts.
        """
        return self._running and self._state == PENDING

    def result(self, timeout: float | None = None) -> T:
        """The result.

        :param timeout: wait no longer than this many seconds.
        :raises concurrent.futures.CancelledError: the task was cancelled, or the future released or its client closed.
        :raises concurrent.futures.TimeoutError: the result was not there in time.
        :raises Exception: whatever the task raised.
        """
        if self._state == PENDING or self._held is not None:
            self._session.wait_for(self, timeout, True)
        error = self._error()
        if error is None:
            value: T = self._result
            return value
        try:
            raise error
        finally:
            del error, self  # they would tie the error, its traceback and this frame into a circle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None. Parameters and errors as of :meth:`result`."""
        if self._state == PENDING or self._held is not None:
            self._session.wait_for(self, timeout, False)
            if type(self._held) is Failure:
                self._unpack()
        if self._state == CANCELLED:
            raise CancelledError(self._why_cancelled())
        return self._exception

    def __await__(self) -> Generator[Any, None, T]:
        if self._state == PENDING or self._held is not None:
            try:
                yield from self._session.awaiting(self).__await__()
            except BaseException as interrupt:
                del self  # who keeps the exception shall not keep the task wanted that was waited for
                raise interrupt.with_traceback(None) from interrupt.__cause__
        error = self._error()
        if error is None:
            value: T = self._result
            return value
        try:
            raise error
        finally:
            del error, self  # see result()

    def _error(self) -> BaseException | None:
        """What :meth:`result` raises, for a future that has ended; None if it returns."""
        self._unpack()
        if self._state == CANCELLED:
            return CancelledError(self._why_cancelled())
        error = self._exception
        return None if error is None else error.with_traceback(self._traceback)

    def _why_cancelled(self) -> str:
        if self._released:
            return f"{self.key!r} was released"
        return self._reason or f"{self.key!r} was cancelled"

    def _unpack(self) -> None:
        """Make what came into a value, or an exception, and keep that."""
        held = self._held
        if held is None:
            return
        value: Any = None
        error: BaseException | None = None
        if type(held) is Failure:
            error = make_exception(held.error, self.key, held.culprit)
        elif type(held) is Place:
            error = ClosedError(f"the result of {self.key!r} was released before it was fetched")
        else:
            try:
                value = load_parts(held.buffers) if isinstance(held, Parts) else unpack_value(held)
            except Exception as reason:
                error = unreadable(self.key, reason)
        # Two threads may do this at once: what one has made replaces what the other one has.
        self._result = value
        if error is not None:
            self._traceback = error.__traceback__
            self._exception = error
        self._held = None

    def cancel(self) -> bool:
        """Do not compute this, unless another client wants it too. False if it is done already."""
        if self._state == PENDING:
            self._session.cancel([self])
        return self._state == CANCELLED

    def retry(self) -> None:
        """Have a task that has failed tried again, see :meth:`treadle.Client.retry`."""
        self._session.retry([self])

    def release(self) -> None:
        """This future is not needed any more; a result that nobody needs is dropped by the cluster."""
        if not self._released:
            self._released = True
            self._session.release(self)

    def __del__(self) -> None:
        if "_session" in self.__dict__ and not self._released:  # an interrupt may come before it has a session
            self._released = True
            self._session.discard(self.key)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call ``fn(future)`` when the result is there, in the thread that received it; at once if it is there."""
        if type(self._held) is Place and self._session.in_loop():
            self._session.fetch_then(self, lambda: fn(self))
        else:
            super().add_done_callback(fn)

    def _settle(self, held: Any) -> bool:
        """Take the outcome, for a future that somebody may watch by the standard library's means.

        :param held: what came, or an exception; None to cancel.
        :returns: False if there are callbacks, which may ask for the result, and it has to be fetched before they are
            called.
        """
        with self._condition:
            if self._state != PENDING:
                return True
            with self._session.lock:
                self._take(held)
            for waiter in self._waiters:
                if self._state == CANCELLED:
                    waiter.add_cancelled(self)
                elif self._succeeded():
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()
        if type(held) is Place and self._done_callbacks:
            return False
        self._call_back()
        return True

    def _call_back(self) -> None:
        self._invoke_callbacks()  # type: ignore[attr-defined]

    def _take(self, held: Any) -> None:
        """Take the outcome and tell who watches. With the lock of the session held."""
        if held is None:
            self._held = None
            self._state = CANCELLED
        elif isinstance(held, BaseException):
            self._exception = held
            self._lost = isinstance(held, ConnectError)
            self._held = None
            self._state = FINISHED
        else:
            self._held = held
            self._state = FINISHED
        self._changed()

    def _failed(self) -> bool:
        """Whether the task has failed; False if only the connection to it was lost."""
        return self._state == FINISHED and not self._lost and not self._succeeded()

    def _renew(self) -> None:
        """Be pending again, after a failure. With the lock of the session held."""
        self._held = self._exception = self._traceback = None
        self._running = False
        self._state = PENDING

    def _changed(self) -> None:
        watch, self._watch = self._watch, ()
        for watcher in watch:
            watcher.notify(self)

    def logs(self, timeout: float | None = None) -> Any:
        """What the task has printed and logged so far, wherever it has run: :class:`treadle.client.logs.Logs`.

        It is kept by the scheduler, within bounds, so it is there after the worker is gone. In asynchronous code it
        has to be awaited.

        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: the scheduler did not answer in time.
        """
        from treadle.client.logs import logs_of

        return logs_of(self._session, self.key, timeout)

    def __repr__(self) -> str:
        more = ""
        if self._exception is not None:
            more = f" {type(self._exception).__name__}"
        elif self._state == FINISHED and self._held is None:
            more = f" {type(self._result).__name__}"
        return f"<Future {self.key!r} {self.status}{more}>"

    def _repr_html_(self) -> str:
        from treadle.client.html import future_card
        from treadle.html import shown

        return shown(future_card, self)

    def __treadle_token__(self) -> tuple[str, str]:
        return "Future", self.key

    def __reduce__(self) -> Any:
        raise NotSerializableError(
            f"{self!r} cannot be pickled by itself. Pass it as an argument of a task, or pass its result()."
        )


def unreadable(key: object, reason: BaseException) -> BaseException:
    """The error of a result that cannot be made from its pickle."""
    from treadle.errors import ResultNotSerializableError

    why = f"what was pickled cannot be read back, {type(reason).__name__}: {reason}"
    return ResultNotSerializableError(key, "result", why)
