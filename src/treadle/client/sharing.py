"""Methods of a client for what all clients of a cluster share: datasets and events."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from treadle.client.face import Face
from treadle.client.latch import deadline_of, run_async, run_blocking
from treadle.client.topics import Feed
from treadle.client.transport import pack_shared, unpack_shared
from treadle.errors import ClosedError, ConnectError, UserError
from treadle.wire.limits import DATASET_BYTES, ITEM_BYTES
from treadle.wire.values import unpack_value

__all__ = ["Sharing", "check_name"]

log = logging.getLogger("treadle.client")

#: How many events wait for a handler before it misses some.
BUFFER: Final = 10_000

_MISSING: Any = object()

#: Is called with an event: when it was, in seconds since the epoch, and what was logged.
Handler = Callable[[tuple[float, Any]], Any]


class Sharing(Face):
    """Datasets and events."""

    # Datasets

    def publish_dataset(
        self, *args: Any, name: str | None = None, override: bool = False, timeout: float | None = None, **values: Any
    ) -> Any:
        """Give values names by which all clients of the cluster find them, also when this client is gone.

        >>> client.publish_dataset(squares=client.map(square, range(10)))

        The results of futures in them, at any depth, are kept for as long as they are published. So a delayed value
        or a collection that was persisted can be published too. A value itself may have 16 MiB.

        :param args: one value, for a ``name`` that is no Python identifier.
        :param override: replace what has the name already.
        :param timeout: how many seconds to wait for the scheduler's answer.
        :raises UserError: there is such a name already, or a value is too big, or a future is another client's.
        """
        if len(args) != (name is not None):
            raise TypeError(
                "publish_dataset takes name=value…, or one value and its name: publish_dataset(value, name=…)"
            )
        named = {**values, **({} if name is None else {name: args[0]})}
        for each in named:
            check_name(each)
        if not named:
            raise TypeError("publish_dataset needs something to publish: publish_dataset(name=value)")
        return self._face(self._publish, named, override, timeout)

    async def _publish(self, named: dict[str, Any], override: bool, timeout: float | None) -> None:
        session = self.session
        rows = [
            (name, *pack_shared(value, session, f"the dataset {name!r}", DATASET_BYTES), override)
            for name, value in named.items()
        ]
        await session.ask("dataset.publish", rows, deadline_of(timeout))

    def get_dataset(self, name: str, default: Any = _MISSING, timeout: float | None = None) -> Any:
        """What was published under a name. The futures in it are those of this client.

        :param default: is returned if there is nothing of that name.
        :param timeout: how many seconds to wait for the scheduler's answer.
        :raises KeyError: there is nothing of that name, and no default.
        """
        check_name(name)
        return self._face(self._get_dataset, name, default, timeout)

    async def _get_dataset(self, name: str, default: Any, timeout: float | None) -> Any:
        session = self.session
        number = session.count()
        found = await session.ask("dataset.get", name, deadline_of(timeout), number)
        if found is None:
            if default is _MISSING:
                raise KeyError(f"there is no dataset {name!r}; list_datasets() names those that there are")
            return default
        data, keys = found
        try:
            return unpack_shared(data, keys, session)
        finally:
            if keys:
                session.post("ask", session.count(), "dataset.arrived", number)

    def list_datasets(self, timeout: float | None = None) -> Any:
        """The names of all datasets, sorted.

        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        return self._face(self._list_datasets, timeout)

    async def _list_datasets(self, timeout: float | None) -> list[str]:
        names: list[str] = await self._ask("dataset.list", None, deadline_of(timeout))
        return names

    def unpublish_dataset(self, name: str, timeout: float | None = None) -> Any:
        """Take a name back. Results that nobody else needs are dropped.

        :param timeout: how many seconds to wait for the scheduler's answer.
        :raises UserError: there is nothing of that name.
        """
        check_name(name)
        return self._asking("dataset.unpublish", name, timeout)

    # Events

    def log_event(self, topic: str, msg: Any, timeout: float | None = None) -> Any:
        """Record that something has happened, for :meth:`get_events` and those who have subscribed to the topic.

        The scheduler keeps the last 10,000 events of each topic, or 16 MiB of them.

        :param msg: anything that can be pickled into 64 KiB.
        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        check_name(topic, "a topic")
        return self._face(self._log_event, topic, msg, timeout)

    async def _log_event(self, topic: str, msg: Any, timeout: float | None) -> None:
        session = self.session
        data, keys = pack_shared(msg, session, f"the event of {topic!r}", ITEM_BYTES)
        if keys:
            raise UserError("an event cannot have futures in it; publish them as a dataset, or put them into a queue")
        await session.ask("topic.send", (topic, data, True), deadline_of(timeout))

    def get_events(self, topic: str | None = None, timeout: float | None = None) -> Any:
        """The events that were logged: a list of pairs, when (in seconds since the epoch) and what.

        :param topic: None: a dict with such a list for each topic.
        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        if topic is not None:
            check_name(topic, "a topic")
        return self._face(self._get_events, topic, timeout)

    async def _get_events(self, topic: str | None, timeout: float | None) -> Any:
        found = await self._ask("topic.history", topic, deadline_of(timeout))
        events = {name: [(when, unpack_value(data)) for _, when, data in rows] for name, rows in found.items()}
        return events if topic is None else events.get(topic, [])

    def subscribe_topic(self, topic: str, handler: Handler, timeout: float | None = None) -> Any:
        """Have a function called with each event that is logged from now on: a pair, when and what.

        It is called by a thread of its own, one event after another, so that it may take its time and use this
        client. (With an asynchronous client: in the event loop, and it may be a coroutine function.) What it raises
        is logged. The subscription ends with the client.

        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        check_name(topic, "a topic")
        if not callable(handler):
            raise TypeError(f"the handler must be a function of one event, not {handler!r:.200}")
        return self._face(self._subscribe, topic, handler, timeout)

    async def _subscribe(self, topic: str, handler: Handler, timeout: float | None) -> None:
        session = self.session
        feed = Feed(topic, BUFFER)
        await feed.open(session, deadline_of(timeout))
        _handled(self).setdefault(topic, []).append(feed)
        if self.asynchronous:
            session.start(lambda: _handle_async(feed, handler))
        else:
            name = f"treadle-events-{topic}"
            threading.Thread(target=_handle, args=(feed, handler), name=name, daemon=True).start()

    def unsubscribe_topic(self, topic: str) -> None:
        """Call the handlers of a topic no more. What is on its way is dropped.

        :raises UserError: there is no handler of this topic.
        """
        check_name(topic, "a topic")
        feeds = _handled(self).pop(topic, None)
        if feeds is None:
            raise UserError(f"this client has not subscribed to the topic {topic!r}")
        for feed in feeds:
            feed.close(self.session)


def _handled(client: Sharing) -> dict[str, list[Feed]]:
    """The feeds of a client's handlers, by topic."""
    feeds: dict[str, list[Feed]] = client.__dict__.setdefault("_feeds", {})
    return feeds


def _handle(feed: Feed, handler: Handler) -> None:
    while True:
        try:
            event = run_blocking(feed.read)
        except (ClosedError, ConnectError):
            return
        try:
            handler(event)
        except Exception:
            _complain(feed, handler)


async def _handle_async(feed: Feed, handler: Handler) -> None:
    while True:
        try:
            event = await run_async(feed.read())
        except (ClosedError, ConnectError):
            return
        try:
            made = handler(event)
            if inspect.isawaitable(made):
                await made
        except Exception:
            _complain(feed, handler)


def _complain(feed: Feed, handler: Handler) -> None:
    log.exception("the handler %r of the topic %r has raised; it will be called again", handler, feed.topic)


def check_name(name: Any, what: str = "the name of a dataset") -> None:
    """:raises TypeError: it is no str, or an empty one."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what} is a str that is not empty, not {name!r:.200}")
