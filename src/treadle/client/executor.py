"""An executor of the standard library's kind whose calls run on a cluster."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import InvalidStateError
from itertools import islice
from operator import index
from time import monotonic
from typing import Any, Final, TypeVar

from treadle.client.calls import options_of
from treadle.client.client import Client
from treadle.client.excepting import make_exception
from treadle.client.future import CANCELLED, FINISHED, PENDING, Future
from treadle.client.latch import Latch, run_blocking
from treadle.client.lazily import Buffer, align, check_buffersize
from treadle.client.mapping import check_function, send
from treadle.client.outbox import Options, Row
from treadle.client.session import Session
from treadle.client.shield import Shield
from treadle.errors import BrokenClusterError, ClosedError, ConnectError
from treadle.local.trim import trim_error
from treadle.wire.failures import PackedError, pack_error
from treadle.wire.functions import STARTS, display_name

__all__ = ["Executor", "ExecutorFuture"]

T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` on a cluster.

    >>> with Executor() as executor:
    ...     future = executor.submit(pow, 323, 1235)
    ...     squares = list(executor.map(abs, [-1, -2, -3]))

    It does what the standard library's documentation says of executors. Each call is another one: none is taken to be
    equal to another, and none is forgotten when its future is. What a call raises, a worker that dies, or arguments
    that cannot be pickled spoil that call, and never the executor.

    :param address: a :class:`~treadle.Client`, which survives the end of the executor; a
        :class:`~treadle.LocalCluster` or ``"host:port"`` of a scheduler. Without it a local cluster is started, and
        closed with the executor.
    :param max_workers: without an address: how many processes the cluster has, for one call at a time each. Default:
        what :class:`~treadle.LocalCluster` takes.
    :param workers: the only workers that may run the calls: names, idents, addresses or hosts.
    :param resources: what each call needs of a worker's resources while it runs, such as ``{"GPU": 1}``.
    :param priority: calls with a higher one are started first.
    :param retries: how often a call is tried again after it has raised.
    :param timeout: how many seconds to wait for a scheduler that does not answer.
    :param token: the secret of the cluster, as for :class:`~treadle.Client`.
    :raises ConnectError: nobody listens at the address.
    """

    def __init__(
        self,
        address: Any = None,
        *,
        max_workers: int | None = None,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        timeout: float = 10.0,
        token: bytes | str | None = None,
    ) -> None:
        self._options: Final = options_of(workers, resources, priority, retries)
        if max_workers is not None:
            _check_max_workers(max_workers, address)
        self._work: Final = _open_work(address, max_workers, timeout, token)
        # When this object is forgotten, what was submitted is still done. See also _finish_all.
        weakref.finalize(self, self._work.end_soon).atexit = False

    def __repr__(self) -> str:
        work = self._work
        return f"<Executor of {work.client!r}, {len(work.pending)} calls pending{', shut down' if work.shut else ''}>"

    @property
    def client(self) -> Client:
        """The client that sends the calls."""
        return self._work.client

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> ExecutorFuture[T]:
        """Have ``fn(*args, **kwargs)`` called on a worker. Futures among the arguments are replaced by their results.

        :raises ClosedError: (a RuntimeError) the executor was shut down.
        :raises BrokenClusterError: (a BrokenExecutor) it has lost its cluster.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        """
        work = self._work
        work.check()
        row = work.client._calls.one(fn, args, kwargs, None, False, 3, STARTS)
        return work.start(row, self._options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The results of ``fn`` for the first items of the iterables, the second, and so on, in this order.

        When the iterator ends early (a call has raised, ``timeout``, or its ``close()``), calls that have not started
        are cancelled.

        :param timeout: seconds from now after which waiting for a result ends with ``TimeoutError``.
        :param chunksize: how many calls are sent as one task. Tasks are cheap: it pays for calls that take a few
            microseconds.
        :param buffersize: take items from the iterables, which may be endless, only as results are taken: at most so
            many tasks have been submitted and their results not been given. By default all items are taken now.
        """
        work = self._work
        work.check()
        check_function(fn)
        deadline = None if timeout is None else monotonic() + timeout
        rows: Iterator[tuple[Any, ...]] = align(iterables)
        func: Callable[..., Any] = fn
        in_chunks = _at_least_1("chunksize", chunksize) > 1
        if in_chunks:
            func, rows = functools.partial(_run_chunk, fn), _chunked(rows, chunksize)
        submit = functools.partial(work.submit, func, self._options)
        if buffersize is None:
            packed = work.client._calls.many(func, list(rows), {}, None, False, STARTS)
            buffer = Buffer(iter(()), submit, 1)
            buffer.waiting.extend(work.start_all(packed, self._options))
        else:
            buffer = Buffer(rows, submit, check_buffersize(buffersize))
        results = _results(buffer, deadline)
        return _flat(results, display_name(fn)) if in_chunks else results

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and free all resources when those that are pending are done.

        :param wait: return when that is so. Otherwise it happens in a thread of its own. The program does not end
            before all calls are done.
        :param cancel_futures: cancel the calls that have not started.
        """
        work = self._work
        if wait:
            work.session.check_thread(self)
        work.shut = True
        if cancel_futures:
            work.cancel()
        if wait:
            work.finish()
        else:
            work.end_soon()


class ExecutorFuture(Future[T]):
    """The result of a call of an :class:`Executor`: a future that knows whether its call runs.

    As with all executors of the standard library, a call that runs cannot be cancelled.
    """

    def cancel(self) -> bool:
        """Do not start this call. False if it runs, as far as is known here, or is done."""
        with self._session.lock:
            if self._running and self._state == PENDING:
                return False
        return super().cancel()

    # What follows is for unit tests.

    def set_running_or_notify_cancel(self) -> bool:
        """Say that the call runs. False if it was cancelled. :raises RuntimeError: it runs or is done already."""
        with self._session.lock:
            if self._state == CANCELLED:
                return False
            if self._running or self._state != PENDING:
                raise RuntimeError(f"{self!r} runs or is done already")
            self._running = True
            return True

    def set_result(self, result: T) -> None:
        """Settle the future, whatever the call returns. :raises InvalidStateError: it is done already."""
        self._decide(_Given(result, None))

    def set_exception(self, exception: BaseException | None) -> None:
        """Settle the future, whatever the call returns. :raises InvalidStateError: it is done already."""
        self._decide(_Given(None, exception))

    def _decide(self, given: _Given) -> None:
        with self._condition:
            pass  # from now on others settle this by the same means
        self._settle(given)
        if not given.taken:
            raise InvalidStateError(f"{self!r} is done already")

    def _take(self, held: Any) -> None:
        if type(held) is _Given:
            held.taken = True
            self._result = held.result
            self._exception = held.error
            self._state = FINISHED
            self._changed()
            return
        if isinstance(held, ConnectError):
            held = BrokenClusterError(*held.args)
        super()._take(held)


class _Given:
    """An outcome that did not come from the cluster."""

    def __init__(self, result: Any, error: BaseException | None) -> None:
        self.result = result
        self.error = error
        self.taken = False


class _Work:
    """What an executor has to do, whether it still exists or not.

    :param closers: what has to be closed when it is done.
    """

    def __init__(self, client: Client, closers: Sequence[Callable[[], object]]) -> None:
        self.client: Final = client
        self.session: Final[Session] = client.session
        #: Calls that are not over, guarded by the lock of the session. Nobody else might keep their futures.
        self.pending: Final[set[Future[Any]]] = set()
        #: No more calls are taken.
        self.shut = False
        self._closers: Final = closers
        self._watchers: Final = (self,)
        self._latches: Final[list[Latch]] = []
        #: Held while what is to be closed is being closed.
        self._ending: Final = threading.Lock()
        self._over = False
        _open.add(self)

    def __repr__(self) -> str:
        return f"<the work of an executor, {len(self.pending)} calls pending>"

    def check(self) -> None:
        """:raises ClosedError: no more calls are taken. :raises BrokenClusterError: the cluster is gone."""
        if self.shut:
            raise ClosedError("this executor was shut down, it takes no more calls")
        try:
            self.session.check()
        except ConnectError as error:
            raise BrokenClusterError(*error.args) from None

    def submit(self, func: Callable[..., Any], options: Options, args: tuple[Any, ...]) -> ExecutorFuture[Any]:
        """One call of :meth:`Executor.map`."""
        self.check()
        return self.start(self.client._calls.one(func, args, {}, None, False, 0, STARTS), options)

    def start(self, row: Row, options: Options) -> ExecutorFuture[Any]:
        future: ExecutorFuture[Any] = ExecutorFuture(row[0], self.session)
        with Shield():
            self._keep([future])
            self.session.submit_one(future, row, options)
        return future

    def start_all(self, rows: Sequence[Row], options: Options) -> list[ExecutorFuture[Any]]:
        futures: list[ExecutorFuture[Any]] = [ExecutorFuture(row[0], self.session) for row in rows]
        with Shield():
            self._keep(futures)
            send(self.session, futures, rows, options)
        return futures

    def _keep(self, futures: Sequence[Future[Any]]) -> None:
        for future in futures:
            future._watch = self._watchers
        with self.session.lock:
            if self.shut:
                raise ClosedError("this executor was shut down, it takes no more calls")
            self.pending.update(futures)

    def notify(self, future: Future[Any]) -> None:
        """A call is done, or a cancelled one has stopped. With the lock of the session held."""
        if future._stopping:
            future._watch = (*future._watch, self)  # it may have started, which was not known here
            return
        self.pending.discard(future)
        if not self.pending:
            for latch in self._latches:
                latch.open()
            self._latches.clear()

    def cancel(self) -> None:
        """Cancel the calls that have not started."""
        with self.session.lock:
            idle = [future for future in self.pending if not future._running and future._state == PENDING]
        self.session.cancel(idle)

    # The end

    def end_soon(self) -> None:
        """Have :meth:`finish` called, without waiting for that. Safe wherever garbage may be collected."""
        self.shut = True
        if self._over or self.session.abandoned:
            return
        if self._closers or self.pending:
            threading.Thread(target=self.finish, name="treadle-executor-end").start()
        else:
            self._end()

    def finish(self) -> None:
        """Wait until all calls are done, and close what is to be closed."""
        session = self.session
        if session.abandoned:
            return
        session.check_thread(self)
        run_blocking(self._drain)
        with self._ending:
            if self._over:
                return
            if self._closers and session.ended is None:
                run_blocking(session.obtain, self._results())
            for close in self._closers:
                close()
            self._end()

    def _end(self) -> None:
        self._over = True
        _open.discard(self)

    async def _drain(self) -> None:
        """Steps: until no call is pending."""
        session = self.session
        session.flush()
        latch = Latch(session.lock)
        with session.lock:
            if not self.pending:
                return
            self._latches.append(latch)
        await latch

    def _results(self) -> list[Future[Any]]:
        """The futures that somebody might still ask, and whose results would go with the cluster."""
        registry = self.session.registry
        with self.session.lock:
            return [future for key in registry.futures for future in registry.of(key)]


def _open_work(address: Any, max_workers: int | None, timeout: float, token: bytes | str | None) -> _Work:
    if isinstance(address, Client):
        return _Work(address, [])
    cluster: Any = None
    if address is None:
        from treadle.deploy.local import LocalCluster

        cluster = LocalCluster(max_workers, None if max_workers is None else 1)
    try:
        client = Client(
            address if cluster is None else cluster,
            set_as_default=False,
            timeout=timeout,
            token=token,
            name="executor",
        )
    except BaseException:
        if cluster is not None:
            cluster.close()
        raise
    return _Work(client, [client.close] if cluster is None else [client.close, cluster.close])


def _check_max_workers(max_workers: Any, address: object) -> None:
    if address is not None:
        raise ValueError(
            f"max_workers is for a cluster that the executor starts itself; {address!r} has the workers that it has. "
            "To use only some of them say workers=[…]."
        )
    _at_least_1("max_workers", max_workers)


def _at_least_1(name: str, value: Any) -> int:
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r:.200}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


# The results of map


def _results(buffer: Buffer[ExecutorFuture[T]], deadline: float | None) -> Generator[T, None, None]:
    try:
        while buffer.oldest() is not None:
            yield _next_result(buffer, deadline)
    finally:
        left = buffer.end()
        if left:
            left[0]._session.anywhere(functools.partial(_cancel_all, left))


def _cancel_all(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _next_result(buffer: Buffer[ExecutorFuture[T]], deadline: float | None) -> T:
    oldest = buffer.waiting[0]
    try:
        oldest._session.wait_for(oldest, None if deadline is None else max(0.0, deadline - monotonic()), True)
        return (buffer.take() if oldest._succeeded() else oldest).result()
    finally:
        del oldest, buffer  # see Future.result


#: The results of the calls of a chunk, and what the one after them has raised.
_Outcome = tuple[list[Any], "PackedError | None"]


def _chunked(rows: Iterator[tuple[Any, ...]], chunksize: int) -> Iterator[tuple[list[tuple[Any, ...]]]]:
    while chunk := list(islice(rows, chunksize)):
        yield (chunk,)


def _run_chunk(fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> _Outcome:
    """Call ``fn`` with each row of arguments, until one call raises. Runs on a worker."""
    results: list[Any] = []
    for row in rows:
        try:
            results.append(fn(*row))
        except BaseException as error:
            return results, pack_error(trim_error(error))
    return results, None


def _flat(outcomes: Generator[_Outcome, None, None], name: str) -> Generator[Any, None, None]:
    """The results of chunks, one by one.

    :param name: of the function.
    """
    try:
        for results, error in outcomes:
            waiting = deque(results)
            del results
            while waiting:
                yield waiting.popleft()
            if error is not None:
                raise make_exception(error, name, None)
    finally:
        outcomes.close()


# The end of the program

#: What is not over yet. Not held by executors alone: they may be forgotten before their work is done.
_open: set[_Work] = set()


def _finish_all() -> None:
    """Do what is to be done still, as the standard library's executors do."""
    for work in list(_open):
        if not work.client.asynchronous:  # else it would wait for an event loop that has ended
            work.shut = True
            work.finish()


def _forget_all() -> None:
    _open.clear()  # they are those of the parent process


# What is registered with atexit would come too late, or too early: after the end of a local cluster.
_register: Callable[[Callable[[], None]], None] = getattr(threading, "_register_atexit")  # noqa: B009
_register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
