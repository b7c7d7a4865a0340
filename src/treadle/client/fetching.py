"""Results that are too big to ride along, fetched from the workers that hold them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from treadle.client.future import Failure, Parts, Place
from treadle.client.lines import Lines
from treadle.errors import PeerError, ProtocolError
from treadle.net.dial import dial
from treadle.net.link import Link
from treadle.net.patience import patiently
from treadle.wire import messages
from treadle.wire.refusals import read_refusal

if TYPE_CHECKING:
    from treadle.client.session import Session

__all__ = ["Fetcher", "Peer"]

#: Bytes, and keys, of one request: so much memory at once, and no more, is needed on the way.
BATCH_BYTES = 64 << 20
BATCH_KEYS = 1000

#: Seconds before a worker is asked once more that did not have what it was said to hold.
PAUSE = 0.05


class Peer:
    """A worker's data port. For use on the loop of the session."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._count = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Any, list[memoryview]]]] = {}
        link.start(self._receive, self._lost)

    async def call(self, op: str, content: Any, buffers: Sequence[Any] = ()) -> tuple[Any, list[memoryview]]:
        """Send a request; returns the answer and the buffers that came with it.

        :raises PeerError: the connection was lost.
        """
        number = next(self._count)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        if self.link.closed:
            self._lost(self.link.reason)
        self.link.send([(op, number, content)], buffers)
        try:
            message, received = await patiently(self.link, answer)
        finally:
            self._waiting.pop(number, None)
        return message, received

    def _receive(self, batch: list[Any], buffers: list[memoryview]) -> None:
        if len(batch) != 1 or batch[0].id not in self._waiting:
            raise ProtocolError("it sent what nobody had asked for")
        answer = self._waiting[batch[0].id]
        if not answer.done():
            answer.set_result((batch[0], buffers))

    def _lost(self, reason: str) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(PeerError(f"the connection to the worker at {self.link.peer} was lost: {reason}"))


class Fetcher:
    """Fetches results for the futures of one session: from several workers at once, from each in batches."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: Keys that were not where they were said to be.
        self._homeless: set[str] = set()
        #: By the address of a worker: the connection to it, and what is to be fetched from there.
        self._peers: dict[str, Peer] = {}
        self._dialing: dict[str, asyncio.Lock] = {}
        self._queues: dict[str, dict[str, Place]] = {}
        #: Calls to the same workers, which do not wait behind big results: they have connections of their own.
        self.lines = Lines(session)

    def __repr__(self) -> str:
        return f"<Fetcher of {len(self._session.registry.fetching)} keys from {len(self._peers)} workers>"

    def fetch(self, keys: Iterable[str]) -> None:
        """Fetch results, from any thread. Their futures are told when they are there."""
        wanted = list(keys)

        async def begin() -> None:
            with self._session.lock:
                new = [key for key in wanted if key not in self._session.registry.fetching]
            self._begin(new)

        self._session.start(begin)

    def resume(self, keys: Iterable[str]) -> None:
        """The scheduler has told where these are now."""
        self._begin([key for key in keys if key in self._homeless])

    def close(self) -> None:
        for peer in self._peers.values():
            peer.link.close("the client was closed")
        self.lines.close()

    async def peer(self, address: str) -> Peer:
        """The connection to a worker, made when it is first needed.

        :raises PeerError: it cannot be reached.
        """
        async with self._dialing.setdefault(address, asyncio.Lock()):
            peer = self._peers.get(address)
            if peer is None or peer.link.closed:
                session = self._session
                link = await dial(
                    address,
                    role="peer",
                    ident=session.ident,
                    token=session.token,
                    details={},
                    decoder=messages.TO_PEER,
                )
                peer = self._peers[address] = Peer(link)
            return peer

    def _begin(self, keys: Iterable[str]) -> None:
        session = self._session
        for key in keys:
            with session.lock:
                places = [future._held for future in session.registry.of(key)]
                place = next((each for each in places if type(each) is Place), None)
                if place is not None:
                    session.registry.fetching[key] = place
            self._homeless.discard(key)
            if place is None:
                continue  # it is here, or nobody needs it any more
            queue = self._queues.get(place.address)
            if queue is None:
                self._queues[place.address] = {key: place}
                session.start(lambda address=place.address: self._drain(address))  # type: ignore[misc]
            else:
                queue[key] = place

    async def _drain(self, address: str) -> None:
        """Fetch what is to be fetched from one worker, batch after batch."""
        queue = self._queues[address]
        try:
            while queue:
                await self._fetch_batch(address, _batch(queue))
        finally:
            del self._queues[address]

    async def _fetch_batch(self, address: str, batch: dict[str, Place]) -> None:
        session = self._session
        fetching = session.registry.fetching
        missing: list[str] = []
        try:
            peer = await self.peer(address)
            answer, buffers = await peer.call("fetch", list(batch))
        except (PeerError, OSError):
            missing = list(batch)
        else:
            taken = iter(buffers)
            with session.lock:
                for key, count in answer.rows:
                    parts = list(itertools.islice(taken, count))
                    if not parts:
                        missing.append(key)
                    elif key in batch and fetching.get(key) is batch[key]:
                        refusal = read_refusal(parts)
                        session.registry.arrived(key, Parts(parts) if refusal is None else Failure(key, refusal))
        finally:
            with session.lock:
                current = {key for key, place in batch.items() if fetching.get(key) is place}
                for key in current:
                    del fetching[key]
            missing = [key for key in missing if key in current]
            self._homeless.update(missing)
        if missing:
            await self._report(missing, batch)

    async def _report(self, missing: list[str], batch: dict[str, Place]) -> None:
        """Tell the scheduler what was not where it said. It answers with a new place, once there is one."""
        await asyncio.sleep(PAUSE)
        rows = [(key, batch[key].worker) for key in missing if key in batch and key in self._homeless]
        if rows:
            self._session.post("missing", rows)


def _batch(queue: dict[str, Place]) -> dict[str, Place]:
    """Take the next keys from a queue, as many as are good for one request."""
    batch: dict[str, Place] = {}
    size = 0
    for key, place in queue.items():
        if batch and (size + place.nbytes > BATCH_BYTES or len(batch) == BATCH_KEYS):
            break
        batch[key] = place
        size += place.nbytes
    for key in batch:
        del queue[key]
    return batch
