"""Coroutine functions as tasks."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import Any

import pytest

from treadle import Client, LocalCluster, get_client, get_worker, rejoin, secede
from treadle.client.default import current
from treadle.errors import ResultNotSerializableError, UserError
from treadle.testing.tasks import Boom, eventually, inc


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=1, name="here") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


# What tasks share in their worker's process

events: dict[str, asyncio.Event] = {}
seen: list[str] = []
variable: ContextVar[int] = ContextVar("variable", default=0)
arrived = 0


def event(name: str) -> asyncio.Event:
    return events.setdefault(name, asyncio.Event())


async def wait_at(name: str) -> str:
    await event(name).wait()
    return name


async def open_gate(name: str) -> None:
    event(name).set()


async def meet(count: int) -> int:
    """Return when ``count`` tasks are here at once."""
    global arrived
    arrived += 1
    if arrived == count:
        event("met").set()
    await event("met").wait()
    return threading.get_ident()


async def double(value: Any) -> Any:
    await asyncio.sleep(0)
    return value + value


async def fail(value: Any) -> None:
    await asyncio.sleep(0)
    raise Boom(value)


def test_a_coroutine_function_is_awaited(client: Any) -> None:
    assert client.submit(double, 2).result() == 4
    assert client.gather(client.map(double, range(100))) == [2 * value for value in range(100)]
    assert client.get({"a": (double, 1), "b": (inc, "a"), "c": (double, "b")}, "c") == 6


def test_ten_thousand_run_at_once_in_one_thread(client: Any) -> None:
    futures = client.map(meet, [10_000] * 10_000, pure=False)
    assert len(set(client.gather(futures))) == 1
    assert client.submit(threading.get_ident).result() != futures[0].result()


def test_they_occupy_no_slot(client: Any) -> None:
    futures = [client.submit(wait_at, "slot", pure=False) for _ in range(5)]
    assert client.submit(inc, 1).result() == 2
    client.submit(open_gate, "slot").result()
    assert client.gather(futures) == ["slot"] * 5


def test_inputs_of_all_kinds(client: Any) -> None:
    big = client.submit(bytes, 1 << 20)
    assert client.submit(double, big).result() == bytes(2 << 20)
    text = client.scatter("ab")
    assert client.submit(double, client.submit(double, text)).result() == "abababab"
    assert client.submit(double, value=[1]).result() == [1, 1]
    assert len(client.submit(double, "x" * 50_000).result()) == 100_000


async def wait_and_tell(name: str) -> None:
    seen.append(f"{name} begins")
    try:
        await event(name).wait()
    except asyncio.CancelledError:
        seen.append(f"{name} is cancelled")
        raise


async def what_was_seen() -> list[str]:
    return list(seen)


def test_cancelling_cancels_the_coroutine(client: Any) -> None:
    future = client.submit(wait_and_tell, "never")
    eventually(lambda: client.submit(what_was_seen, pure=False).result() == ["never begins"])
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    eventually(lambda: client.submit(what_was_seen, pure=False).result()[1:] == ["never is cancelled"])


def test_many_are_cancelled_as_soon_as_they_are_sent(client: Any) -> None:
    futures = client.map(wait_at, [f"never {index}" for index in range(2000)])
    client.cancel(futures)
    assert client.submit(double, 5).result() == 10
    eventually(lambda: client.scheduler_info()["tasks"].get("processing", 0) == 0)


def test_an_error_shows_the_lines_of_the_user_only(client: Any) -> None:
    for function in (fail, lambda value: fail(value)):
        with pytest.raises(Boom) as caught:
            client.submit(function, 3).result()
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-1] == "fail"
        assert not {"_run", "_finish", "finish", "_execute_forever"} & set(names)


async def end_the_process() -> None:
    raise SystemExit(3)


async def start_what_ends_the_process() -> str:
    async def end() -> None:
        raise SystemExit(4)

    task = asyncio.get_running_loop().create_task(end())
    try:
        await task
    except SystemExit:
        return "still here"
    return "nothing happened"


async def lock() -> Any:
    return threading.Lock()


def test_errors_of_other_kinds(client: Any) -> None:
    with pytest.raises(SystemExit):
        client.submit(end_the_process).result()
    assert client.submit(start_what_ends_the_process).result() == "still here"
    with pytest.raises(ResultNotSerializableError, match="lock"):
        client.submit(lock).result()
    with pytest.raises(TypeError, match="argument"):
        client.submit(double).result()
    assert client.submit(double, 1).result() == 2


def returns_a_coroutine(name: str) -> Coroutine[Any, Any, str]:
    return wait_at(name)


def test_a_function_that_returns_a_coroutine(client: Any) -> None:
    future = client.submit(returns_a_coroutine, "returned")
    assert client.submit(inc, 5).result() == 6  # its thread was given up
    client.submit(open_gate, "returned").result()
    assert future.result() == "returned"
    assert client.submit(lambda: double(3)).result() == 6


def test_a_function_that_returns_a_coroutine_is_cancelled(client: Any) -> None:
    future = client.submit(lambda: wait_and_tell("returned never"))
    eventually(lambda: "returned never begins" in client.submit(what_was_seen, pure=False).result())
    assert future.cancel()
    eventually(lambda: "returned never is cancelled" in client.submit(what_was_seen, pure=False).result())


# What they can ask for


async def inside(number: int) -> tuple[str, int, bool]:
    before = variable.get()
    variable.set(number)
    secede()
    await asyncio.sleep(0)
    rejoin()
    return get_worker().name, before, variable.get() == number


def test_each_has_a_context_of_its_own(client: Any) -> None:
    assert client.gather(client.map(inside, range(1, 6))) == [("here-0", 0, True)] * 5


async def use_a_client() -> Any:
    client = get_client()
    assert client.asynchronous
    async with client as same:
        assert same is client
    await client.close()
    default: Any = current()
    assert default.asynchronous
    future = client.submit(inc, 1)
    futures = client.map(double, range(3))
    big = client.submit(bytes, 1 << 20)
    return [await future, await client.gather(futures), len(await big), await client.submit(use_another)]


async def use_another() -> Any:
    return await get_client().submit(inc, 10)


def test_the_client_of_a_coroutine_is_awaited(client: Any) -> None:
    assert client.submit(use_a_client).result() == [2, [0, 2, 4], 1 << 20, 11]


async def in_a_thread() -> tuple[str, int]:
    return await asyncio.to_thread(lambda: (get_worker().name, get_client().submit(inc, 1).result()))


def test_a_thread_that_a_coroutine_starts(client: Any) -> None:
    assert client.submit(in_a_thread).result() == ("here-0", 2)


async def block() -> Any:
    future = get_client().submit(inc, 41)
    with pytest.raises(UserError, match="an asynchronous task must not wait like this"):
        get_client().submit(wait_at, "blocked").exception()
    return await future


def test_a_coroutine_that_would_block_the_others(client: Any) -> None:
    assert client.submit(block).result() == 42
