"""Calls that are made as their results are asked for, so that their arguments may go on for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from operator import index
from typing import Any, Generic, TypeVar

from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.latch import run_async

__all__ = ["Buffer", "LazyMap", "align", "check_buffersize"]

T = TypeVar("T")
F = TypeVar("F", bound="Future[Any]")

_MISSING: Any = object()


def check_buffersize(buffersize: Any) -> int:
    """:raises TypeError: it is no whole number. :raises ValueError: it is less than 1."""
    try:
        size = index(buffersize)
    except TypeError:
        raise TypeError(f"buffersize must be a whole number or None, not {buffersize!r:.200}") from None
    if size < 1:
        raise ValueError(f"buffersize must be at least 1, or None for no limit, not {size}")
    return size


def align(iterables: Sequence[Iterable[Any]], strict: bool = False) -> Iterator[tuple[Any, ...]]:
    """The arguments of each call: the first items, the second, and so on, to the end of the shortest iterable.

    :param strict: all must have the same length.
    :raises ValueError: (while iterating) they have not.
    """
    return _aligned(iterables) if strict else zip(*iterables)


def _aligned(iterables: Sequence[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    for count, row in enumerate(zip_longest(*iterables, fillvalue=_MISSING)):
        ended = [place for place, item in enumerate(row, 1) if item is _MISSING]
        if ended:
            going = next(place for place in range(1, len(row) + 1) if place not in ended)
            raise ValueError(
                f"the iterables of map have unequal lengths: iterable {ended[0]} has {count} items, iterable {going} "
                "has more. Leave out strict=True to stop at the end of the shortest."
            )
        yield row


class Buffer(Generic[F]):
    """The calls that were submitted and whose futures were not taken yet, oldest first.

    What goes wrong with the next call (an iterable raises, or an argument cannot be sent) comes up after the calls
    before it.

    :param rows: the arguments of all calls.
    :param submit: makes one call.
    :param size: how many calls there are at most.
    """

    def __init__(self, rows: Iterator[tuple[Any, ...]], submit: Callable[[tuple[Any, ...]], F], size: int) -> None:
        self.waiting: deque[F] = deque()
        self._rows = rows
        self._submit = submit
        self._size = size
        self._ended = False
        self._error: Exception | None = None
        self._fill(size)

    def __repr__(self) -> str:
        return f"<Buffer of {len(self.waiting)} calls{', the last ones' if self._ended else ''}>"

    def _fill(self, size: int) -> None:
        while not self._ended and len(self.waiting) < size:
            try:
                row = next(self._rows, None)
                if row is not None:
                    self.waiting.append(self._submit(row))
                else:
                    self._ended = True
            except Exception as error:
                self._error = error
                self._ended = True

    def oldest(self) -> F | None:
        """The next future to wait for; None if there is none any more.

        :raises Exception: what went wrong with the next call.
        """
        if self.waiting:
            return self.waiting[0]
        error, self._error = self._error, None
        if error is None:
            return None
        try:
            raise error
        finally:
            del error  # see Future.result

    def take(self) -> F:
        """Make another call, and return the oldest one, which is done."""
        self._fill(self._size + 1)  # before the oldest is gone from here: an interrupt must not lose it
        return self.waiting.popleft()

    def end(self) -> list[F]:
        """Make no more calls. Returns those that were not taken."""
        self._ended = True
        self._error = None
        left = list(self.waiting)
        self.waiting.clear()
        return left


class LazyMap(Generic[T]):
    """The futures of ``client.map(…, buffersize=n)``, in the order of the items: for ``for``, or for ``async for``.

    A future is given when it is done. At any time at most ``n`` calls have been submitted and their futures not been
    given; with each future that is given another call is submitted. So an endless iterable takes constant memory. When
    an iterable raises, or a call cannot be sent, that error is raised after the futures of the calls before it.

    After :meth:`close`, or the end of its ``with`` block, calls that were not given are cancelled, and no more are
    made.
    """

    def __init__(self, client: Face, buffer: Buffer[Future[T]]) -> None:
        self._client = client
        self._buffer = buffer

    def __repr__(self) -> str:
        return f"<LazyMap, {len(self._buffer.waiting)} calls submitted>"

    def __iter__(self) -> Iterator[Future[T]]:
        return self

    def __next__(self) -> Future[T]:
        future = self._client._block(self._next)
        if future is None:
            raise StopIteration
        return future

    def __aiter__(self) -> AsyncIterator[Future[T]]:
        return self

    async def __anext__(self) -> Future[T]:
        future = await run_async(self._next())
        if future is None:
            raise StopAsyncIteration
        return future

    async def _next(self) -> Future[T] | None:
        """Steps: until the oldest call is done."""
        oldest = self._buffer.oldest()
        if oldest is None:
            return None
        await self._client.session.obtain([oldest], fetch=False)
        return self._buffer.take()

    def close(self) -> None:
        """Cancel the calls whose futures were not given."""
        left = [future for future in self._buffer.end() if not future.done()]
        if left:
            left[0]._session.cancel(left)

    def __enter__(self) -> LazyMap[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
