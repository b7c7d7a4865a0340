"""Serves the values that this worker holds to whoever asks, and takes those that clients put here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from treadle.errors import ProtocolError
from treadle.net.link import Link
from treadle.wire.messages import Call, Fetch
from treadle.wire.refusals import pack_refused
from treadle.wire.sizes import sizeof
from treadle.wire.values import brief, dump_parts, dump_plain, load_parts, pack_value
from treadle.worker.budget import Budget
from treadle.worker.calling import CallServer
from treadle.worker.calls import refusal
from treadle.worker.executor import Executor

__all__ = ["LARGE", "DataServer", "cut"]

log = logging.getLogger("treadle.worker")

#: From this size on, values are pickled and unpickled in other threads, so that the event loop stays responsive.
LARGE: Final = 128 * 1024
#: How many bytes may be on their way out at the same time.
SERVED: Final = 256 << 20
#: How many buffers the values of one answer may have that travel beside their pickles; a frame has a limit.
MAX_BUFFERS: Final = 16384

#: Pieces of a frame.
Parts = list[Any]


class DataServer:
    """The connections to the data port of this worker.

    :param changed: called after values were stored.
    :param calls: takes the calls that arrive here.
    """

    def __init__(self, executor: Executor, changed: Callable[[], None], calls: CallServer) -> None:
        self._executor: Final = executor
        self._changed: Final = changed
        self._calls: Final = calls
        self._budget: Final = Budget(SERVED)
        self._serving: Final[set[asyncio.Task[None]]] = set()

    def connected(self, link: Link) -> None:
        link.start(partial(self._receive, link), _closed)

    def _receive(self, link: Link, messages: list[Any], buffers: list[memoryview]) -> None:
        for message in messages:
            if isinstance(message, Call):
                parts, buffers = buffers[: message.count], buffers[message.count :]
                self._calls.receive(link, message, parts)
                continue
            if isinstance(message, Fetch):
                coroutine = self._serve(link, message)
            else:
                values = cut(message.rows, buffers)
                buffers = []
                coroutine = self._store(link, message.id, values)
            task = asyncio.get_running_loop().create_task(coroutine)
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        if buffers:
            raise ProtocolError(f"it sent {len(buffers)} buffers that belong to no message")

    async def _serve(self, link: Link, message: Fetch) -> None:
        with self._executor.lock:
            store = self._executor.state.store
            held = [(key, store[key]) for key in message.keys if key in store]
        nbytes = sum(entry[1] for _, entry in held)
        granted = await self._budget.acquire(nbytes)
        try:
            rows, buffers = await _off_loop(nbytes, _dump, message, {key: entry[0] for key, entry in held})
            del held
            link.send([("data", message.id, rows)], buffers)
            del buffers
            await link.drain()
        except Exception as error:
            log.exception("a request for %d values by %s failed", len(message.keys), link.peer)
            link.close(f"a request could not be answered: {brief(error)}")
        finally:
            self._budget.release(granted)

    async def _store(self, link: Link, number: int, values: list[tuple[str, list[memoryview]]]) -> None:
        nbytes = sum(len(part) for _, parts in values for part in parts)
        rows = await _off_loop(nbytes, _load, values)
        del values
        with self._executor.lock:
            self._executor.state.on_stored(rows)
            self._executor.rouse()
        link.send([("stored", number, [(key, size) for key, _, size in rows])])
        self._changed()


def cut(rows: list[tuple[str, int]], buffers: list[memoryview]) -> list[tuple[str, list[memoryview]]]:
    """The values of a message: the key of each and its part of the buffers. Keys without any are left out.

    :raises ProtocolError: the numbers do not fit.
    """
    if sum(count for _, count in rows) != len(buffers):
        raise ProtocolError(f"it announced {sum(count for _, count in rows)} buffers and sent {len(buffers)}")
    values: list[tuple[str, list[memoryview]]] = []
    start = 0
    for key, count in rows:
        if count:
            values.append((key, buffers[start : start + count]))
            start += count
    return values


async def _off_loop(nbytes: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function here if it is about little, else in another thread."""
    if nbytes < LARGE:
        return function(*args)
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def _dump(message: Fetch, held: dict[str, Any]) -> tuple[list[tuple[str, int]], Parts]:
    rows: list[tuple[str, int]] = []
    buffers: Parts = []
    for key in message.keys:
        parts = _parts(held[key], message.plain, MAX_BUFFERS - len(buffers)) if key in held else []
        rows.append((key, len(parts)))
        buffers.extend(parts)
    return rows, buffers


def _parts(value: Any, plain: bool, limit: int) -> Parts:
    try:
        if plain:
            return [dump_plain(value)]
        parts: Parts = dump_parts(value)
        return parts if len(parts) <= max(limit, 1) else [pack_value(value)]
    except Exception as error:
        return [pack_refused(refusal(value, error))]


def _load(values: list[tuple[str, list[memoryview]]]) -> list[tuple[str, Any, int]]:
    rows: list[tuple[str, Any, int]] = []
    for key, parts in values:
        try:
            value = load_parts(parts)
        except Exception as error:
            log.warning("the value %r that a client has sent cannot be unpickled here: %s", key, brief(error))
            continue
        rows.append((key, value, sizeof(value)))
    return rows


def _closed(reason: str) -> None:
    log.debug("a connection to the data port was closed: %s", reason)
