"""Generators that run in this process, and whose items are read by a client while they do.

Two tasks make a stream. The first one calls the user's function, and its result is an :class:`Outlet`, which lives as
long as somebody wants it. The second one runs what the function has returned, in a slot like any other task; it waits,
and gives up its thread, while as many items are unread as there may be. The client asks for items at the data port.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from threading import Lock
from typing import Any, Final, NamedTuple

import msgspec

from treadle.client.inside import current
from treadle.client.latch import Latch
from treadle.errors import StreamLostError, UserError
from treadle.net.link import Link
from treadle.wire.failures import PackedError
from treadle.wire.functions import display_name
from treadle.wire.messages import Call
from treadle.wire.parcels import pack_parcel
from treadle.worker.calling import CallServer
from treadle.worker.calls import failure, refusal

__all__ = ["TOPIC", "Opening", "Outlet", "Source", "drive", "serve"]

#: Of the calls that ask for items. Their argument is how many items were read so far.
TOPIC: Final = "stream"
#: How many buffers one answer has at most, unless it is a single item.
MAX_BUFFERS: Final = 16384

_encode = msgspec.msgpack.Encoder().encode
_count_of = msgspec.msgpack.Decoder(int).decode

#: Why nothing more comes, and the buffers of an answer: its head, and the items.
Answer = tuple["PackedError | None", list[Any]]


class Source(NamedTuple):
    """Where the items of a stream are to be had: what an :class:`Outlet` is pickled as."""

    worker: str
    address: str


class Opening:
    """The task that opens a stream."""

    def __init__(self, func: Callable[..., Any], buffersize: int) -> None:
        self.func: Final = func
        self.buffersize: Final = buffersize
        self.__name__ = display_name(func)

    def __repr__(self) -> str:
        return f"<Opening of {self.__name__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Outlet:
        made = self.func(*args, **kwargs)
        if inspect.iscoroutine(made):
            made.close()
        elif hasattr(made, "__aiter__"):
            return Outlet(made.__aiter__(), self.buffersize)
        elif hasattr(made, "__iter__"):
            return Outlet(iter(made), self.buffersize)
        raise UserError(
            f"a stream needs a function that yields, or that returns something to iterate over; {self.__name__!r} has "
            f"returned a {type(made).__name__}. Call it by client.submit."
        )


class Outlet:
    """What keeps a stream open."""

    def __init__(self, iterator: Any, buffersize: int) -> None:
        task = current()
        assert task is not None
        self._key = task.key
        self._source = Source(task.worker.ident, task.worker.address)
        self._producer = _producers[self._key] = Producer(iterator, buffersize)

    def __repr__(self) -> str:
        return f"<Outlet of {self._key!r}: {self._producer!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Source, tuple(self._source)

    def __del__(self) -> None:
        producer = getattr(self, "_producer", None)
        if producer is not None:
            _producers.pop(self._key, None)
            producer.close()


class Producer:
    """The items of one stream that were not sent yet."""

    def __init__(self, iterator: Any, buffersize: int) -> None:
        self._iterator = iterator
        self._buffersize = buffersize
        self._lock: Final = Lock()
        #: The buffers of each item.
        self._items: deque[list[Any]] = deque()
        self._made = self._read = 0
        self._closed = self._over = False
        self._error: PackedError | None = None
        #: Open if there is room for another item.
        self._room = Latch(self._lock)
        #: Who has asked for items when there were none.
        self._reader: tuple[Link, int] | None = None

    def __repr__(self) -> str:
        return f"<Producer, {self._made} items made, {self._read} read{', closed' if self._closed else ''}>"

    # For the task that runs the iterator

    def run(self) -> Any:
        """Run it to its end, or until the stream is closed. Returns a coroutine if that is to be awaited."""
        if hasattr(self._iterator, "__anext__"):
            return self._run_async(self._iterator)
        return self._run(self._iterator)

    def _run(self, iterator: Iterator[Any]) -> None:
        error: PackedError | None = None
        try:
            while True:
                self._wait_for().block()
                if self._closed:
                    break
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                if not self._put(item):
                    break
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as raised:
            error = failure(raised)
        self._end(error)

    async def _run_async(self, iterator: AsyncIterator[Any]) -> None:
        error: PackedError | None = None
        try:
            try:
                while True:
                    await self._wait_for().pause()
                    if self._closed:
                        break
                    try:
                        item = await iterator.__anext__()
                    except StopAsyncIteration:
                        break
                    if not self._put(item):
                        break
            finally:
                close = getattr(iterator, "aclose", None)
                if close is not None:
                    await close()
        except BaseException as raised:
            error = failure(raised)
        self._end(error)

    def _wait_for(self) -> Latch:
        """Opens when the next item may be made."""
        with self._lock:
            self._room = latch = Latch(self._lock)
            self._make_room()
        return latch

    def _make_room(self) -> None:
        if self._closed or self._made - self._read < self._buffersize:
            self._room.open()

    def _put(self, item: Any) -> bool:
        """Take an item. False if it cannot leave this process: then the stream ends with the reason."""
        try:
            packed, parts = pack_parcel(item)
        except Exception as reason:
            self._error = refusal(item, reason)
            return False
        with self._lock:
            self._made += 1
            if not self._closed:
                self._items.append(parts or [packed])
        self._tell()
        return True

    def _end(self, error: PackedError | None) -> None:
        with self._lock:
            self._over = True
            self._error = self._error or error
        self._tell()

    def _tell(self) -> None:
        """Answer who waits for something, once there is something."""
        with self._lock:
            reader, self._reader = self._reader, None
            answer = None if reader is None else self._take()
        if reader is not None and answer is not None:
            send(*reader, answer)

    # For who reads

    def read(self, link: Link, number: int, read: int) -> None:
        """Answer a call with the next items, as soon as there are any.

        :param read: how many items are not in anybody's way any more.
        """
        with self._lock:
            self._read = read
            self._make_room()
            ready = self._items or self._over or self._closed
            self._reader = None if ready else (link, number)
            answer = self._take() if ready else None
        if answer is not None:
            send(link, number, answer)

    def _take(self) -> Answer:
        items = self._items
        sizes: list[int] = []
        buffers: list[Any] = []
        while items and len(buffers) + len(items[0]) <= max(MAX_BUFFERS, len(items[0])):
            parts = items.popleft()
            sizes.append(len(parts))
            buffers.extend(parts)
        over = (self._over and not items) or self._closed
        if over and self._error is not None:
            if not sizes:
                return self._error, []
            over = False  # first what came before the error
        return None, [_encode((over, sizes)), *buffers]

    def close(self) -> None:
        """Nobody wants more. The iterator is closed by the task that runs it."""
        with self._lock:
            self._closed = True
            self._items.clear()
            self._room.open()
        self._tell()


#: The streams that are open in this process, by the keys of the tasks that have opened them.
_producers: Final[dict[str, Producer]] = {}


def drive(key: str) -> Any:
    """The task that runs a stream."""
    producer = _producers.get(key)
    return None if producer is None else producer.run()


def serve(calls: CallServer) -> None:
    """Answer who asks for items."""
    calls.register(TOPIC, _receive)


def _receive(link: Link, call: Call, parts: list[memoryview]) -> None:
    producer = _producers.get(call.target)
    if producer is None:
        error = StreamLostError(call.target, link.local, "it was closed, or its worker has restarted")
        send(link, call.id, (failure(error), []))
    else:
        producer.read(link, call.id, _count_of(call.packed))


def send(link: Link, number: int, answer: Answer) -> None:
    error, buffers = answer
    link.send([("reply", number, error, len(buffers))], buffers)
