"""What a client says reaches the scheduler, or somebody hears that it did not: whatever comes in between."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from client_parts import FakeCluster

from treadle import Client
from treadle.client.future import Future
from treadle.client.latch import run_async
from treadle.client.session import Session
from treadle.errors import ClosedError, ConnectError
from treadle.testing.tasks import eventually, inc
from treadle.wire import messages

# The end of a client


def test_a_client_that_is_closed_while_others_submit(client: Client) -> None:
    """Whoever had found it open, a moment before, does not wait for ever."""
    session = client.session
    row = client._calls.one(inc, (1,), {}, None, True)
    future: Future[int] = Future(row[0], session)
    client.close()
    uses: list[Callable[[], object]] = [
        lambda: session.submit_one(future, row, None),
        lambda: session.submit([future], [row], None, False, 0),
        lambda: session.ship([future], []),
        session.ask("info").__await__().__next__,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="this client is closed"):
            use()
    assert not session.registry.futures


def test_a_loop_that_ends_before_its_client_is_closed(fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    unheard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)

    async def leave() -> tuple[Client, Future[int]]:
        client = await fake.client(asynchronous=True)
        return client, client.submit(inc, 1)

    client, future = asyncio.run(leave())
    session = client.session
    del future
    gc.collect()
    assert unheard == []
    assert session._link is not None
    session._link.close()


# What cannot be sent


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"priority": "high"}, TypeError, "priority must be a whole number, not 'high'"),
        ({"priority": 1 << 70}, ValueError, "priority must be a whole number between -1,048,576 and 1,048,576"),
        ({"retries": None}, TypeError, "retries must be a whole number, not None"),
        ({"retries": 1 << 70}, ValueError, "retries must be a whole number between 0 and 1,048,576"),
        ({"workers": 5}, TypeError, "workers must be names, idents, addresses or hosts of workers, not 5"),
        ({"workers": ["a\udce9"]}, ValueError, "names that UTF-8 can hold"),
        ({"resources": ["GPU"]}, TypeError, "resources must be a dict of amounts, .* not \\['GPU'\\]"),
        ({"resources": {"GPU": "one"}}, TypeError, "the amounts of resources must be numbers, .*'one'"),
        ({"key": "caf\udce9"}, ValueError, "key must be text that UTF-8 can hold"),
    ],
)
def test_options_that_nobody_could_send(
    fake: FakeCluster, client: Client, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        client.submit(inc, 1, **options)
    client.submit(inc, 2, key="next")
    assert fake.expect(messages.Submit).keys == ["next"]


def test_numbers_of_numpy_are_numbers(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, priority=np.int64(3), retries=np.uint8(2))
    options = fake.expect(messages.Submit).options
    assert options is not None
    assert (options.priority, options.retries) == (3, 2)
    del future


def test_nobody_waits_for_what_could_not_be_sent(client: Client) -> None:
    session = client.session
    future = client.submit(inc, 1)
    with session.lock:
        session.registry.outbox.add("ask", session.count(), "explain", "caf\udce9")
    with pytest.raises(UnicodeEncodeError):
        session.flush()
    with pytest.raises(ConnectError, match="a message could not be sent: UnicodeEncodeError"):
        future.result(30)


# Garbage, which may be collected in the middle of anything


@pytest.mark.parametrize("lock", ["lock", "_sending"])
def test_an_iterator_that_is_dropped_by_who_has_a_lock(fake: FakeCluster, client: Client, lock: str) -> None:
    results = client.get_executor().map(inc, range(3))
    first, *others = fake.expect(messages.Submit).keys
    fake.done(first, value=1)
    assert next(results) == 1
    with getattr(client.session, lock):
        del results
    cancelled = [fake.expect(messages.Cancel).keys for _ in others]
    assert cancelled == [[key] for key in others]
    for key in others:
        fake.send(("cancelled", [key], ""))


def test_coroutines_that_are_dropped_by_who_has_the_lock(fake: FakeCluster, client: Client) -> None:
    session = client.session
    future = client.submit(inc, 1)
    waiting: list[Coroutine[Any, Any, Any]] = [session.awaiting(future), run_async(session.ask("info"))]

    async def begin() -> None:
        for each in waiting:
            each.send(None)

    asyncio.run(begin())
    number = fake.expect(messages.Ask).id
    with session.lock:
        waiting.clear()
    assert fake.expect(messages.Withdraw).id == number
    eventually(lambda: not future._watch)


# Ctrl-C


@pytest.fixture
def interrupted(client: Client, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session, with an interrupt in the middle of whatever it has the loop do next."""
    session = client.session
    soon = session._soon

    def interrupt(*args: Any) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        soon(*args)

    monkeypatch.setattr(session, "_soon", interrupt)
    return session


def test_an_interrupt_while_the_loop_is_told_to_send(fake: FakeCluster, interrupted: Session) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted.post("ask", interrupted.count(), "info", None)
    assert fake.expect(messages.Ask).topic == "info"


def test_an_interrupt_while_the_loop_is_told_of_a_release(fake: FakeCluster, interrupted: Session) -> None:
    future: Future[int] = Future("x", interrupted)
    interrupted.ship([future], [("want", ["x"])])
    with pytest.raises(KeyboardInterrupt):
        future.release()
    assert fake.expect(messages.Release).keys == ["x"]
    eventually(lambda: not interrupted._tidying)


def test_an_interrupt_before_anybody_waits_for_an_answer(
    fake: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.session
    flush = session.flush

    def interrupt() -> None:
        monkeypatch.undo()
        flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.who_has()
    question = fake.expect(messages.Ask)
    assert fake.expect(messages.Withdraw).id == question.id
    assert session._replies == {}
