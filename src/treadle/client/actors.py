"""Actors: objects that live on a worker, and whose methods are called from anywhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from treadle.client import default, inside
from treadle.client.future import FINISHED, Failure, Future, Place
from treadle.client.lines import CallFuture, Line
from treadle.client.session import Session, sessions
from treadle.client.shield import Shield
from treadle.errors import ActorLostError, ClosedError, TaskNotSerializableError, UserError
from treadle.naming import unique
from treadle.wire.functions import ACTOR, display_name
from treadle.wire.parcels import pack_arguments
from treadle.wire.values import brief, pack_call
from treadle.worker.actors import ATTRIBUTE, CANCEL, METHOD, Making, host_of

if TYPE_CHECKING:
    from treadle.client.calls import Calls
    from treadle.client.outbox import Options

__all__ = ["About", "Actor", "ActorFuture", "create"]

T = TypeVar("T")


class About(NamedTuple):
    """What a handle knows of its actor, wherever it goes."""

    key: str
    #: The name of its class.
    kind: str
    #: The ident and the name of its worker, and ``host:port`` of the worker's data port.
    worker: str
    name: str
    address: str
    #: The incarnation of the scheduler.
    cluster: str
    #: Its methods, and the properties and other attributes of its class, without those that begin with an underscore.
    methods: frozenset[str]
    fields: frozenset[str]


class ActorFuture(CallFuture[T]):
    """The result of a call of an actor's method. It is a ``concurrent.futures.Future``, and it can be awaited."""

    _canceller = CANCEL

    def __init__(self, about: About, name: str, line: Line) -> None:
        self._about = about
        super().__init__(f"{about.key}.{name}", line)

    @property
    def target(self) -> str:  # type: ignore[override]
        return self._about.key

    def _undone(self, worker: str, reason: str) -> BaseException:
        about = self._about
        return ActorLostError(about.key, about.name, about.kind, f"its worker {about.name} is gone ({reason})")


class Actor:
    """A handle of an object that lives on a worker. The result of ``client.submit(cls, …, actor=True)`` is one.

    A call of a method returns an :class:`ActorFuture` at once. The calls by one client are executed in their order, one
    at a time; coroutine methods run at the same time as others. Other attributes are read from the worker: that waits
    for the value, and in asynchronous code returns something to be awaited. Names that begin with an underscore are the
    actor's own business.

    Handles may be pickled: given to tasks and to other actors, and returned by them. The actor lives as long as a
    client has a handle of it, or the future that it was made by.
    """

    __slots__ = ("__weakref__", "_about", "_hold")

    #: What counts is elsewhere.
    __treadle_nbytes__: Final = 256

    _about: About
    _hold: Hold | None

    def __init__(self, about: About, session: Session | None = None) -> None:
        object.__setattr__(self, "_about", about)
        object.__setattr__(self, "_hold", None if session is None else Hold(about, session))

    def __getattr__(self, name: str) -> Any:
        about = self._about
        if name in about.methods:
            return Method(self, name)
        if name.startswith("_"):
            raise AttributeError(f"{self!r} gives nothing away that begins with an underscore: {name!r}")
        return self._read(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} cannot be set on a handle of an actor; have a method of the actor do so")

    def __dir__(self) -> list[str]:
        return sorted([*object.__dir__(self), *self._about.methods, *self._about.fields])

    def __repr__(self) -> str:
        return f"<Actor {self._about.kind} {self._about.key!r} on {self._about.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, tuple(self._about)

    def __treadle_token__(self) -> tuple[str, str]:
        return "Actor", self._about.key

    def _read(self, name: str) -> Any:
        hold = self._held()
        future = self._send(hold, ATTRIBUTE, name, (), {})
        if hold._session.in_loop() or (inside.current() is not None and _loop_runs()):
            return future
        return future.result()

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorFuture[Any]:
        return self._send(self._held(), METHOD, name, args, kwargs)

    def _send(
        self, hold: Hold, topic: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorFuture[Any]:
        hold._session.check()
        future: ActorFuture[Any] = ActorFuture(self._about, name, hold.line)
        try:
            packed, parts = pack_arguments(name, args, kwargs)
        except Exception as error:
            raise _why_not(future.key, args, kwargs, error) from None
        if hold.lost:
            hold.line.refuse(future, hold.lost)
        else:
            hold.line.call(future, topic, self._about.key, packed, parts)
        return future

    def _held(self) -> Hold:
        """What keeps the actor alive.

        :raises ClosedError: it was released.
        :raises UserError: there is no client by which this handle can be used.
        """
        hold = self._hold
        if hold is None:
            host = host_of(self._about.cluster)
            session = _find_session(self._about)
            if session is None and host is not None:
                session = host.worker.client().session
            if session is None:
                raise UserError(
                    f"{self!r} belongs to a cluster that no client here is connected to: make one, treadle.Client(…)."
                )
            hold = Hold(self._about, session, host is None or not host.keeps(self))
            object.__setattr__(self, "_hold", hold)
        if hold._released:
            raise ClosedError(f"{self!r} was released; keep its future, or do not release it, while it is needed")
        return hold


class Method:
    """A method of an actor. Calling it returns an :class:`ActorFuture`."""

    __slots__ = ("_actor", "_name")

    def __init__(self, actor: Actor, name: str) -> None:
        self._actor = actor
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> ActorFuture[Any]:
        return self._actor._call(self._name, args, kwargs)

    @property
    def __name__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<method {self._name!r} of {self._actor!r}>"


class Hold(Future[None]):
    """Keeps an actor alive for a handle, and hears of its death.

    It stands beside the future of the actor, and never has its result: that is the handle, which has this.

    :param wants: False for a handle that lives no longer than the actor in any case.
    """

    _wants = False

    def __init__(self, about: About, session: Session, wants: bool = True) -> None:
        super().__init__(about.key, session)
        self._about = about
        self._wants = wants
        self._state = FINISHED
        #: Why the actor is gone, once it is.
        self.lost = ""
        self.line: Final = session.fetcher.lines.to(about.worker, about.address)
        if not wants:
            return
        registry = session.registry
        with Shield(), session.lock:
            if session.ended is None and not registry.join(self):
                registry.outbox.add("want", [about.key])
            self._result = None
        session.nudge()

    @property
    def _held(self) -> Any:
        """A result that is elsewhere. As long as it is, whoever holds this is told when it is lost."""
        return None if self.lost else Place(0, self._about.worker, self._about.address)

    @_held.setter
    def _held(self, held: Any) -> None:
        pass  # the handle is there already

    def __del__(self) -> None:
        if self._wants:
            super().__del__()

    def _take(self, held: Any) -> None:
        if type(held) is Failure:
            self.lost = "the scheduler says so"
            loop = self._session.loop
            assert loop is not None
            loop.call_soon_threadsafe(self.line.lose, self.key, self.lost)


class Creation(Future[Actor]):
    """The future of an actor. Its result is a handle that belongs to the same client."""

    def _unpack(self) -> None:
        with _reading(self._session):
            super()._unpack()

    def release(self) -> None:
        """The actor is not needed any more: it ends, unless others have handles of it, and this one's is of no use."""
        handle = self._result
        if isinstance(handle, Actor) and handle._hold is not None:
            handle._hold.release()
        super().release()


def create(
    session: Session,
    calls: Calls,
    cls: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    key: str | None,
    options: Options,
) -> Creation:
    """The future of a new actor, whose parameters are those of :meth:`treadle.Client.submit`."""
    if not callable(cls):
        raise TypeError(f"the first argument must be the class of the actor, not {cls!r:.200}")
    name = f"{display_name(cls).strip('<>')}-{unique()}" if key is None else key
    row = calls.one(Making(cls), (name, *args), kwargs, name, False, 4, ACTOR)
    future = Creation(name, session)
    session.submit_one(future, row, options)
    return future


# Handles that come from elsewhere


class _Reader(threading.local):
    #: Whose results are being unpickled in this thread.
    session: Session | None = None


_reader: Final = _Reader()


@contextmanager
def _reading(session: Session) -> Iterator[None]:
    before, _reader.session = _reader.session, session
    try:
        yield
    finally:
        _reader.session = before


def _rebuild(*fields: Any) -> Actor:
    """What a handle is unpickled to. The name is part of the protocol."""
    about = About(*fields)
    if host_of(about.cluster) is not None and inside.current() is None:
        return Actor(about)  # a worker reads it for its store, where it must want nothing
    return Actor(about, _find_session(about))


def _find_session(about: About) -> Session | None:
    """The session of this process by which an actor can be reached: the one that reads, else the default client's."""
    if _reader.session is not None:
        return _reader.session
    preferred: Session | None = getattr(default.registered(), "_session", None)
    for session in (preferred, *sessions()):
        if session is not None and session.ended is None and session.cluster == about.cluster:
            return session
    return None


def _loop_runs() -> bool:
    return asyncio._get_running_loop() is not None


def _why_not(key: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> Exception:
    """Which argument it is that cannot be sent."""
    try:
        pack_call(key, args, kwargs)
    except Exception as reason:
        return reason
    return TaskNotSerializableError(key, "one of its arguments", brief(error))
