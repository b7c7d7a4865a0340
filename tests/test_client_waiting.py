"""``wait``, ``as_completed`` and ``progress``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import threading
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest
from client_parts import FakeCluster
from rich.console import Console

import treadle
from treadle import Client, as_completed, wait
from treadle.errors import ConnectError, UserError
from treadle.testing.tasks import Boom, eventually, inc
from treadle.wire import messages
from treadle.wire.failures import pack_error


@pytest.fixture
def futures(fake: FakeCluster, client: Client) -> list[Any]:
    """Four futures, the second of which is done."""
    futures = client.map(inc, range(4), key="x")
    client.session.flush()
    fake.expect(messages.Submit)
    fake.done("x-1", value=1)
    futures[1].result()
    return futures


def fail(fake: FakeCluster, key: str) -> None:
    fake.send(("failed", [(key, key, pack_error(Boom(key)))]))


# wait


def test_wait_for_all(fake: FakeCluster, futures: list[Any]) -> None:
    fake.done("x-0", value=1)
    fake.placed("x-2")
    fail(fake, "x-3")
    done, not_done = wait(iter(futures))
    assert (done, not_done) == (set(futures), set())
    assert fake.asked == []
    assert wait([]) == (set(), set())


def test_wait_with_a_timeout(futures: list[Any]) -> None:
    assert wait(futures, timeout=0) == ({futures[1]}, {futures[0], futures[2], futures[3]})
    assert wait(futures, timeout=0.001).done == {futures[1]}
    assert futures[0]._watch == ()


def test_wait_for_one(fake: FakeCluster, futures: list[Any]) -> None:
    assert wait(futures, return_when=FIRST_COMPLETED).done == {futures[1]}
    rest = [futures[0], *futures[2:]]
    assert wait(rest, 0, FIRST_COMPLETED).done == set()
    futures[2].cancel()
    assert wait(rest, return_when=FIRST_COMPLETED).done == {futures[2]}
    assert futures[0]._watch == ()


def test_wait_for_an_error(fake: FakeCluster, futures: list[Any]) -> None:
    futures[0].cancel()
    assert wait(futures, 0, FIRST_EXCEPTION).not_done == {futures[2], futures[3]}
    fail(fake, "x-3")
    assert wait(futures, None, FIRST_EXCEPTION) == ({futures[0], futures[1], futures[3]}, {futures[2]})
    with pytest.raises(ValueError, match="return_when must be one of"):
        wait(futures, return_when="NEVER")


def test_wait_for_futures_of_all_kinds(fake: FakeCluster, futures: list[Any]) -> None:
    other: concurrent.futures.Future[int] = concurrent.futures.Future()
    mixed = [other, futures[0]]
    assert wait(mixed, 0).done == set()
    other.set_exception(Boom())
    assert wait(mixed, return_when=FIRST_COMPLETED).done == {other}
    assert wait(mixed, return_when=FIRST_EXCEPTION).done == {other}
    fake.done("x-0", value=1)
    assert wait(mixed).done == {other, futures[0]}
    with fake.client() as second:
        theirs = second.submit(inc, 1, key="y")
        second.session.flush()
        fake.expect(messages.Submit)
        fake.done("y", value=1)
        assert wait([theirs, futures[0]]).done == {theirs, futures[0]}


def test_wait_ends_when_the_scheduler_is_lost(fake: FakeCluster, futures: list[Any]) -> None:
    fake.lose()
    assert wait(futures).not_done == set()
    assert isinstance(futures[0].exception(), ConnectError)


# as_completed


def test_as_completed(fake: FakeCluster, futures: list[Any]) -> None:
    iterator = as_completed([*futures, futures[0]])
    assert next(iterator) is futures[1]
    assert iterator.count() == 3
    fake.done("x-3", "x-0", value=1)
    assert next(iterator) is futures[3]
    assert next(iterator) is futures[0]
    assert repr(iterator) == "<as_completed, 1 of 4 futures to come>"
    fail(fake, "x-2")
    assert list(iterator) == [futures[2]]
    assert list(as_completed([])) == []


def test_as_completed_with_results(fake: FakeCluster, futures: list[Any]) -> None:
    fake.store["x-0"] = "fetched"
    fake.placed("x-0")
    fail(fake, "x-2")
    iterator = as_completed(futures[:3], with_results=True)
    assert {next(iterator), next(iterator)} == {(futures[0], "fetched"), (futures[1], 1)}
    with pytest.raises(Boom):
        next(iterator)


def test_as_completed_takes_more(fake: FakeCluster, client: Client, futures: list[Any]) -> None:
    other: concurrent.futures.Future[int] = concurrent.futures.Future()
    iterator = as_completed(futures[1:2])
    iterator.add(other)
    iterator.update([futures[0], futures[1]])
    seen = []
    for future in iterator:
        seen.append(future)
        if future is futures[1]:
            other.set_result(1)
        if future is other:
            fake.done("x-0", value=1)
    assert seen == [futures[1], other, futures[0]]


def test_as_completed_with_a_timeout(futures: list[Any]) -> None:
    iterator = as_completed(futures, timeout=0.01)
    assert next(iterator) is futures[1]
    with pytest.raises(FutureTimeoutError):
        next(iterator)


# In coroutines


def test_waiting_in_coroutines(fake: FakeCluster) -> None:
    async def main() -> None:
        async with fake.client(asynchronous=True) as client:
            futures = client.map(inc, range(3), key="x")
            assert (await wait(futures, timeout=0)).done == set()
            answers = threading.Thread(target=fake.done, args=("x-2", "x-0", "x-1"), kwargs={"value": 1})
            answers.start()
            assert (await wait(futures)).not_done == set()
            answers.join()
            assert [future async for future in as_completed(futures)] == futures
            assert [pair async for pair in as_completed(futures, with_results=True)] == [(each, 1) for each in futures]
            with pytest.raises(UserError, match="Write `await`"):
                next(as_completed(futures))

    asyncio.run(main())


# progress


def rows(**counts: tuple[int, int]) -> list[Any]:
    """An answer of the scheduler: how many tasks of each group are in memory and how many are waiting."""
    return [(name, {"memory": done, "waiting": left, "forgotten": 5}) for name, (done, left) in counts.items()]


def watch(fake: FakeCluster, futures: list[Any], console: Console, last: Any) -> threading.Thread:
    """Show the progress of some futures in another thread, up to the first look."""
    thread = threading.Thread(target=lambda: treadle.progress(futures, console=console))
    thread.start()
    fake.send(("answer", fake.expect(messages.Ask).id, True, rows(load=(2, 3), sum=(0, 1), old=(7, 0))))
    return thread


def answer_until_over(fake: FakeCluster, thread: threading.Thread, answer: Any) -> None:
    """Give the same answer to all questions to come."""

    def over() -> bool:
        for message in fake.unread():
            if isinstance(message, messages.Ask):
                fake.send(("answer", message.id, True, answer))
        return not thread.is_alive()

    eventually(over)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(fake: FakeCluster, futures: list[Any], terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    thread = watch(fake, futures, console, None)
    fake.done("x-0", "x-2", "x-3", value=1)
    answer_until_over(fake, thread, rows(load=(5, 0), sum=(1, 0), old=(7, 0)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    if terminal:
        assert "load" in text
        assert "3/3" in text
        assert "1/1" in text
    else:
        first, second = text.splitlines()
        assert first.startswith("load: 3 of 3 tasks in ")
        assert second.startswith("sum: 1 of 1 tasks in ")
    assert "old" not in text


def test_progress_of_what_fails(fake: FakeCluster, futures: list[Any]) -> None:
    console = Console(file=io.StringIO(), width=100)
    thread = watch(fake, futures[:1], console, None)
    fail(fake, "x-0")
    answer_until_over(fake, thread, rows(load=(3, 2), sum=(0, 0), old=(7, 0)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "load: 1 of 3 tasks in" in text
    assert "failed: Boom" in text


def test_progress_when_the_scheduler_is_lost(fake: FakeCluster, futures: list[Any]) -> None:
    console = Console(file=io.StringIO(), width=100)
    thread = watch(fake, futures, console, None)
    fake.lose()
    thread.join(30)
    assert not thread.is_alive()
    assert futures[0].status == "lost"


def test_progress_needs_futures(fake: FakeCluster, futures: list[Any]) -> None:
    with pytest.raises(UserError, match="needs futures"):
        treadle.progress([])
    with fake.client() as second, pytest.raises(UserError, match="several clients"):
        treadle.progress(futures, second.submit(inc, 1))


def test_progress_in_a_coroutine(fake: FakeCluster) -> None:
    console = Console(file=io.StringIO(), width=100)

    async def main() -> None:
        async with fake.client(asynchronous=True) as client:
            future = client.submit(inc, 1, key="x")
            showing = asyncio.ensure_future(treadle.progress(future, console=console))
            loop = asyncio.get_running_loop()
            for answer in (rows(inc=(0, 1)), rows(inc=(1, 0))):
                ask = await loop.run_in_executor(None, fake.expect, messages.Ask)
                if answer[0][1]["waiting"]:
                    fake.done("x", value=2)
                fake.send(("answer", ask.id, True, answer))
            await showing

    asyncio.run(main())
    assert console.file.getvalue().startswith("inc: 1 of 1 tasks in")  # type: ignore[attr-defined]
