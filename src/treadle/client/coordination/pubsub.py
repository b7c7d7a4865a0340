"""Messages to everybody who listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from treadle.client.client import Client
from treadle.client.coordination.base import Named, check_count, find_client
from treadle.client.latch import deadline_of, run_async
from treadle.client.session import Session
from treadle.client.topics import Feed
from treadle.client.transport import pack_shared
from treadle.errors import ClosedError, UserError
from treadle.wire.limits import ITEM_BYTES

__all__ = ["Pub", "Sub"]


class Pub(Named):
    """Sends messages to all who have subscribed to a name at that moment.

    :param name: of the topic.
    :param client: default: in a task that of its worker, elsewhere the default client.
    """

    _kind = "topic"

    def __init__(self, name: str, client: Client | None = None) -> None:
        super().__init__(name, client)

    def put(self, msg: Any, timeout: float | None = None) -> Any:
        """Send a message. When this returns, it is on its way to the subscribers.

        :param msg: anything that can be pickled into 64 KiB, without futures in it.
        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        return self._face(self._put, msg, timeout)

    async def _put(self, client: Client, msg: Any, timeout: float | None) -> None:
        session = client.session
        data, keys = pack_shared(msg, session, "the message", ITEM_BYTES)
        if keys:
            raise UserError("a message cannot have futures in it, because nobody would keep their results; use a Queue")
        await session.ask("topic.send", (_topic(self.name), data, False), deadline_of(timeout))


class Sub(Named):
    """Receives the messages that a :class:`Pub` of the same name sends from now on.

    A subscriber that does not read misses messages, the oldest first; nobody waits for it. To iterate is to get one
    message after another, until the subscription or its client is closed. It ends with its client; :meth:`close`, the
    end of a ``with`` block, and the end of the object end it sooner.

    :param name: of the topic.
    :param client: default: in a task that of its worker, elsewhere the default client.
    :param buffer: how many messages are kept until they are read.
    """

    _kind = "topic"

    def __init__(self, name: str, client: Client | None = None, buffer: int = 1000) -> None:
        super().__init__(name, client)
        self._buffer = check_count("buffer", buffer, 1)
        self._feed = Feed(_topic(name), buffer)
        self._client = find_client(client)
        self._session: Session = self._client.session
        if self._client.asynchronous:
            self._feed.begin(self._session)
        else:
            self._client._face(self._feed.open, self._session)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, None, self._buffer)

    @property
    def missed(self) -> int:
        """How many messages came faster than they were read, and were dropped."""
        return self._feed.missed

    def get(self, timeout: float | None = None) -> Any:
        """The next message.

        :param timeout: wait no longer than this many seconds.
        :raises concurrent.futures.TimeoutError: there was none in time.
        :raises ClosedError: the subscription, or its client, is closed.
        """
        return self._client._face(self._get, timeout)

    async def _get(self, timeout: float | None = None) -> Any:
        return (await self._feed.read(timeout))[1]

    def close(self) -> None:
        """Receive nothing more. What has arrived can still be read."""
        if not self._feed.closed:
            self._feed.close(self._session)

    def __enter__(self) -> Sub:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Sub:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        if self._client.asynchronous:
            raise UserError("with an asynchronous client, write `async for`")
        while True:
            try:
                message = self.get()
            except ClosedError:
                return
            yield message

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            try:
                message = await run_async(self._get())
            except ClosedError:
                return
            yield message


def _topic(name: str) -> str:
    """Messages are told from events by the names of their topics."""
    return f"message:{name}"
