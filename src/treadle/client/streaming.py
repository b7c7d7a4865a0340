"""Results that are read one after another while the task that yields them goes on."""

from __future__ import annotations

import itertools
import operator
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Lock
from time import monotonic
from typing import Any, Final, Generic, TypeVar, overload

import msgspec

from treadle.client.calls import Calls, options_of
from treadle.client.face import Face
from treadle.client.future import Future, Parts
from treadle.client.latch import deadline_of, run_async
from treadle.client.lines import CallFuture, Line
from treadle.client.outbox import Options
from treadle.errors import ClosedError, StreamLostError, UserError
from treadle.naming import unique
from treadle.wire.functions import ACTOR, display_name
from treadle.wire.values import load_parts, pack_value
from treadle.worker.streams import TOPIC, Opening, Source, drive

__all__ = ["Stream", "Streaming"]

T = TypeVar("T")

#: Seconds without an item after which the scheduler is asked whether the worker is still there.
SILENCE: Final = 30.0

_END: Final[Any] = object()

_head_of = msgspec.msgpack.Decoder(tuple[bool, list[int]]).decode


class Streaming(Face):
    """Streams."""

    _calls: Calls

    @overload
    def stream(
        self,
        func: Callable[..., Iterable[T]],
        /,
        *args: Any,
        buffersize: int = 16,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> Stream[T]: ...

    @overload
    def stream(
        self,
        func: Callable[..., AsyncIterator[T]],
        /,
        *args: Any,
        buffersize: int = 16,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> Stream[T]: ...

    def stream(
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        buffersize: int = 16,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> Stream[Any]:
        """Run a generator function on a worker, and iterate here over what it yields while it runs.

        >>> for line in client.stream(read_lines, path):  # doctest: +SKIP
        ...     print(line)

        It begins at once. While ``buffersize`` items are unread it is suspended, and occupies no thread of its worker.
        Each stream is a call of its own, and none is ever run again.

        :param func: a generator function, also an asynchronous one, or a function that returns something to iterate
            over. The other parameters are those of :meth:`submit`; futures among the arguments are replaced by their
            results.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        """
        if operator.index(buffersize) < 1:
            raise ValueError(f"buffersize must be a whole number of at least 1, not {buffersize!r}")
        if not callable(func):
            raise TypeError(f"the first argument must be the function to call, not {func!r:.200}")
        session = self.session
        options = options_of(workers, resources, priority, 0)
        key = f"{display_name(func).strip('<>')}-{unique()}"
        row = self._calls.one(Opening(func, buffersize), args, kwargs, key, False, 3, ACTOR)
        opening: Future[Source] = Future(key, session)
        session.submit_one(opening, row, options)
        return Stream(self, self._calls, opening, buffersize, options)


class Stream(Generic[T]):
    """The items that a generator yields on a worker: to be iterated over, with ``for`` or with ``async for``, by one
    consumer at a time.

    A stream that is closed, or that nobody refers to any more, ends: the generator is closed where it stands, as
    generators are. So does the end of a ``with`` block, and of the client.
    """

    def __init__(self, client: Face, calls: Calls, opening: Future[Source], buffersize: int, options: Options) -> None:
        #: What names the stream on the cluster.
        self.key: Final = opening.key
        self._client = client
        self._session = client.session
        self._calls = calls
        self._buffersize = buffersize
        self._options = options
        self._opening = opening
        #: The task that runs the generator, once it is known where that is.
        self._driving: Future[None] | None = None
        self._line: Line | None = None
        self._lock: Final = Lock()
        #: What is here and was not read; what was asked for; how many were read.
        self._items: deque[list[Any]] = deque()
        self._asked: _Batch | None = None
        self._read = 0
        self._over = self._closed = self._busy = False
        begin = weakref.WeakMethod(self._begin)
        opening.add_done_callback(lambda future: _call(begin))

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self._over else "open"
        return f"<Stream {self.key!r}, {self._read} items read, {state}>"

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._session.check_thread(self)
        item: T = self._client._block(self._take, None)
        if item is _END:
            raise StopIteration
        return item

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item: T = await run_async(self._take(None))
        if item is _END:
            raise StopAsyncIteration
        return item

    def next(self, timeout: float | None = None) -> Any:
        """The next item; with an asynchronous client, to be awaited.

        :param timeout: wait no longer than this many seconds. The item is not lost then: the next call returns it.
        :raises StopIteration: there is none. :raises StopAsyncIteration: the same, where this is awaited.
        :raises concurrent.futures.TimeoutError: there was none in time.
        :raises StreamLostError: the worker is gone.
        :raises Exception: whatever the generator has raised.
        """
        if self._client.asynchronous:
            return self._next_async(deadline_of(timeout))
        item = self._client._block(self._take, deadline_of(timeout))
        if item is _END:
            raise StopIteration
        return item

    async def _next_async(self, deadline: float | None) -> T:
        item: T = await run_async(self._take(deadline))
        if item is _END:
            raise StopAsyncIteration
        return item

    def close(self) -> None:
        """End the stream: the generator is closed where it stands, and what was not read is dropped."""
        with self._lock:
            self._closed = True
        self._items.clear()
        self._end()
        if self._driving is not None:
            self._driving.release()

    async def aclose(self) -> None:
        """:meth:`close`, for who expects an asynchronous generator."""
        self.close()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    # Steps

    async def _take(self, deadline: float | None) -> Any:
        """The next item, or that there is none."""
        if self._busy:
            raise UserError(f"{self!r} is being iterated over by somebody else already")
        self._busy = True
        try:
            while not self._items and not self._over:
                await self._fetch(deadline)
        finally:
            self._busy = False
        if self._closed:
            raise ClosedError(f"{self!r} was closed")
        if not self._items:
            return _END
        parts = self._items.popleft()
        self._read += 1
        if not self._over and len(self._items) <= self._buffersize // 2:
            self._ask()
        return load_parts(parts)

    async def _fetch(self, deadline: float | None) -> None:
        """Wait for more items, or for the end."""
        if self._line is None:
            await self._session.obtain([self._opening], deadline=deadline)
            self._raise_error_of(self._opening)
            self._begin()
        asked = self._ask()
        while not asked.done():
            await self._wait_for(asked, deadline)
        self._asked = None
        self._raise_error_of(asked)
        over, items = asked._result
        self._items.extend(items)
        if over:
            self._end()

    async def _wait_for(self, asked: _Batch, deadline: float | None) -> None:
        look = monotonic() + SILENCE
        try:
            await self._session.obtain([asked], deadline=look if deadline is None else min(look, deadline))
        except FutureTimeoutError:
            if deadline is not None and monotonic() >= deadline:
                raise
            places = await self._session.ask("who_has", [self.key], deadline)
            if not places.get(self.key):
                self._end()
                raise asked._undone(asked._line.ident, "the scheduler does not know that worker any more") from None

    def _raise_error_of(self, future: Future[Any]) -> None:
        error = future._error()
        if error is None:
            return
        self._end()
        if not self._closed:
            self._session.check()  # its end is the reason, if it has ended
        try:
            raise ClosedError(f"{self!r} was closed") if self._closed else error
        finally:
            del error, future  # they would tie the error, its traceback and this frame into a circle

    # Parts of steps

    def _end(self) -> None:
        """Nothing more is to come: the worker need not keep anything."""
        self._over = True
        self._opening.release()

    def _begin(self) -> None:
        """Have the generator run, now that it is known where."""
        with self._lock:
            if self._line is not None or self._closed or not self._opening._succeeded():
                return
            self._opening._unpack()
            source = self._opening._result
            if source is None:
                return
            session = self._session
            options = {**(self._options or {}), "workers": [source.worker]}
            row = self._calls.one(drive, (self.key,), {}, f"run-{self.key}", False)
            self._driving = Future(row[0], session)
            session.submit_one(self._driving, row, options)
            self._line = session.fetcher.lines.to(source.worker, source.address)
        self._ask()

    def _ask(self) -> _Batch:
        with self._lock:
            asked = self._asked
            line = self._line
            assert line is not None
            if asked is not None:
                return asked
            asked = self._asked = _Batch(self.key, line)
            line.call(asked, TOPIC, self.key, pack_value(self._read))
            return asked


class _Batch(CallFuture["tuple[bool, list[list[Any]]]"]):
    """Some items on their way: whether they are the last ones, and the buffers of each."""

    def _unpack(self) -> None:
        held = self._held
        if not isinstance(held, Parts):
            super()._unpack()
            return
        head, *buffers = held.buffers
        over, sizes = _head_of(head)
        rest = iter(buffers)
        self._result = over, [list(itertools.islice(rest, size)) for size in sizes]
        self._held = None

    def _undone(self, worker: str, reason: str) -> BaseException:
        return StreamLostError(self.key, worker, reason)


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    call = method()
    if call is not None:
        call()
