"""A scheduler for tests of the client: it does nothing but what the test says."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Semaphore
from typing import Any, TypeVar

from treadle import Client
from treadle.client.background import BackgroundLoop
from treadle.net.link import Link
from treadle.net.listener import Listener
from treadle.wire import messages
from treadle.wire.values import dump_parts, pack_value

__all__ = ["FakeCluster"]

T = TypeVar("T")

#: Seconds after which something that should have happened at once will not happen any more.
PATIENCE = 30.0


class FakeCluster:
    """Listens as a scheduler does, and as the data port of one worker. Is itself what a ``Client`` can be given."""

    token = b"token of a fake cluster"

    def __init__(self) -> None:
        self.received: SimpleQueue[Any] = SimpleQueue()
        #: What the worker holds, and the keys that it was asked for.
        self.store: dict[str, Any] = {}
        self.asked: list[str] = []
        #: Whether fences are sent back as soon as they come.
        self.prompt = True
        self.background = BackgroundLoop("fake-cluster")
        self._links: list[Link] = []
        self._linked = Semaphore(0)
        self._listeners: list[Listener] = []
        self.address = self._listen("client", messages.FROM_CLIENT, self._client)
        self.worker = self._listen("peer", messages.FROM_PEER, self._peer)

    def _listen(self, role: str, decoder: Any, connected: Callable[[Link], None]) -> str:
        async def listen() -> Listener:
            return await Listener.listen(
                "127.0.0.1",
                0,
                token=self.token,
                incarnation="0" * 32,
                decoders={role: decoder},
                admit=lambda hello, peer: {},
                connected=connected,
            )

        listener = self.background.run(listen())
        self._listeners.append(listener)
        return listener.address

    def _client(self, link: Link) -> None:
        self._links.append(link)
        self._linked.release()

        def receive(batch: list[Any], buffers: list[memoryview]) -> None:
            for message in batch:
                if self.prompt and type(message) is messages.Fence:
                    link.send([("fence", message.number)])
                self.received.put(message)

        link.start(receive, lambda reason: self.received.put(reason))

    def _peer(self, link: Link) -> None:
        def receive(batch: list[Any], buffers: list[memoryview]) -> None:
            (message,) = batch
            if type(message) is messages.Store:
                self.received.put(message)
                link.send([("stored", message.id, [(key, 100) for key, _ in message.rows])])
                return
            self.asked.extend(message.keys)
            parts = {key: dump_parts(self.store[key]) if key in self.store else [] for key in message.keys}
            rows = [(key, len(found)) for key, found in parts.items()]
            link.send([("data", message.id, rows)], [part for found in parts.values() for part in found])

        link.start(receive, lambda reason: None)

    def client(self, **options: Any) -> Client:
        client = Client(self, set_as_default=False, **options)
        if not client.asynchronous:
            self._linked.acquire()  # it may be told so a moment after the client is
        return client

    def send(self, *batch: tuple[Any, ...]) -> None:
        """Say something to the client that came last."""
        self._links[-1].send(list(batch))

    def done(self, *keys: str, value: Any = None) -> None:
        """Small results."""
        self.send(("done", [(key, 10, pack_value(value), "w", self.worker) for key in keys]))

    def placed(self, *keys: str, address: str = "") -> None:
        """Results that are to be fetched."""
        self.send(("done", [(key, 10_000, None, "w", address or self.worker) for key in keys]))

    def expect(self, kind: type[T]) -> T:
        """The next message of a kind; those before it are skipped."""
        while True:
            message = self.received.get(timeout=PATIENCE)
            if isinstance(message, kind):
                return message

    def unread(self) -> list[Any]:
        """What has come and was not looked at."""
        found = []
        while not self.received.empty():
            found.append(self.received.get())
        return found

    def lose(self) -> None:
        """Close the connection to the client that came last."""
        self._links[-1].close("the test wants it so")

    def close(self) -> None:
        async def close() -> None:
            for listener in self._listeners:
                listener.close()
            for link in self._links:
                link.close()

        self.background.run(close())
        self.background.stop()
