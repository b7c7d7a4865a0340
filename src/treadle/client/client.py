"""The client: what a program uses to have a cluster work for it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from treadle.callbacks import Callback
from treadle.client import default, running
from treadle.client.background import BackgroundLoop
from treadle.client.calling import Calling
from treadle.client.calls import Calls, options_of
from treadle.client.computing import Computing
from treadle.client.extending import Extending
from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.holding import Holding
from treadle.client.inspecting import Inspecting
from treadle.client.latch import Steps, run_async
from treadle.client.limits import within
from treadle.client.managing import Managing
from treadle.client.mapping import Mapper, check_key
from treadle.client.session import Session
from treadle.client.sharing import Sharing
from treadle.client.streaming import Streaming
from treadle.errors import ClosedError, ConnectError, RefusedError, UserError
from treadle.local.drive import Outcome
from treadle.net.secret import token_for

__all__ = ["Client", "current_client"]

T = TypeVar("T")
_Self = TypeVar("_Self", bound="Client")


class Client(Mapper, Computing, Streaming, Holding, Sharing, Calling, Extending, Managing, Inspecting, Face):
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
    def closed(self) -> bool:
        """True once :meth:`close` was called, and in a forked child of the process that it belongs to."""
        return self._over or (self._session is not None and self._session.abandoned)

    @property
    def address(self) -> str:
        """``host:port`` of the scheduler."""
        return self.session.address

    def close(self, timeout: float | None = None) -> Any:
        """Release everything and disconnect. Futures that are not done are cancelled.

        :param timeout: how many seconds to wait at most for a scheduler that does not read what is still to be sent.
        """
        if self.asynchronous:
            return self._close_async(timeout)
        session = self._session
        if self._end() and session is not None and self._background is not None:
            self._background.run(session.disconnect(timeout))
        if session is None or not session.abandoned:
            if self._background is not None:
                self._background.stop()
            if self._own_cluster is not None:
                self._own_cluster.close()
        return None

    async def _close_async(self, timeout: float | None = None) -> None:
        session = self._session
        if self._end() and session is not None:
            await session.disconnect(timeout)
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

    @staticmethod
    def current() -> Client:
        """The client that is used where none is named: see :func:`treadle.current_client`."""
        return current_client()

    @contextmanager
    def as_current(self: _Self) -> Iterator[_Self]:
        """Make this client the one that is used where none is named, in a ``with`` block. Blocks may be nested.

        It holds for the thread, or the asynchronous task, that runs the block.
        """
        with default.preferred(self):
            yield self

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

    def _repr_html_(self) -> str:
        from treadle.client.html import client_card
        from treadle.html import shown

        return shown(client_card, self)

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
        actor: bool = False,
        **kwargs: Any,
    ) -> Future[T]:
        """Have ``func(*args, **kwargs)`` called on a worker.

        Futures among the arguments, also inside lists, tuples, sets and dicts, are replaced by their results there.

        :param key: a name for the result; whoever submits the same under the same name gets the same result.
        :param pure: equal calls give equal results, so that they share one task. False: each call is another one.
        :param workers: the only workers that may run it: names, idents, addresses or hosts.
        :param resources: what it needs of a worker's resources while it runs, such as ``{"GPU": 1}``.
        :param priority: tasks with a higher one are started first.
        :param retries: how often it is tried again after it has raised.
        :param actor: keep what it returns on that worker; the result is a handle of it, a :class:`treadle.Actor`.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        :raises DuplicateKeyError: this client has a future of the same ``key`` for another call.
        """
        session = self.session
        if key is not None:
            check_key(key)
        options = options_of(workers, resources, priority, retries)
        if actor:
            from treadle.client.actors import create

            return create(session, self._calls, func, args, kwargs, key, options)  # type: ignore[return-value]
        row = self._calls.one(func, args, kwargs, key, pure, 3)
        if key is not None:
            session.claims.check(row, args, kwargs)
        future: Future[T] = Future(row[0], session)
        session.submit_one(future, row, options)
        return future

    def get(
        self,
        graph: Any,
        keys: Any,
        *,
        callbacks: Iterable[Callback] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Compute some keys of a graph on the cluster. Parameters and errors as of :func:`treadle.get`.

        When the ``timeout`` (in seconds) has passed, the tasks are cancelled, and this raises
        ``concurrent.futures.TimeoutError``.

        Takes ``priority``, ``workers``, ``resources`` and ``retries`` for all of its tasks. Other options are ignored:
        Dask hands its schedulers whatever its users say.
        """
        if self.asynchronous:
            return _raised(within(timeout, self._outcome, graph, keys, callbacks, options))
        done = self._block(within, timeout, self._outcome, graph, keys, callbacks, options)
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
        if hasattr(graph, "__dask_graph__"):
            from treadle.integrations.annotations import heed

            graph, asked = heed(graph, options)
        else:
            asked = options_of(
                options.get("workers"), options.get("resources"), options.get("priority", 0), options.get("retries", 0)
            )
        return await running.compute(self.session, self._calls, graph, keys, callbacks, asked)


async def _raised(steps: Steps[Outcome]) -> Any:
    done = await run_async(steps)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done, steps  # see treadle.get
    return done.value


def current_client() -> Client:
    """The client that is used where none is named.

    That is the one of the surrounding ``with client.as_current():``, else the one that was opened last.

    :raises UserError: no client is open.
    """
    client = default.current()
    if not isinstance(client, Client):
        raise UserError("no client is open: make one, client = treadle.Client(…), or write `with client.as_current():`")
    return client


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
