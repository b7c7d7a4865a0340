"""What the tests of connections share: event loops, and a listener that answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import uvloop

from treadle.net.dial import dial
from treadle.net.link import Link
from treadle.net.listener import Listener
from treadle.wire.frames import AFTER_HANDSHAKE, BEFORE_HANDSHAKE, FrameReader, Limits
from treadle.wire.handshake import Dialing, Hello
from treadle.wire.messages import FROM_CLIENT, FROM_SCHEDULER_TO_CLIENT, FROM_SUPERVISOR

TOKEN = b"the token of these tests"
INCARNATION = "0123456789abcdef" * 2

NewLoop: TypeAlias = "Callable[[], asyncio.AbstractEventLoop]"

LOOPS: dict[str, NewLoop] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run(new_loop: NewLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run a test in a loop of its own, which is tidy in the end."""
    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(main, 60))
    finally:
        loop.run_until_complete(_tidy())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _tidy() -> None:
    """End what the test has left running."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Record:
    """What came over one link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.messages: list[Any] = []
        self.buffers: list[list[memoryview]] = []
        self.closed: list[str] = []
        self._changed = asyncio.Event()

    def start(self) -> Record:
        self.link.start(self._on_messages, self._on_closed)
        return self

    def _on_messages(self, messages: list[Any], buffers: list[memoryview]) -> None:
        self.messages.extend(messages)
        self.buffers.append(buffers)
        self._changed.set()

    def _on_closed(self, reason: str) -> None:
        self.closed.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that came, or the end of the link, makes ``condition`` true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_messages(self, count: int) -> list[Any]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def until_closed(self) -> str:
        await self.until(lambda: bool(self.closed))
        return self.closed[0]


class Host:
    """A listener that keeps what comes over its links, and answers every question with itself."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.admit: Callable[[Hello, str], dict[str, Any]] = lambda hello, peer: {"heartbeat": 1.0}
        self._arrived = asyncio.Event()
        self.listener: Listener

    @classmethod
    async def open(
        cls, host: str = "127.0.0.1", port: int = 0, limits: Limits = AFTER_HANDSHAKE, timeout: float = 30.0
    ) -> Host:
        self = cls()
        self.listener = await Listener.listen(
            host,
            port,
            token=TOKEN,
            incarnation=INCARNATION,
            decoders={"client": FROM_CLIENT, "supervisor": FROM_SUPERVISOR},
            admit=lambda hello, peer: self.admit(hello, peer),
            connected=self._connected,
            limits=limits,
            timeout=timeout,
        )
        return self

    @property
    def address(self) -> str:
        return self.listener.address

    def _connected(self, link: Link) -> None:
        record = Record(link)
        self.records.append(record)
        self._arrived.set()

        def on_messages(messages: list[Any], buffers: list[memoryview]) -> None:
            record._on_messages(messages, buffers)
            for message in messages:
                if hasattr(message, "topic"):
                    link.send([("answer", message.id, True, message.argument)], buffers)

        link.start(on_messages, record._on_closed)

    async def links(self, count: int) -> list[Record]:
        """The records of the links, once there are that many."""
        while len(self.records) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return self.records

    async def dial(self, ident: str = "", **options: Any) -> Record:
        """A link to it, started."""
        return Record(await dial_client(self.address, ident=ident, **options)).start()

    async def close(self, *records: Record) -> None:
        self.listener.close()
        for record in (*records, *self.records):
            record.link.close()
            await record.link.wait_closed()


async def dial_client(address: str, **options: Any) -> Link:
    arguments: dict[str, Any] = {
        "role": "client",
        "ident": "",
        "token": TOKEN,
        "details": {},
        "decoder": FROM_SCHEDULER_TO_CLIENT,
    }
    return await dial(address, **{**arguments, **options})


def shaken_hands(address: str, ident: str = "") -> socket.socket:
    """A plain blocking socket whose handshake as a client is done."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), 30)
    reader = FrameReader(BEFORE_HANDSHAKE)
    dialing = Dialing(TOKEN, "client", ident, {})
    sock.sendall(dialing.answer(read_frame(sock, reader)))
    dialing.finish(read_frame(sock, reader))
    return sock


def read_frame(sock: socket.socket, reader: FrameReader) -> memoryview:
    while True:
        frame = reader.take()
        if frame is not None:
            return frame[0]
        count = sock.recv_into(reader.space())
        assert count, "the other side closed the connection"
        reader.filled(count)
