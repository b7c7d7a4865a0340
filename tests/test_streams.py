"""Streams: generators that run on a worker while their items are read here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import os
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle import Client, LocalCluster, get_client, get_worker
from treadle.client import streaming
from treadle.errors import (
    ClosedError,
    ResultNotSerializableError,
    StreamLostError,
    TaskNotSerializableError,
    UserError,
)
from treadle.testing.tasks import Boom, boom, eventually, inc


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=1, name="here") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


# What tasks share in their worker's process

made: dict[str, int] = {}
ended: dict[str, str] = {}
gates: dict[str, threading.Event] = {}


def gate(name: str) -> threading.Event:
    return gates.setdefault(name, threading.Event())


def counting(name: str, count: int = 1 << 60) -> Iterator[int]:
    try:
        for number in range(count):
            made[name] = number + 1
            yield number
        ended[name] = "return"
    except BaseException as error:
        ended[name] = type(error).__name__
        raise


async def counting_async(name: str, count: int = 1 << 60) -> AsyncIterator[int]:
    try:
        for number in range(count):
            made[name] = number + 1
            await asyncio.sleep(0)
            yield number
        ended[name] = "return"
    except BaseException as error:
        ended[name] = type(error).__name__
        raise


BOTH = pytest.mark.parametrize("function", [counting, counting_async])


async def count_made(name: str) -> int:
    """Needs no slot."""
    return made.get(name, 0)


async def how_it_ended(name: str) -> str:
    return ended.get(name, "")


async def open_gate(name: str) -> None:
    gate(name).set()


def ends(client: Any, name: str, how: str) -> bool:
    return bool(client.submit(how_it_ended, name, pure=False).result() == how)


def gated(name: str) -> Iterator[str]:
    yield "before"
    assert gate(name).wait(60)
    yield "after"


def failing() -> Iterator[int]:
    yield 1
    yield 2
    raise Boom("third")


async def failing_async() -> AsyncIterator[int]:
    yield 1
    yield 2
    raise Boom("third")


def numbers(*values: int) -> list[int]:
    return list(values)


# Reading


@BOTH
def test_all_items_come_in_their_order(client: Any, function: Any) -> None:
    name = f"all {function.__name__}"
    stream = client.stream(function, name, 1000)
    assert stream.key.startswith(function.__name__)
    assert list(stream) == list(range(1000))
    assert list(stream) == []
    assert ends(client, name, "return")
    assert repr(stream) == f"<Stream {stream.key!r}, 1000 items read, ended>"


@BOTH
def test_with_an_asynchronous_client(cluster: LocalCluster, function: Any) -> None:
    async def read() -> tuple[list[int], int]:
        async with Client(cluster, asynchronous=True) as client:
            items = [item async for item in client.stream(function, "asynchronous", 100)]
            async with client.stream(function, "more") as stream:
                assert [await stream.next() for _ in range(3)] == [0, 1, 2]
            short = client.stream(numbers, 5)
            assert await short.next(timeout=30) == 5
            with pytest.raises(StopAsyncIteration):
                await short.next()
            await short.aclose()
            return items, len(items)

    assert asyncio.run(read()) == (list(range(100)), 100)


def test_items_come_while_the_generator_runs(client: Any) -> None:
    stream = client.stream(gated, "running")
    assert next(stream) == "before"
    with pytest.raises(concurrent.futures.TimeoutError):
        stream.next(timeout=0.05)
    client.submit(open_gate, "running").result()
    assert stream.next(timeout=60) == "after"
    with pytest.raises(StopIteration):
        stream.next()


def test_a_silent_worker_is_asked_after(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SILENCE", 0.02)
    stream = client.stream(gated, "silent")
    assert next(stream) == "before"
    for _ in range(3):
        with pytest.raises(concurrent.futures.TimeoutError):
            stream.next(timeout=0.1)
    client.submit(open_gate, "silent").result()
    assert list(stream) == ["after"]
    silent = client.stream(gated, "silent for ever")
    assert next(silent) == "before"
    silent.key = "unknown"  # the scheduler has forgotten it
    with pytest.raises(StreamLostError, match="does not know that worker any more"):
        next(silent)
    client.submit(open_gate, "silent for ever").result()


@BOTH
@pytest.mark.parametrize("buffersize", [1, 2, 7])
def test_no_more_items_are_made_than_may_be_unread(client: Any, function: Any, buffersize: int) -> None:
    name = f"bounded {function.__name__} {buffersize}"
    with client.stream(function, name, buffersize=buffersize) as stream:
        # How many were read is told when half of what was here is read; never does the generator go beyond its bound.
        for taken in range(20):
            assert next(stream) == taken
            assert client.submit(count_made, name, pure=False).result() <= taken + 1 + buffersize
        eventually(lambda: client.submit(count_made, name, pure=False).result() >= 20)
        assert client.submit(inc, buffersize, pure=False).result() == buffersize + 1  # the thread is given up


def test_several_streams_share_one_slot(client: Any) -> None:
    streams = [client.stream(counting, f"shared {index}", buffersize=2) for index in range(5)]
    assert [[next(stream) for stream in streams] for _ in range(20)] == [[number] * 5 for number in range(20)]
    assert client.submit(inc, 1, pure=False).result() == 2


def blocks(count: int, size: int) -> Iterator[Any]:
    block = bytearray(size)
    for number in range(count):
        block[:] = bytes([number]) * size
        yield block, number


def test_big_items_are_those_of_the_moment(client: Any) -> None:
    for number, (block, told) in enumerate(client.stream(blocks, 10, 300_000)):
        assert (number, bytes(block)) == (told, bytes([number]) * 300_000)


def test_whatever_can_be_iterated_over(client: Any) -> None:
    assert list(client.stream(numbers, 1, 2, 3)) == [1, 2, 3]
    assert list(client.stream(numbers)) == []
    assert list(itertools.islice(client.stream(itertools.count, 5), 3)) == [5, 6, 7]
    assert list(client.stream(lambda n: (inc(i) for i in range(n)), client.submit(inc, 2))) == [1, 2, 3]
    assert list(client.stream(zip, "ab", [None, 2.5])) == [("a", None), ("b", 2.5)]


def worker_name() -> Iterator[str]:
    yield get_worker().name
    yield from client_items()


def client_items() -> Iterator[str]:
    client = get_client()
    for item in client.stream(numbers, 7, 8):
        yield f"{item} {client.submit(inc, item).result()}"


def test_a_generator_is_a_task(client: Any) -> None:
    assert list(client.stream(worker_name)) == ["here-0", "7 8", "8 9"]


# The end


@BOTH
def test_closing(client: Any, function: Any) -> None:
    name = f"closed {function.__name__}"
    stream = client.stream(function, name)
    assert next(stream) == 0
    stream.close()
    eventually(lambda: ends(client, name, "GeneratorExit"))
    with pytest.raises(ClosedError, match="was closed"):
        next(stream)
    assert "closed" in repr(stream)
    stream.close()
    eventually(lambda: client.has_what() == {ident: [] for ident in client.has_what()})


@BOTH
def test_forgetting(client: Any, function: Any) -> None:
    name = f"forgotten {function.__name__}"
    stream = client.stream(function, name)
    assert next(stream) == 0
    del stream
    gc.collect()
    eventually(lambda: ends(client, name, "GeneratorExit"))


@BOTH
def test_the_end_of_the_client(cluster: LocalCluster, client: Any, function: Any) -> None:
    name = f"orphan {function.__name__}"
    with Client(cluster, set_as_default=False) as other:
        stream = other.stream(function, name)
        assert next(stream) == 0
    with pytest.raises(ClosedError, match="this client is closed"):
        list(stream)
    eventually(lambda: ends(client, name, "GeneratorExit"))


def test_closing_one_that_was_not_begun(client: Any) -> None:
    stream = client.stream(counting, "not begun")
    stream.close()
    with pytest.raises(ClosedError):
        next(stream)
    assert client.submit(inc, 1, pure=False).result() == 2


# What goes wrong


@pytest.mark.parametrize("function", [failing, failing_async])
def test_an_exception_comes_after_the_items_before_it(client: Any, function: Any) -> None:
    stream = client.stream(function)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(Boom, match="third") as caught:
        next(stream)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.name, last.line) == (function.__name__, 'raise Boom("third")')
    assert list(stream) == []


def test_an_exception_before_the_first_item(client: Any) -> None:
    with pytest.raises(Boom):
        next(client.stream(boom, 1))


def test_an_item_that_cannot_be_pickled(client: Any) -> None:
    stream: Any = client.stream(lambda: iter([1, threading.Lock(), 2]))
    assert next(stream) == 1
    with pytest.raises(ResultNotSerializableError, match="lock"):
        next(stream)


async def no_generator() -> int:
    return 1


@pytest.mark.parametrize(("function", "kind"), [(inc, "int"), (no_generator, "coroutine")])
def test_what_cannot_be_iterated_over(client: Any, function: Any, kind: str) -> None:
    args = (1,) if function is inc else ()
    with pytest.raises(UserError, match=rf"{function.__name__!r} has returned a {kind}.*client.submit"):
        next(client.stream(function, *args))


def test_bad_arguments(client: Any) -> None:
    with pytest.raises(TypeError, match="must be the function"):
        client.stream(5)
    for buffersize in (0, -1):
        with pytest.raises(ValueError, match="buffersize must be a whole number of at least 1"):
            client.stream(counting, "x", buffersize=buffersize)
    with pytest.raises(TypeError):
        client.stream(counting, "x", buffersize=1.5)
    with pytest.raises(TaskNotSerializableError, match="lock"):
        client.stream(counting, threading.Lock())


def test_a_generator_that_was_submitted_as_a_task(client: Any) -> None:
    for function in (counting, counting_async):
        with pytest.raises(ResultNotSerializableError, match=r"client\.stream\(function"):
            client.submit(function, "submitted").result()


def test_two_consumers_at_once(client: Any) -> None:
    stream = client.stream(gated, "consumers")
    assert next(stream) == "before"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(next, stream)
        eventually(lambda: stream._busy)
        with pytest.raises(UserError, match="somebody else"):
            next(stream)
        client.submit(open_gate, "consumers").result()
        assert other.result() == "after"


def pids(path: str) -> Iterator[int]:
    with open(path, "a") as file:
        file.write("begun\n")
    while True:
        yield os.getpid()


def test_the_death_of_the_worker(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        stream = client.stream(pids, str(tmp_path / "log"), buffersize=3)
        pid = next(stream)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StreamLostError, match="It is not begun again") as caught:
            list(stream)
        assert caught.value.key == stream.key
        assert client.submit(inc, 1).result() == 2
        assert (tmp_path / "log").read_text() == "begun\n"
        assert next(client.stream(pids, str(tmp_path / "log"))) != pid
