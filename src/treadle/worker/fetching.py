"""Fetches values from the workers that hold them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from treadle.errors import ProtocolError, ResultNotSerializableError, TreadleError
from treadle.net.dial import dial
from treadle.net.link import Link
from treadle.net.patience import patiently
from treadle.wire.failures import PackedError, unpack_error
from treadle.wire.messages import TO_PEER, Data
from treadle.wire.refusals import read_refusal
from treadle.wire.sizes import sizeof
from treadle.wire.values import brief, load_parts
from treadle.worker.calls import failure
from treadle.worker.data import LARGE, cut
from treadle.worker.executor import Executor

__all__ = ["Fetcher"]

log = logging.getLogger("treadle.worker")

#: Seconds in which a peer must take a connection.
TIMEOUT: Final = 5.0

#: The values that came, by key, and why others can never be had.
Loaded = tuple[list[tuple[str, Any, int]], list[tuple[str, PackedError]]]


class Fetcher:
    """Sends the requests of the worker's state to its peers, and feeds it with their answers.

    :param changed: called after each answer.
    """

    def __init__(self, executor: Executor, ident: str, token: bytes, changed: Callable[[], None]) -> None:
        #: What was fetched since somebody last asked, and how long that took.
        self.fetched_bytes = 0
        self.fetch_seconds = 0.0
        self._executor: Final = executor
        self._ident: Final = ident
        self._token: Final = token
        self._changed: Final = changed
        self._sources: Final[dict[str, Source]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def start(self, requests: list[tuple[str, str, list[str]]]) -> None:
        """Send what :meth:`WorkerState.fetches` has returned."""
        for ident, address, keys in requests:
            task = asyncio.get_running_loop().create_task(self._fetch(ident, address, keys))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, ident: str, address: str, keys: list[str]) -> None:
        loop = asyncio.get_running_loop()
        state = self._executor.state
        lock = self._executor.lock
        began = loop.time()
        try:
            source = self._sources.get(ident)
            if source is None:
                source = await self._connect(ident, address)
            values = await source.ask(keys)
            nbytes = sum(len(part) for _, parts in values for part in parts)
            self.fetched_bytes += nbytes
            self.fetch_seconds += loop.time() - began
            if nbytes < LARGE:
                rows, unusable = _load(values)
            else:
                rows, unusable = await loop.run_in_executor(None, _load, values)
            del values
        except (TreadleError, OSError) as error:
            log.info("%d values cannot be fetched from %s at %s: %s", len(keys), ident, address, error)
            with lock:
                state.on_unreachable(ident, keys)
        else:
            came = {row[0] for row in rows}
            came.update(key for key, _ in unusable)
            with lock:
                state.on_fetched(ident, rows)
                for key, packed in unusable:
                    state.on_unusable(ident, key, packed)
                state.on_not_held(ident, [key for key in keys if key not in came])
                self._executor.rouse()
            del rows
        self._changed()

    async def _connect(self, ident: str, address: str) -> Source:
        """A connection to a peer. The state asks a peer only one thing at a time, so that nobody else makes one, too.

        :raises TreadleError: there is none.
        """
        link = await dial(
            address,
            role="peer",
            ident=f"{self._ident}-peer",
            token=self._token,
            details={},
            decoder=TO_PEER,
            timeout=TIMEOUT,
            patience=0.0,
        )
        source = Source(link, lambda: self._sources.pop(ident, None))
        if link.details.get("ident") != ident:
            link.close("another worker listens there now")
            raise ProtocolError(f"another worker listens at {address} now")
        self._sources[ident] = source
        return source


class Source:
    """A connection to a worker that holds values.

    :param forget: called when it ends.
    """

    def __init__(self, link: Link, forget: Callable[[], object]) -> None:
        self.link: Final = link
        self._forget: Final = forget
        self._number = 0
        self._keys: list[str] = []
        self._answer: asyncio.Future[list[tuple[str, list[memoryview]]]] | None = None
        link.start(self._receive, self._closed)

    async def ask(self, keys: list[str]) -> list[tuple[str, list[memoryview]]]:
        """The parts of those of the values that the peer holds. One question at a time.

        :raises ProtocolError: the connection ended.
        """
        self._number += 1
        self._keys = keys
        self._answer = asyncio.get_running_loop().create_future()
        if self.link.closed:
            raise ProtocolError(self.link.reason)
        self.link.send([("fetch", self._number, keys)])
        return await patiently(self.link, self._answer)

    def _receive(self, messages: list[Any], buffers: list[memoryview]) -> None:
        for message in messages:
            if not isinstance(message, Data) or self._answer is None or message.id != self._number:
                raise ProtocolError("it answered what it was not asked")
            asked = set(self._keys)
            for key, _ in message.rows:
                if key not in asked:
                    raise ProtocolError(f"it sent {key!r}, which it was not asked for, or sent it twice")
                asked.discard(key)
            values = cut(message.rows, buffers)
            buffers = []
            answer, self._answer = self._answer, None
            if not answer.done():
                answer.set_result(values)

    def _closed(self, reason: str) -> None:
        self._forget()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(ProtocolError(reason))


def _load(values: list[tuple[str, list[memoryview]]]) -> Loaded:
    rows: list[tuple[str, Any, int]] = []
    unusable: list[tuple[str, PackedError]] = []
    for key, parts in values:
        try:
            refusal = read_refusal(parts)
            if refusal is not None:
                # Named after the value, not after the task that needs it.
                unusable.append((key, failure(unpack_error(refusal, key))))
                continue
            value = load_parts(parts)
        except Exception as error:
            reason = f"what was pickled cannot be read back, {brief(error)}"
            unusable.append((key, failure(ResultNotSerializableError(key, "result", reason))))
        else:
            rows.append((key, value, sizeof(value)))
    return rows, unusable
