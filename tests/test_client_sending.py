"""When a client sends what it has to say, and by which thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from client_parts import FakeCluster

from treadle import Client
from treadle.client.session import Session
from treadle.testing.tasks import eventually, inc
from treadle.wire import messages


@pytest.fixture
def session(client: Client) -> Session:
    return client.session


@pytest.fixture
def held(session: Session) -> Iterator[threading.Event]:
    """The client's event loop does nothing until this is set."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        over.wait()

    assert session.loop is not None
    session.loop.call_soon_threadsafe(hold)
    begun.wait()
    yield over
    over.set()


def test_a_task_after_a_pause_is_sent_by_who_submits_it(
    fake: FakeCluster, client: Client, session: Session, held: threading.Event
) -> None:
    session._sent = 0.0  # long ago
    future = client.submit(inc, 1)
    assert fake.expect(messages.Submit).keys == [future.key]


def test_tasks_in_a_row_are_sent_together(
    fake: FakeCluster, client: Client, session: Session, held: threading.Event
) -> None:
    session._sent = float("inf")  # just now
    futures = [client.submit(inc, number) for number in range(3)]
    held.set()
    assert fake.expect(messages.Submit).keys == [future.key for future in futures]


def test_who_waits_sends_what_is_waited_for(
    fake: FakeCluster, client: Client, session: Session, held: threading.Event
) -> None:
    session._sent = float("inf")
    future = client.submit(inc, 1)
    waiting = threading.Thread(target=future.result)
    waiting.start()
    assert fake.expect(messages.Submit).keys == [future.key]
    held.set()
    fake.done(future.key, value=2)
    waiting.join()
    assert future.result() == 2


def test_while_somebody_sends_nobody_else_waits_to(
    fake: FakeCluster, client: Client, session: Session, held: threading.Event
) -> None:
    session._sent = 0.0
    with session._sending:
        future = client.submit(inc, 1)
    held.set()
    assert fake.expect(messages.Submit).keys == [future.key]


def test_a_release_does_not_hold_up_a_task(
    fake: FakeCluster, client: Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.client.session.IDLE", float("inf"))  # one task follows another
    session._tidying = True  # as if the loop were about to look
    key = client.submit(inc, 1).key
    session._sent = 0.0
    future = client.submit(inc, 2)
    assert key in session.registry.gone
    session._tidy()
    assert fake.expect(messages.Release).keys == [key]
    assert future.key in session.registry.futures


def test_after_a_pause_a_release_goes_along_with_a_task(
    fake: FakeCluster, client: Client, session: Session, held: threading.Event
) -> None:
    session._tidying = True
    session._sent = 0.0
    key = client.submit(inc, 1).key
    assert fake.expect(messages.Submit).keys == [key]
    session._sent = 0.0
    future = client.submit(inc, 2)
    assert fake.expect(messages.Submit).keys == [future.key]
    assert fake.expect(messages.Release).keys == [key]


def test_who_drops_a_new_result_need_not_wake_the_loop(fake: FakeCluster, client: Client, session: Session) -> None:
    future = client.submit(inc, 1)
    fake.expect(messages.Submit)
    session._tidy_later = lambda: None  # type: ignore[method-assign] # the loop looks when this test says so
    fake.done(future.key, value=2)
    assert future.result() == 2
    assert session._tidying
    key = future.key
    del future
    session._tidy()
    assert fake.expect(messages.Release).keys == [key]


def test_releases_are_collected_and_sent_soon(fake: FakeCluster, client: Client, session: Session) -> None:
    for _ in range(3):  # the loop looks whenever there is something new to look for
        key = client.submit(inc, 1, pure=False).key
        assert fake.expect(messages.Release).keys == [key]
    eventually(lambda: not session._tidying)


def test_a_question_comes_after_what_was_released_before(fake: FakeCluster, client: Client, session: Session) -> None:
    session._tidying = True
    key = client.submit(inc, 1).key
    asking = threading.Thread(target=client.processing)
    asking.start()
    assert fake.expect(messages.Release).keys == [key]
    question = fake.expect(messages.Ask)
    fake.send(("answer", question.id, True, {}))
    asking.join()
