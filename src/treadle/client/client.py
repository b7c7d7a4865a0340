"""The client: what a program uses to have a cluster work for it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from treadle.arguments import pack
from treadle.callbacks import Callback
from treadle.client import default, running
from treadle.client.background import BackgroundLoop
from treadle.client.calls import CHUNK, Calls, options_of
from treadle.client.future import Future
from treadle.client.gathering import fill_in, futures_in, listed, without_failed
from treadle.client.graphs import Shipment
from treadle.client.latch import Steps, run_async, run_blocking
from treadle.client.outbox import Options, Row
from treadle.client.scattering import scatter
from treadle.client.session import Session
from treadle.client.tasks import collect as collect_value
from treadle.client.tasks import value_of
from treadle.deferred import Delayed
from treadle.errors import ClosedError, ConnectError, RefusedError, UserError
from treadle.graph.ordering import order
from treadle.graph.plan import read
from treadle.graph.spec import Ref, Task
from treadle.lineage import collect
from treadle.local.drive import Outcome
from treadle.net.secret import token_for

__all__ = ["Client"]

T = TypeVar("T")
_Self = TypeVar("_Self", bound="Client")


class Client:
    """A connection to a cluster: submits tasks, and returns futures for their results.

    >>> with Client() as client:
    ...     futures = client.map(abs, [-1, -2, -3])
    ...     total = client.submit(sum, futures)
    ...     print(total.result())
    6

    In asynchronous code ``async with Client(asynchronous=True)`` uses the running event loop and no thread; then what
    is said to return a value has to be awaited, and so are futures. Methods that return futures are called as ever.

    :param address: ``"host:port"`` of a scheduler, or a :class:`treadle.LocalCluster`. Without it a local cluster is
        started, and closed with the client.
    :param asynchronous: use the running event loop.
    :param set_as_default: ``compute()`` and ``treadle.get`` use this client when they are not told otherwise.
    :param timeout: how many seconds to wait for a scheduler that does not answer.
    :param token: the secret of the cluster. Default: that of the :class:`~treadle.LocalCluster`, else
        ``TREADLE_TOKEN``, else, on this machine, the user's own.
    :param name: is part of what the scheduler calls this client.
    :raises ConnectError: nobody listens at the address.
    :raises RefusedError: the scheduler does not want this client: another token, another version.
    """

    def __init__(
        self,
        address: Any = None,
        asynchronous: bool = False,
        set_as_default: bool = True,
        timeout: float = 10.0,
        token: bytes | str | None = None,
        name: str | None = None,
    ) -> None:
        self.asynchronous = asynchronous
        self._set_as_default = set_as_default
        self._timeout = timeout
        self._token = token.encode() if isinstance(token, str) else token
        self._name = f"{name or 'client'}-{os.urandom(6).hex()}"
        #: A cluster that was started for this client, and that ends with it.
        self._own_cluster: Any = None
        self._background: BackgroundLoop | None = None
        self._over = False
        self._session: Session | None = None
        if address is None:
            from treadle.deploy.local import LocalCluster

            address = self._own_cluster = LocalCluster(asynchronous=asynchronous)
        self._address = address
        if not asynchronous:
            self._connect()

    # Beginning and end

    def _connect(self) -> None:
        background = self._background = BackgroundLoop(f"treadle-{self._name}")
        session = self._make_session()
        try:
            background.run(session.connect(self._timeout))
        except BaseException as error:
            self.close()
            if isinstance(error, (UserError, ConnectError, RefusedError)):
                error = error.with_traceback(None)
            raise error
        self._begin()

    async def _connect_async(self: _Self) -> _Self:
        if self._session is None:
            if self._own_cluster is not None:
                await self._own_cluster
            session = self._make_session()
            try:
                await session.connect(self._timeout)
            except BaseException:
                await self._close_async()
                raise
            self._begin()
        return self

    def _make_session(self) -> Session:
        address = self._address
        token = self._token
        if not isinstance(address, str):
            token = token or getattr(address, "token", None)
            address = getattr(address, "address", None)
            if not isinstance(address, str) or not address:
                raise TypeError(
                    f"a Client needs the address of a scheduler, host:port, or a cluster, not {self._address!r}"
                )
        self._session = session = Session(address, token_for(address, token), self._name)
        self._calls = Calls(session)
        return session

    def _begin(self) -> None:
        _open.add(self)
        if self._set_as_default:
            default.register(self)

    @property
    def session(self) -> Session:
        """The connection. :raises ClosedError: there is none (any more)."""
        session = self._session
        if session is None:
            if not self.asynchronous:
                raise ClosedError("this client is closed")
            raise ClosedError("this client is not connected yet: use `async with Client(…)`, or `await` it first")
        session.check()
        return session

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called, and in a forked child of the process that it belongs to."""
        return self._over or (self._session is not None and self._session.abandoned)

    @property
    def address(self) -> str:
        """``host:port`` of the scheduler."""
        return self.session.address

    def close(self) -> Any:
        """Release everything and disconnect. Futures that are not done are cancelled."""
        if self.asynchronous:
            return self._close_async()
        session = self._session
        if self._end() and session is not None and self._background is not None:
            self._background.run(session.disconnect())
        if session is None or not session.abandoned:
            if self._background is not None:
                self._background.stop()
            if self._own_cluster is not None:
                self._own_cluster.close()
        return None

    async def _close_async(self) -> None:
        session = self._session
        if self._end() and session is not None:
            await session.disconnect()
        if self._own_cluster is not None:
            await self._own_cluster.aclose()

    def _end(self) -> bool:
        """Let nothing more be asked of this client. False if it was so already."""
        default.forget(self)
        _open.discard(self)
        session = self._session
        if self._over or session is None or session.abandoned:
            return False
        self._over = True
        session.end(ClosedError("this client is closed"))
        return True

    def __enter__(self: _Self) -> _Self:
        if self.asynchronous:
            raise UserError("an asynchronous client is opened by `async with`, not by `with`")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self: _Self) -> _Self:
        if not self.asynchronous:
            raise UserError("say Client(…, asynchronous=True) to use a client with `async with`")
        return await self._connect_async()

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close_async()

    def __await__(self: _Self) -> Generator[Any, None, _Self]:
        return self.__aenter__().__await__()

    def __repr__(self) -> str:
        session = self._session
        if session is None:
            return f"<Client {self._name!r}, not connected>"
        state = "closed" if self.closed else "open" if session.ended is None else "lost"
        return f"<Client {self._name!r} of {session.address}, {len(session.registry.futures)} keys, {state}>"

    # Tasks

    def submit(
        self,
        func: Callable[..., T],
        /,
        *args: Any,
        key: str | None = None,
        pure: bool = True,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        **kwargs: Any,
    ) -> Future[T]:
        """Have ``func(*args, **kwargs)`` called on a worker.

        Futures among the arguments, also inside lists, tuples, sets and dicts, are replaced by their results there.

        :param key: a name for the result; whoever submits something of the same name gets the same result.
        :param pure: equal calls give equal results, so that they share one task. False: each call is another one.
        :param workers: the only workers that may run it: names, idents, addresses or hosts.
        :param resources: what it needs of a worker's resources while it runs, such as ``{"GPU": 1}``.
        :param priority: tasks with a higher one are started first.
        :param retries: how often it is tried again after it has raised.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        """
        session = self.session
        if key is not None:
            _check_key(key)
        options = options_of(workers, resources, priority, retries)
        row = self._calls.one(func, args, kwargs, key, pure, 3)
        future: Future[T] = Future(row[0], session)
        session.submit_one(future, row, options)
        return future

    def map(
        self,
        func: Callable[..., T],
        *iterables: Iterable[Any],
        key: str | Sequence[str] | None = None,
        pure: bool = True,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        **kwargs: Any,
    ) -> list[Future[T]]:
        """Have ``func`` called with the first item of each iterable, with the second, and so on, as ``map`` does.

        The other parameters are those of :meth:`submit`. Keyword arguments are the same in all calls, and sent once.

        :param key: what the names of the results begin with, or a list with a name for each.
        :returns: one future for each call, in the order of the items.
        """
        session = self.session
        if not callable(func):
            raise TypeError(f"the first argument must be the function to call, not {func!r:.200}")
        if not iterables:
            raise TypeError("map needs something to map over: client.map(func, items)")
        options = options_of(workers, resources, priority, retries)
        columns = [list(items) for items in iterables]
        keys = _keys_for(key, min(map(len, columns)))
        rows = self._calls.many(func, columns, kwargs, keys, pure)
        futures: list[Future[T]] = [Future(row[0], session) for row in rows]
        for first, last, nbytes in _chunks(rows):
            part = rows[first:last]
            session.submit(futures[first:last], part, options, any(row[3] for row in part), nbytes)
        return futures

    def get(self, graph: Any, keys: Any, *, callbacks: Iterable[Callback] | None = None, **options: Any) -> Any:
        """Compute some keys of a graph on the cluster. Parameters and errors as of :func:`treadle.get`.

        Takes ``priority``, ``workers``, ``resources`` and ``retries`` for all of its tasks. Other options are ignored:
        Dask hands its schedulers whatever its users say.
        """
        if self.asynchronous:
            return _raised(self._outcome(graph, keys, callbacks, options))
        done = self._block(self._outcome, graph, keys, callbacks, options)
        if done.error is not None:
            try:
                raise done.error
            finally:
                del done  # see treadle.get
        return done.value

    def __treadle_outcome__(self, graph: Any, keys: Any, callbacks: Iterable[Callback] | None) -> Outcome:
        if self.asynchronous:
            error = UserError(
                "an asynchronous client is the default here, and this call would block its event loop. Write "
                "`await client.get(graph, keys)` or `await client.compute(value)`, or name a scheduler."
            )
            return Outcome(None, error)
        return self._block(self._outcome, graph, keys, callbacks, {})

    async def _outcome(
        self, graph: Any, keys: Any, callbacks: Iterable[Callback] | None, options: Mapping[str, Any]
    ) -> Outcome:
        asked = options_of(
            options.get("workers"), options.get("resources"), options.get("priority", 0), options.get("retries", 0)
        )
        return await running.compute(self.session, self._calls, graph, keys, callbacks, asked)

    def compute(
        self,
        *values: Any,
        sync: bool = False,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
    ) -> Any:
        """Start to compute delayed values (or collections of Dask), and return a future for each.

        :param values: delayed values, and lists of such. Anything else is returned as it is.
        :param sync: return the results instead. The other parameters are those of :meth:`submit`.
        :returns: a future for one value, a list of them for a list, and a tuple if there are several ``values``.
        """
        futures = self._start(values, options_of(workers, resources, priority, retries))
        made = futures[0] if len(futures) == 1 else tuple(futures)
        return self.gather(made) if sync else made

    def persist(self, *values: Any, **options: Any) -> Any:
        """Start to compute delayed values, and return delayed values that stand for the results.

        Parameters and shape of the result as of :meth:`compute`.
        """
        asked = options_of(
            options.pop("workers", None),
            options.pop("resources", None),
            options.pop("priority", 0),
            options.pop("retries", 0),
        )
        if options:
            raise TypeError(f"persist() got an unexpected keyword argument {next(iter(options))!r}")
        made = [_delay(future) for future in self._start(values, asked)]
        return made[0] if len(made) == 1 else tuple(made)

    def _start(self, values: Sequence[Any], options: Options) -> list[Any]:
        """The values with futures in the place of what is delayed."""
        session = self.session
        found: list[Any] = []
        packed = [
            [pack(item, found) for item in value] if type(value) is list else pack(value, found) for value in values
        ]
        if not found:
            return list(values)
        graph = collect(found)
        plan = read(graph, list(dict.fromkeys([source._key for source in found])))
        order(plan)
        shipment = Shipment(session, self._calls, plan, False)
        shipment.send([node for node in plan.targets if not node.done], options)
        session.flush()

        def stand_in(item: Any, given: Any) -> Any:
            if type(item) is not Ref:
                return given
            node = plan.found[item.key]
            return self.submit(collect_value, node.result) if node.done else shipment.futures[node.rank]

        return [
            [stand_in(*pair) for pair in zip(item, given)] if type(given) is list else stand_in(item, given)
            for item, given in zip(packed, values)
        ]

    # Data

    def gather(self, futures: Any, errors: str = "raise") -> Any:
        """The results of futures, in the containers in which they are.

        :param futures: a future, or lists, tuples, sets and dicts with futures, nested in any way.
        :param errors: ``"raise"`` the first exception, or ``"skip"`` what failed or was cancelled.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f"errors must be 'raise' or 'skip', not {errors!r}")
        value = listed(futures)
        if self.asynchronous:
            return self._gather_async(value, errors)
        found = futures_in(value)
        failed = self._block(self._obtain, found, errors)
        error = None if failed is None else failed._error()
        if error is not None:
            try:
                raise error
            finally:
                del error, failed, futures, value, found  # see Future.result
        return _filled(value, found, errors)

    async def _gather_async(self, value: Any, errors: str) -> Any:
        found = futures_in(value)
        failed = await run_async(self._obtain(found, errors))
        error = None if failed is None else failed._error()
        if error is not None:
            try:
                raise error
            finally:
                del error, failed, value, found  # see Future.result
        return _filled(value, found, errors)

    async def _obtain(self, futures: list[Future[Any]], errors: str) -> Future[Any] | None:
        session = self._session
        assert session is not None
        others = [future for future in futures if future._session is not session]
        if others:
            raise UserError(f"{others[0]!r} belongs to another client, {others[0]._session.ident}; gather it there.")
        return await session.obtain(futures, eager=errors == "raise")

    def scatter(self, data: Any, workers: str | Iterable[str] | None = None) -> Any:
        """Put data into the memory of workers, so that tasks can be given it by its future.

        :param data: a list (or tuple, set, iterator) of values, a dict of them, or one value of another type.
        :param workers: the only workers to use: names, idents, addresses or hosts.
        :returns: futures in the shape of ``data``: a list, a dict with the same keys, or one.
        """
        return self._face(self._scatter, listed(data), workers)

    async def _scatter(self, data: Any, workers: str | Iterable[str] | None) -> Any:
        if isinstance(data, dict):
            return dict(zip(data, await scatter(self.session, list(data.values()), workers)))
        if type(data) in (list, tuple, set, frozenset):
            return await scatter(self.session, list(data), workers)
        return (await scatter(self.session, [data], workers))[0]

    def cancel(self, futures: Any) -> None:
        """Cancel futures that are not done, in lists, tuples, sets and dicts.

        Their tasks stop, unless other clients want them.
        """
        session = self.session
        session.cancel([future for future in futures_in(listed(futures)) if not future.done()])

    # Questions

    def who_has(self, futures: Any = None) -> Any:
        """The idents of the workers that hold each result, by key; of all results on the cluster by default."""
        keys = None if futures is None else [future.key for future in futures_in(listed(futures))]
        return self._face(self._ask, "who_has", keys)

    def has_what(self, workers: str | Iterable[str] | None = None) -> Any:
        """The keys of the results that each worker holds, by ident; of all workers by default."""
        names = None if workers is None else [workers] if isinstance(workers, str) else list(workers)
        return self._face(self._ask, "has_what", names)

    def scheduler_info(self) -> Any:
        """The scheduler, its workers and how many tasks are in which state, as a dict."""
        return self._face(self._ask, "info", None)

    def explain(self, future: Future[Any] | str) -> Any:
        """Why a task is where it is, in one sentence."""
        return self._face(self._ask, "explain", future if isinstance(future, str) else future.key)

    async def _ask(self, topic: str, argument: Any) -> Any:
        return await self.session.ask(topic, argument)

    def _face(self, make: Callable[..., Steps[T]], *args: Any) -> Any:
        return run_async(make(*args)) if self.asynchronous else self._block(make, *args)

    def _block(self, make: Callable[..., Steps[T]], *args: Any) -> T:
        if self._session is not None and self._session.in_loop():
            self._session.check_thread(self)
        return run_blocking(make, *args)


async def _raised(steps: Steps[Outcome]) -> Any:
    done = await run_async(steps)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done, steps  # see treadle.get
    return done.value


def _filled(value: Any, found: Sequence[Future[Any]], errors: str) -> Any:
    """The results of futures in the place of these."""
    if errors == "skip":
        if isinstance(value, Future) and not value._succeeded():
            return None
        return fill_in(without_failed(value))
    if found is value:
        for future in found:
            future._unpack()
        return [future.result() for future in found]
    return fill_in(value)


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or not key:
        raise TypeError(f"key must be a str that is not empty, not {key!r:.200}")


def _keys_for(key: str | Sequence[str] | None, count: int) -> list[str] | None:
    """The keys of ``count`` calls, if the user has chosen them."""
    if key is None:
        return None
    if isinstance(key, str):
        _check_key(key)
        return [f"{key}-{index}" for index in range(count)]
    keys = list(key)
    for each in keys:
        _check_key(each)
    if len(keys) != count:
        raise ValueError(f"{len(keys)} keys were given for {count} calls")
    return keys


def _chunks(rows: Sequence[Row]) -> Iterable[tuple[int, int, int]]:
    """Where to cut rows, so that none of the messages is too big: first, last, and the bytes between them."""
    first = size = 0
    for index, row in enumerate(rows):
        nbytes = len(row[2])
        if size and size + nbytes > CHUNK:
            yield first, index, size
            first, size = index, 0
        size += nbytes
    if first < len(rows):
        yield first, len(rows), size


def _delay(value: Any) -> Any:
    """Delayed values in the place of futures."""
    if isinstance(value, Future):
        return Delayed(value.key, Task(value_of, value))
    return [_delay(item) for item in value] if type(value) is list else value


#: Clients that nobody has closed yet.
_open: set[Client] = set()


def _close_all() -> None:
    for client in list(_open):
        if client.asynchronous:
            client._end()  # its loop is gone by now
        else:
            client.close()


def _forget_all() -> None:
    _open.clear()  # they are those of the parent process


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
