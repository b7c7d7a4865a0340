"""Bad input: each is a clear error, and the client can be used afterwards."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import pytest
from client_parts import FakeCluster

import treadle
from treadle import Client, LocalCluster
from treadle.client.calls import LargeArgumentWarning
from treadle.errors import ClosedError, DataLostError, DuplicateKeyError, UserError
from treadle.testing.tasks import add, eventually, inc
from treadle.wire import messages


def check_usable(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="after")
    client.session.flush()
    while "after" not in fake.expect(messages.Submit).keys:
        pass
    fake.done("after", value=2)
    assert future.result(30) == 2


# Use after close, and futures of others


def test_use_after_close(fake: FakeCluster) -> None:
    with fake.client() as client:
        future = client.submit(inc, 1)
    for use in (
        partial(client.submit, inc, 1),
        partial(client.map, inc, [1]),
        partial(client.scatter, [1]),
        partial(client.retry, future),
        partial(client.cancel, future),
        partial(client.get, {"x": (inc, 1)}, "x"),
        partial(client.story, future),
        client.profile,
        client.get_versions,
        client.scheduler_info,
    ):
        with pytest.raises(ClosedError, match="this client is closed"):
            use()
    with pytest.raises(CancelledError):
        future.result()
    client.close()


def test_futures_of_another_client(fake: FakeCluster, client: Client) -> None:
    with fake.client() as other:
        future = other.submit(inc, 1, key="theirs")
        for use in (client.gather, client.cancel, client.retry):
            with pytest.raises(UserError, match=f"'theirs' pending> belongs to another client, {other._name}"):
                use([future])
        with pytest.raises(UserError, match="belongs to the client"):
            client.submit(inc, future)
        assert future.status == "pending"
    with fake.client() as client:
        check_usable(fake, client)


def test_waiting_for_a_cancelled_future(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    client.cancel(future, reason="not needed any more")
    for wait in (future.result, future.exception, partial(client.gather, [future])):
        with pytest.raises(CancelledError, match="not needed any more"):
            wait()
    assert treadle.wait([future]).done == {future}
    assert list(treadle.as_completed([future])) == [future]
    assert client.gather([future], errors="skip") == []
    check_usable(fake, client)


# Lost data, and callbacks that raise


def test_scattered_data_that_had_one_holder() -> None:
    with LocalCluster(2, 1) as cluster, Client(cluster, set_as_default=False) as client:
        worker = cluster.workers[0]
        future = client.scatter(b"x" * 100_000, workers=worker.name)
        total = client.submit(len, client.submit(inc, 1, resources={"unicorn": 1}))
        kept = client.scatter("kept", broadcast=True)
        cluster.kill_worker(worker.name)
        with pytest.raises(
            DataLostError, match=f"is lost: {worker.name}, the last worker that held it, is gone"
        ) as lost:
            future.result(60)
        assert (lost.value.worker, lost.value.key) == (worker.name, future.key)
        with pytest.raises(DataLostError):
            client.submit(len, future).result(60)
        assert kept.result(60) == "kept"
        again = client.scatter(b"x" * 100_000)
        assert client.submit(len, again).result(60) == 100_000
        total.cancel()


def test_a_callback_that_raises(fake: FakeCluster, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    future = client.submit(inc, 1, key="x")
    called = threading.Event()

    def bad(each: Any) -> None:
        raise RuntimeError("in a callback")

    future.add_done_callback(bad)
    future.add_done_callback(lambda each: called.set())
    with caplog.at_level(logging.ERROR):
        fake.done("x", value=2)
        assert called.wait(30)
    assert future.result() == 2
    assert "in a callback" in caplog.text
    check_usable(fake, client)


# Keys


def test_a_key_for_two_tasks(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    assert client.submit(inc, 1, key="x").key == "x"
    for other in (
        partial(client.submit, inc, 2, key="x"),
        partial(client.submit, abs, 1, key="x"),
        partial(client.submit, inc, future, key="x"),
        partial(client.submit, len, [1, 2], key="x"),
        partial(client.map, inc, [7, 2], key=["y", "x"]),
    ):
        with pytest.raises(DuplicateKeyError, match="the key 'x' names another task already: another function, or"):
            other()
    check_usable(fake, client)
    del future
    client.submit(inc, 2, key="x").release()
    client.session.flush()
    assert client.submit(inc, 3, key="x").status == "pending"


def test_the_same_task_under_the_same_key(fake: FakeCluster, client: Client) -> None:
    table = {"b": {3, 1, 2}, "a": [object]}
    first = client.submit(len, table, key="x")
    second = client.submit(len, {"b": {1, 2, 3}, "a": [object]}, key="x")
    assert first.key == second.key
    with pytest.raises(DuplicateKeyError):
        client.submit(len, {"b": {1, 2}, "a": [object]}, key="x")
    futures = client.map(add, [1, 2], [3, 4], key="y")
    assert [each.key for each in client.map(add, [1, 2], [3, 4], key="y")] == [each.key for each in futures]
    with pytest.raises(DuplicateKeyError, match="'y-1'"):
        client.map(add, [1, 2], [3, 5], key="y")
    # What has no content to compare is taken to be the same.
    opaque = client.submit(id, object(), key="z")
    assert client.submit(id, object(), key="z").key == opaque.key


def test_keys_that_are_gone_are_forgotten(client: Client) -> None:
    for number in range(1500):
        client.submit(inc, number, key=f"x-{number}")
        if number % 100 == 0:
            client.session.flush()
    assert len(client.session.claims._known) < 1100


@pytest.mark.parametrize("key", ["", 7, b"x"])
def test_what_is_no_key(fake: FakeCluster, client: Client, key: Any) -> None:
    with pytest.raises(TypeError, match="key must be a str that is not empty"):
        client.submit(inc, 1, key=key)
    check_usable(fake, client)


# Calls


def test_nothing_to_map_over(fake: FakeCluster, client: Client) -> None:
    with pytest.raises(TypeError, match=r"map needs something to map over: client\.map\(func, items\)"):
        client.map(inc)
    with pytest.raises(ValueError, match="unequal lengths: iterable 2 has 2 items, iterable 1 has more"):
        client.map(add, [1, 2, 3], [1, 2], strict=True)
    assert fake.unread() == []
    check_usable(fake, client)


def test_what_the_scheduler_does_not_understand(fake: FakeCluster, client: Client) -> None:
    answers: list[BaseException] = []

    def ask() -> None:
        try:
            client.who_has()
        except UserError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    question = fake.expect(messages.Ask)
    fake.send(("answer", question.id, False, "there is no topic 'who_has'"))
    thread.join(30)
    assert [str(error) for error in answers] == ["there is no topic 'who_has'"]
    check_usable(fake, client)


def test_futures_that_are_gone_while_others_wait(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    waiting = treadle.as_completed([future])
    future.release()
    assert next(waiting).status == "cancelled"
    eventually(lambda: client.session.registry.of("x") == [])
    check_usable(fake, client)


class Opaque:
    """Looks small: it has no attributes that could be asked."""

    __slots__ = ("inside",)

    def __init__(self, inside: bytes) -> None:
        self.inside = inside


def test_who_sends_much_data_is_told_how_much(fake: FakeCluster) -> None:
    with fake.client() as client:
        with pytest.warns(
            LargeArgumentWarning, match=r"the argument 2 \(a bytes\) of the task 'x' takes 11,000,033 bytes"
        ):
            client.submit(add, b"", bytes(11_000_000), key="x")
        with pytest.warns(LargeArgumentWarning, match=r"the arguments of the task 'y' take 11,000,\d\d\d bytes"):
            client.submit(inc, Opaque(bytes(11_000_000)), key="y")
        with pytest.raises(
            UserError, match=r"take 140,000,\d\d\d bytes; no more than 134,217,728 can be sent with a task"
        ):
            client.submit(inc, Opaque(bytes(140_000_000)), key="z")
        check_usable(fake, client)
