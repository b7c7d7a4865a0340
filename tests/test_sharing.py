"""Datasets, events and messages: what all clients of a cluster share."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pickle
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from test_coordination import PATIENCE, Waiting, asynchronously, connect, held, increment
from test_scheduler_server import Site, serving

from treadle import Client, Delayed, LocalCluster, Pub, Sub, delayed
from treadle.errors import ClosedError, UserError
from treadle.scheduler import sharing
from treadle.testing.tasks import eventually


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture
def other(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


# Datasets


def test_a_dataset_outlives_its_client(cluster: LocalCluster, client: Client) -> None:
    with Client(cluster, set_as_default=False) as leaving:
        futures = leaving.map(increment, range(3), pure=False)
        keys = {future.key for future in futures}
        leaving.publish_dataset(futures=futures, plain={"a": 1})
        leaving.publish_dataset("text", name="a name")
    assert client.list_datasets() == ["a name", "futures", "plain"]
    found = client.get_dataset("futures")
    assert client.gather(found) == [1, 2, 3]
    assert client.get_dataset("plain") == {"a": 1}
    assert client.get_dataset("a name") == "text"
    del found
    assert keys <= held(client)
    for name in client.list_datasets():
        client.unpublish_dataset(name)
    assert client.list_datasets() == []
    eventually(lambda: not keys & held(client))


def test_names_of_datasets(client: Client) -> None:
    client.publish_dataset(x=1)
    with pytest.raises(UserError, match="there is a dataset 'x' already"):
        client.publish_dataset(x=2)
    client.publish_dataset(x=2, override=True)
    assert client.get_dataset("x") == 2
    client.unpublish_dataset("x")
    with pytest.raises(KeyError, match="there is no dataset 'x'"):
        client.get_dataset("x")
    assert client.get_dataset("x", default=None) is None
    with pytest.raises(UserError, match="there is no dataset 'x'; there are: none"):
        client.unpublish_dataset("x")


def test_wrong_uses_of_datasets(client: Client, other: Client) -> None:
    with pytest.raises(TypeError, match="needs something to publish"):
        client.publish_dataset()
    with pytest.raises(TypeError, match="or one value and its name: publish_dataset"):
        client.publish_dataset(1)
    with pytest.raises(TypeError, match="the name of a dataset is a str that is not empty, not 7"):
        client.get_dataset(7)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="belongs to another client"):
        client.publish_dataset(x=other.submit(increment, 1))
    with pytest.raises(UserError, match=r"the dataset 'x' \(a bytes\) has 20,000,0.. bytes"):
        client.publish_dataset(x=bytes(20_000_000))


def test_delayed_values_can_be_published(client: Client, other: Client) -> None:
    lazy = delayed(increment)(1)
    client.publish_dataset(lazy=lazy, started=client.persist(lazy + 1))
    found = other.get_dataset("started")
    assert isinstance(found, Delayed)
    assert other.compute(found + 1).result(PATIENCE) == 4
    assert other.get_dataset("lazy").compute() == 2
    client.unpublish_dataset("lazy")
    client.unpublish_dataset("started")


def test_a_future_in_a_value_is_read_by_clients_only(client: Client) -> None:
    from treadle.client.transport import pack_shared

    future = client.submit(increment, 1)
    data, keys = pack_shared([future], client.session, "it", 1000)
    assert keys == [future.key]
    with pytest.raises(UserError, match="can only be read by a client"):
        pickle.loads(data)


# Events


def log_from_task(number: int) -> None:
    from treadle import get_client

    get_client().log_event("tasks", {"number": number})


def test_events_are_kept(client: Client, other: Client) -> None:
    before = time.time()
    client.log_event("history", "one")
    client.log_event("history", ["two"])
    client.submit(log_from_task, 3).result(PATIENCE)
    events = other.get_events("history")
    assert [what for _, what in events] == ["one", ["two"]]
    assert before - 1 < events[0][0] <= events[1][0] <= time.time() + 1
    everything = other.get_events()
    assert everything["history"] == events
    assert everything["tasks"][0][1] == {"number": 3}
    assert other.get_events("nothing") == []


def test_handlers_are_told_of_events(client: Client, other: Client, caplog: pytest.LogCaptureFixture) -> None:
    heard: SimpleQueue[Any] = SimpleQueue()

    def handler(event: tuple[float, Any]) -> None:
        if event[1] == "bad":
            raise ZeroDivisionError
        heard.put((event[1], other.list_datasets()))  # it may use its client

    other.subscribe_topic("news", handler)
    with caplog.at_level(logging.ERROR, logger="treadle.client"):
        for word in ("first", "bad", "second"):
            client.log_event("news", word)
        assert [heard.get(timeout=PATIENCE)[0] for _ in range(2)] == ["first", "second"]
    assert "has raised; it will be called again" in caplog.text
    other.unsubscribe_topic("news")
    client.log_event("news", "third")
    other.subscribe_topic("news", handler)
    client.log_event("news", "fourth")
    assert heard.get(timeout=PATIENCE)[0] == "fourth"
    other.unsubscribe_topic("news")


def test_wrong_uses_of_events(client: Client) -> None:
    with pytest.raises(UserError, match="has not subscribed to the topic 'x'"):
        client.unsubscribe_topic("x")
    with pytest.raises(TypeError, match="the handler must be a function"):
        client.subscribe_topic("x", 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an event cannot have futures in it"):
        client.log_event("x", client.submit(increment, 1))
    with pytest.raises(UserError, match=r"the event of 'x' .* has 100,0.. bytes"):
        client.log_event("x", bytes(100_000))
    with pytest.raises(TypeError, match="a topic is a str"):
        client.log_event("", 1)


def test_the_history_of_a_topic_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "EVENTS", 3)
    monkeypatch.setattr(sharing, "EVENT_BYTES", 10)
    topic = sharing.Topic()
    for number, size in enumerate([1, 1, 1, 1, 9]):
        topic.record((number, 0.0, bytes(size)))
    assert [number for number, _, _ in topic.history] == [3, 4]
    assert topic.nbytes == 10


# Messages


def publish(name: str, count: int) -> None:
    for number in range(count):
        Pub(name).put(number)


def test_all_who_listen_get_all_messages(client: Client, other: Client) -> None:
    with Sub("all") as one, Sub("all") as two, Sub("all", client=other) as three:
        client.submit(publish, "all", 5).result(PATIENCE)
        for sub in (one, two, three):
            assert [sub.get(timeout=PATIENCE) for _ in range(5)] == list(range(5))
            with pytest.raises(concurrent.futures.TimeoutError):
                sub.get(timeout=0.01)
            assert sub.missed == 0


def test_one_who_does_not_read_misses_the_oldest(client: Client) -> None:
    with Sub("slow", buffer=2) as sub:
        publish("slow", 5)
        client.list_datasets()
        assert [sub.get(PATIENCE), sub.get(PATIENCE), sub.missed] == [3, 4, 3]


def test_one_can_iterate_until_the_subscription_is_closed(client: Client) -> None:
    sub = Sub("loop")
    reading = Waiting(lambda: list(sub))
    publish("loop", 3)
    sub.close()
    assert set(reading.result()) <= {0, 1, 2}
    with pytest.raises(ClosedError, match="the subscription to 'message:loop' was closed"):
        list(map(Sub.get, [sub] * 4))


def test_a_subscription_ends_with_its_client(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as leaving:
        sub = Sub("end", client=leaving)
        reading = Waiting(sub.get)
    with pytest.raises(ClosedError):
        reading.result()


def test_a_subscription_that_nobody_has_any_more_is_ended(client: Client) -> None:
    from treadle.client.topics import _subscriptions_of

    sub = Sub("forgotten")
    del sub
    publish("forgotten", 1)  # which finds nobody
    client.list_datasets()
    assert "message:forgotten" not in _subscriptions_of(client.session)._feeds
    with Sub("forgotten") as again:
        publish("forgotten", 1)
        assert again.get(timeout=PATIENCE) == 0


def test_wrong_uses_of_messages(client: Client) -> None:
    with pytest.raises(UserError, match="a message cannot have futures in it"):
        Pub("x").put(client.submit(increment, 1))
    with pytest.raises(ValueError, match="buffer must be at least 1, not 0"):
        Sub("x", buffer=0)


@asynchronously
async def test_messages_and_events_can_be_awaited(client: Client) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(event: tuple[float, Any]) -> None:
        heard.put_nowait(event[1])

    await client.subscribe_topic("async", handler)
    await client.log_event("async", 1)
    assert await heard.get() == 1
    client.unsubscribe_topic("async")
    async with Sub("async") as sub:
        await Pub("async").put(1)
        await Pub("async").put(2)
        assert await sub.get(timeout=PATIENCE) == 1
        async for message in sub:
            assert message == 2
            sub.close()
        with pytest.raises(UserError, match="write `async for`"):
            next(iter(sub))
    await client.publish_dataset(asynchronous=[client.submit(increment, 1)])
    (future,) = await client.get_dataset("asynchronous")
    assert await future == 2
    await client.unpublish_dataset("asynchronous")


@serving()
async def test_the_scheduler_keeps_nothing_for_one_who_does_not_read(site: Site) -> None:
    async with connect(site) as client:
        sub = Sub("s", client=client)
        await Pub("s", client=client).put(0)
        before, sharing.UNSENT = sharing.UNSENT, 0  # type: ignore[misc]
        try:
            await Pub("s", client=client).put(1)
        finally:
            sharing.UNSENT = before  # type: ignore[misc]
        await Pub("s", client=client).put(2)
        assert [await sub.get(PATIENCE), await sub.get(PATIENCE), sub.missed] == [0, 2, 1]


def test_two_threads_read_one_subscription(client: Client) -> None:
    with Sub("shared") as sub:
        reading = [Waiting(sub.get) for _ in range(2)]
        publish("shared", 2)
        assert sorted(each.result() for each in reading) == [0, 1]
