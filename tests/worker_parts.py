"""A scheduler for tests of workers: it says what it is told to, and remembers what it hears."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from treadle.net.dial import dial
from treadle.net.link import Link
from treadle.net.listener import Listener
from treadle.net.secret import new_token
from treadle.wire import messages
from treadle.wire.functions import pack_function
from treadle.wire.handshake import Hello
from treadle.wire.values import Slot, pack_call
from treadle.worker.supervisor import Supervisor

T = TypeVar("T")

#: Seconds in which everything must have happened, on the slowest of machines.
PATIENCE = 60.0


class FakeScheduler:
    """Listens for workers and supervisors. To be used on a running loop."""

    def __init__(self) -> None:
        self.token = new_token()
        self.refusal: Exception | None = None
        self.workers: asyncio.Queue[FakeWorker] = asyncio.Queue()
        self.deaths: asyncio.Queue[messages.Died] = asyncio.Queue()
        self.listener: Listener

    async def __aenter__(self) -> FakeScheduler:
        self.listener = await Listener.listen(
            "127.0.0.1",
            0,
            token=self.token,
            incarnation=secrets.token_hex(16),
            decoders={"worker": messages.FROM_WORKER, "supervisor": messages.FROM_SUPERVISOR},
            admit=self._admit,
            connected=self._connected,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listener.close()

    @property
    def address(self) -> str:
        return self.listener.address

    def _admit(self, hello: Hello, peer: str) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        return {"heartbeat": 0.01}

    def _connected(self, link: Link) -> None:
        if link.role == "worker":
            self.workers.put_nowait(FakeWorker(link))
        else:
            link.start(self._hear_of_deaths, lambda reason: None)

    def _hear_of_deaths(self, received: list[Any], buffers: list[memoryview]) -> None:
        for message in received:
            self.deaths.put_nowait(message)

    async def joined(self) -> FakeWorker:
        return await soon(self.workers.get())


class FakeWorker:
    """A worker as the scheduler sees it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.ident = link.ident
        self.address: str = link.details["address"]
        #: What it has said, heartbeats and logs apart.
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[messages.Heartbeat] = asyncio.Queue()
        self.logs: list[messages.Logs] = []
        self.ended: asyncio.Event = asyncio.Event()
        self._functions: dict[Any, int] = {}
        self._attempts = 0
        link.start(self._receive, lambda reason: self.ended.set())

    def _receive(self, received: list[Any], buffers: list[memoryview]) -> None:
        for message in received:
            if isinstance(message, messages.Logs):
                self.logs.append(message)
            else:
                (self.heartbeats if isinstance(message, messages.Heartbeat) else self.said).put_nowait(message)

    def send(self, *tuples: tuple[Any, ...]) -> None:
        self.link.send(list(tuples))

    def run(
        self,
        key: str,
        func: Callable[..., Any],
        *args: Any,
        deps: tuple[str, ...] = (),
        where: Any = (),
        want: bool = True,
    ) -> int:
        """Send one task. Arguments may be slots. Returns the number of the attempt."""
        self._attempts += 1
        fid = self.teach(func)
        row = (self._attempts, key, self._attempts, fid, pack_call(key, args), list(deps), int(want))
        self.send(("run", [row], list(where)))
        return self._attempts

    def teach(self, func: Callable[..., Any]) -> int:
        """The number of a function; it is sent first if it is new."""
        fid = self._functions.get(func)
        if fid is None:
            fid = self._functions[func] = len(self._functions) + 1
            packed = pack_function(func)
            self.send(("functions", [(fid, packed.name, packed.blob)]))
        return fid

    async def hears(self, kind: type[T]) -> T:
        """The next thing that it says, which must be of this kind."""
        message = await soon(self.said.get())
        assert isinstance(message, kind), message
        return message


class DataClient:
    """A connection to the data port of a worker."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.answers: asyncio.Queue[tuple[Any, list[memoryview]]] = asyncio.Queue()
        self.ended: asyncio.Event = asyncio.Event()
        link.start(
            lambda received, buffers: self.answers.put_nowait((received[0], buffers)), lambda _: self.ended.set()
        )

    @classmethod
    async def dial(cls, address: str, token: bytes) -> DataClient:
        return cls(await dial(address, role="peer", ident="test", token=token, details={}, decoder=messages.TO_PEER))

    async def ask(self, message: tuple[Any, ...], buffers: list[Any] | None = None) -> tuple[Any, list[memoryview]]:
        self.link.send([message], buffers or [])
        return await soon(self.answers.get())


async def soon(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, PATIENCE)


def supervise(scheduler: FakeScheduler, n: int = 1, **options: Any) -> Supervisor:
    return Supervisor(scheduler.address, n, token=scheduler.token, name="w", **options)


__all__ = ["DataClient", "FakeScheduler", "FakeWorker", "Slot", "soon", "supervise"]
