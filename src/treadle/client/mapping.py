"""Methods of a client that have one function called many times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from treadle.client.calls import CHUNK, Calls, options_of
from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.lazily import Buffer, LazyMap, align, check_buffersize
from treadle.client.outbox import Options, Row
from treadle.client.session import Session

if TYPE_CHECKING:
    from treadle.client.executor import Executor

__all__ = ["Mapper", "check_function", "check_key", "send"]

T = TypeVar("T")


class Mapper(Face):
    """``map``, and an executor of the standard library's kind."""

    _calls: Calls

    @overload
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
        buffersize: None = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> list[Future[T]]: ...

    @overload
    def map(
        self,
        func: Callable[..., T],
        *iterables: Iterable[Any],
        key: str | Iterable[str] | None = None,
        pure: bool = True,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        buffersize: int,
        strict: bool = False,
        **kwargs: Any,
    ) -> LazyMap[T]: ...

    def map(
        self,
        func: Callable[..., T],
        *iterables: Iterable[Any],
        key: str | Iterable[str] | None = None,
        pure: bool = True,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        buffersize: int | None = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> list[Future[T]] | LazyMap[T]:
        """Have ``func`` called with the first item of each iterable, with the second, and so on, as ``map`` does.

        The other parameters are those of :meth:`submit`. Keyword arguments are the same in all calls, and sent once
        (with ``buffersize``: with each call).

        :param key: what the names of the results begin with, or a list with a name for each.
        :param buffersize: take items from the iterables, which may be endless, only as futures are taken from what is
            returned: at most so many calls have been submitted and their futures not been given.
        :param strict: all iterables must have the same length. Otherwise the end of the shortest is the end.
        :returns: one future for each call, in the order of the items: a list; with ``buffersize`` an iterator, also an
            asynchronous one, that gives each when it is done, see :class:`~treadle.client.lazily.LazyMap`.
        :raises ValueError: the lengths differ, and ``strict`` was asked for.
        """
        session = self.session
        check_function(func)
        if not iterables:
            raise TypeError("map needs something to map over: client.map(func, items)")
        options = options_of(workers, resources, priority, retries)
        calls = align(iterables, strict)
        if buffersize is not None:
            size = check_buffersize(buffersize)
            return LazyMap(self, Buffer(calls, self._submitter(func, key, pure, options, kwargs), size))
        columns = list(calls)
        keys = _keys_for(key, len(columns))
        rows = self._calls.many(func, columns, kwargs, keys, pure)
        if keys is not None:
            for row, args in zip(rows, columns):
                session.claims.check(row, args, kwargs)
        futures: list[Future[T]] = [Future(row[0], session) for row in rows]
        send(session, futures, rows, options)
        return futures

    def _submitter(
        self,
        func: Callable[..., T],
        key: str | Iterable[str] | None,
        pure: bool,
        options: Options,
        kwargs: Mapping[str, Any],
    ) -> Callable[[tuple[Any, ...]], Future[T]]:
        """What submits one call."""
        names = _names(key)

        def submit(args: tuple[Any, ...]) -> Future[T]:
            session = self.session
            name = next(names, None)
            if name is None and key is not None:
                raise ValueError("there are more calls than keys were given")
            row = self._calls.one(func, args, kwargs, name, pure)
            if name is not None:
                session.claims.check(row, args, kwargs)
            future: Future[T] = Future(row[0], session)
            session.submit_one(future, row, options)
            return future

        return submit

    def get_executor(self, **options: Any) -> Executor:
        """A ``concurrent.futures.Executor`` whose calls run on this client's cluster. The client survives its end.

        :param options: ``workers``, ``resources``, ``priority`` and ``retries``, as of :meth:`submit`, for all calls.
        """
        from treadle.client.executor import Executor

        return Executor(self, **options)


def send(session: Session, futures: Sequence[Future[Any]], rows: Sequence[Row], options: Options) -> None:
    """Submit calls, in messages none of which is too big."""
    for first, last, nbytes in _chunks(rows):
        part = rows[first:last]
        session.submit(futures[first:last], part, options, any(row[3] for row in part), nbytes)


def check_function(func: Any) -> None:
    """:raises TypeError: it cannot be called."""
    if not callable(func):
        raise TypeError(f"the first argument must be the function to call, not {func!r:.200}")


def check_key(key: Any) -> None:
    """:raises TypeError: it cannot name a result. :raises ValueError: it cannot be sent."""
    if not isinstance(key, str) or not key:
        raise TypeError(f"key must be a str that is not empty, not {key!r:.200}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(f"key must be text that UTF-8 can hold, not {key!a:.200}") from None


def _keys_for(key: str | Iterable[str] | None, count: int) -> list[str] | None:
    """The keys of ``count`` calls, if the user has chosen them."""
    if key is None:
        return None
    if isinstance(key, str):
        check_key(key)
        return [f"{key}-{index}" for index in range(count)]
    keys = list(key)
    for each in keys:
        check_key(each)
    if len(keys) != count:
        raise ValueError(f"{len(keys)} keys were given for {count} calls")
    return keys


def _names(key: str | Iterable[str] | None) -> Iterator[str]:
    """The keys of calls, one after another; nothing if the user has not chosen them."""
    if key is None:
        return
    if isinstance(key, str):
        check_key(key)
        number = 0
        while True:
            yield f"{key}-{number}"
            number += 1
    for each in key:
        check_key(each)
        yield each


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
