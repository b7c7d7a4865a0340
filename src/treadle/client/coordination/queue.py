"""Queues between the processes of a cluster, whose items survive the death of whoever works on them."""

from __future__ import annotations

import concurrent.futures
import queue
from typing import Any, Final

from treadle.client.client import Client
from treadle.client.coordination.base import Named, check_count
from treadle.client.coordination.leases import Lease, ask_for, give_back
from treadle.client.latch import deadline_of
from treadle.client.session import Session
from treadle.client.transport import pack_shared, unpack_shared
from treadle.core.coordination import BUSY, CLOSED, GRANTED
from treadle.errors import ClosedError, LeaseLostError
from treadle.wire.limits import ITEM_BYTES

__all__ = ["Empty", "Full", "ItemLease", "Queue"]

#: More items than any queue has.
ALL: Final = 2**31


class Empty(queue.Empty, concurrent.futures.TimeoutError):
    """There was no item in time."""


class Full(queue.Full, concurrent.futures.TimeoutError):
    """There was no place for an item in time."""


class Queue(Named):
    """A queue of the whole cluster: first in, first out.

    An item is anything that can be pickled into at most 64 KiB; futures may be in it at any depth, and their results
    are kept meanwhile. :meth:`get` takes an item for good. :meth:`lease` takes it for the time of a ``with`` block:
    if the block raises, or its process dies, the item goes back to the front, and another one gets it.

    What was put stays on the scheduler until it was taken, whatever happens to the process that has put it.

    :param name: queues of the same name are the same one. Without it: a new one.
    :param maxsize: how many items it may have; then :meth:`put` waits for a place. 0: whatever others have said; any
        number if nobody has.
    :param client: default: in a task that of its worker, elsewhere the default client.
    """

    _kind = "queue"

    def __init__(self, name: str | None = None, maxsize: int = 0, client: Client | None = None) -> None:
        super().__init__(name, client)
        self.maxsize = check_count("maxsize", maxsize, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.maxsize)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> Any:
        """Add an item at the end. When this returns the scheduler has it.

        :param block: wait for a place if there is none.
        :param timeout: wait no longer than this many seconds.
        :raises Full: there was no place (in time). It is a ``queue.Full`` and a ``concurrent.futures.TimeoutError``.
        :raises ClosedError: the queue is closed.
        :raises UserError: the item is too big.
        """
        return self._face(self._put, item, block, timeout)

    async def _put(self, client: Client, item: Any, block: bool, timeout: float | None) -> None:
        session = client.session
        deadline = deadline_of(timeout)
        data, keys = pack_shared(item, session, "the item", ITEM_BYTES)
        try:
            how = await self._send(session, data, keys, 0, deadline)
            while block and how not in (GRANTED, CLOSED):
                place = await ask_for(session, "queue.reserve", (self.name, self.maxsize), deadline)
                if isinstance(place, str):
                    how = place
                    break
                how = await self._fill(place, data, keys, deadline)
        except concurrent.futures.TimeoutError:
            how = BUSY
        if how == CLOSED:
            raise ClosedError(f"{self!r} is closed: nothing can be put into it")
        if how != GRANTED:
            raise Full(f"there was no place in {self!r}{'' if timeout is None else f' within {timeout} seconds'}")

    async def _send(self, session: Session, data: bytes, keys: list[str], place: int, deadline: float | None) -> str:
        argument = (self.name, self.maxsize, data, keys, place)
        how: str = (await session.ask("queue.put", argument, deadline))[0]
        return how

    async def _fill(self, place: Lease, data: bytes, keys: list[str], deadline: float | None) -> str:
        """Put an item into a place that was reserved."""
        try:
            how = await self._send(place.session, data, keys, place.number, deadline)
        except BaseException:
            await give_back(place, "", quiet=True)
            raise
        place.end()
        return how

    def get(self, block: bool = True, timeout: float | None = None, batch: bool | int = False) -> Any:
        """Take the first item, for good: no other call of ``get`` returns it.

        :param block: wait for an item if there is none.
        :param timeout: wait no longer than this many seconds.
        :param batch: a number: a list of the first items, at most so many and at least one. True: all that there are,
            without waiting.
        :raises Empty: there was no item (in time). It is a ``queue.Empty`` and a ``concurrent.futures.TimeoutError``.
        :raises ClosedError: the queue is closed, and there is nothing left in it.
        """
        count = ALL if batch is True else 1 if batch is False else check_count("batch", batch, 1)
        return self._face(self._get, count, block and batch is not True, timeout, batch is not False)

    async def _get(self, client: Client, count: int, block: bool, timeout: float | None, many: bool) -> Any:
        deadline = deadline_of(timeout)
        while True:
            try:
                lease = await self._take(client, count, block, deadline)
            except Empty:
                if count == ALL:
                    return []
                raise
            values = _read(lease)
            try:
                await give_back(lease, repr(self), consumed=True)
            except LeaseLostError:
                continue  # this process was stopped just now, and somebody else has them
            except BaseException:
                lease.session.post("withdraw", lease.number)  # nobody will get to see them
                raise
            return values if many else values[0]

    async def _take(self, client: Client, count: int, block: bool, deadline: float | None) -> Lease:
        argument = (self.name, self.maxsize, count, block)
        try:
            lease = await ask_for(client.session, "queue.take", argument, deadline)
        except concurrent.futures.TimeoutError:
            lease = BUSY
        if lease == CLOSED:
            raise ClosedError(f"{self!r} is closed, and there is nothing left in it")
        if isinstance(lease, str):
            raise Empty(f"there was no item in {self!r}{' in time' if block else ''}")
        return lease

    def lease(self, timeout: float | None = None) -> ItemLease:
        """The first item, for the time of a ``with`` (or ``async with``) block::

            with queue.lease() as item:
                work_on(item)

        If the block ends well, the item is taken for good. If it raises, or its process dies or is silent for longer
        than a lease lasts, the item goes back to the front of the queue.

        :param timeout: wait no longer than this many seconds for an item.
        :raises Empty: there was no item in time, at the beginning of the block.
        :raises LeaseLostError: the item was taken away meanwhile, at the end of the block.
        """
        return ItemLease(self, timeout)

    def qsize(self, timeout: float | None = None) -> Any:
        """How many items there are; those that are leased do not count.

        :param timeout: how many seconds to wait for the scheduler's answer; so it is below.
        """
        return self._face(self._qsize, timeout)

    async def _qsize(self, client: Client, timeout: float | None) -> int:
        return (await self._size(client, timeout))[0]

    async def _size(self, client: Client, timeout: float | None) -> tuple[int, int]:
        size, limit = await client.session.ask("queue.size", self.name, deadline_of(timeout))
        return size, limit or self.maxsize

    def empty(self, timeout: float | None = None) -> Any:
        """Whether there is no item."""
        return self._face(self._empty, timeout)

    async def _empty(self, client: Client, timeout: float | None) -> bool:
        return (await self._size(client, timeout))[0] == 0

    def full(self, timeout: float | None = None) -> Any:
        """Whether there is no place for one more item."""
        return self._face(self._full, timeout)

    async def _full(self, client: Client, timeout: float | None) -> bool:
        size, limit = await self._size(client, timeout)
        return 0 < limit <= size

    def close(self, timeout: float | None = None) -> Any:
        """Let nothing more be put into it. Who waits for an item gets a :class:`ClosedError` once it is empty."""
        return self._face(self._close, timeout)

    async def _close(self, client: Client, timeout: float | None) -> None:
        await client.session.ask("queue.close", self.name, deadline_of(timeout))


class ItemLease:
    """An item of a queue, in a ``with`` block; see :meth:`Queue.lease`."""

    def __init__(self, source: Queue, timeout: float | None) -> None:
        self._queue = source
        self._timeout = timeout
        self._lease: Lease | None = None

    def __repr__(self) -> str:
        return f"<ItemLease of {self._queue!r}, token {self.token}>"

    @property
    def token(self) -> int | None:
        """Bigger than that of any lease before, also of this item; None outside of the block."""
        return None if self._lease is None else self._lease.token

    async def _begin(self, client: Client) -> Any:
        if self._lease is not None:
            raise RuntimeError("this lease is in use already; make another one for another block: queue.lease()")
        lease = await self._queue._take(client, 1, True, deadline_of(self._timeout))
        try:
            value = _read(lease)[0]
        except BaseException:
            await give_back(lease, "", quiet=True)
            raise
        self._lease = lease
        return value

    async def _end(self, client: Client, raised: bool) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await give_back(lease, f"an item of {self._queue!r}", consumed=not raised)
            except LeaseLostError:
                if not raised:
                    raise

    def __enter__(self) -> Any:
        return self._queue._enter(self._begin)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._queue._enter(self._end, kind is not None)

    async def __aenter__(self) -> Any:
        return await self._queue._enter_async(self._begin)

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        await self._queue._enter_async(self._end, kind is not None)


def _read(lease: Lease) -> list[Any]:
    return [unpack_shared(data, keys, lease.session) for data, keys in lease.rows]
