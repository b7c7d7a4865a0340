"""Gathering and scattering: what is skipped, what is shared, and where copies are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from treadle import Client, LocalCluster
from treadle.errors import TaskNotSerializableError, UserError
from treadle.scheduler.scattering import Scattering
from treadle.scheduler.services import Inquiry
from treadle.testing.tasks import boom, eventually, inc


class Pair(NamedTuple):
    left: Any
    right: Any


class Unpicklable:
    """Travels, and cannot be read back."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise RuntimeError("not here")


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def test_what_gather_skips(client: Client) -> None:
    good, bad, gone = client.submit(inc, 1), client.submit(boom, 1), client.submit(inc, 7, resources={"unicorn": 1})
    gone.cancel()
    assert client.gather([good, bad, gone, good], errors="skip") == [2, 2]
    assert client.gather({"a": good, "b": bad, "c": [bad, gone]}, errors="skip") == {"a": 2, "c": []}
    assert client.gather((good, (bad, good)), errors="skip") == (2, (2,))
    assert client.gather({good, bad}, errors="skip") == {2}
    assert client.gather(bad, errors="skip") is None
    assert client.gather(good, errors="skip") == 2
    assert client.gather(iter([bad]), errors="skip") == client.gather([], errors="skip") == []
    assert client.gather("text", errors="skip") == "text"
    assert client.gather(Pair(good, 1), errors="skip") == Pair(2, 1)
    assert type(client.gather(Pair(good, 1), errors="skip")) is Pair
    assert client.gather(Pair(good, bad), errors="skip") == (2,)
    with pytest.raises(ValueError, match="errors must be 'raise' or 'skip', not 'ignore'"):
        client.gather([], errors="ignore")


def test_equal_values_are_stored_once(client: Client) -> None:
    one, two, other = client.scatter([[1, 2], [1, 2], [1, 3]])
    assert one.key == two.key != other.key
    again = client.scatter({"x": [1, 2]})["x"]
    assert again.key == one.key
    assert len(client.who_has([one])[one.key]) == 1
    assert client.gather([one, again, other]) == [[1, 2], [1, 2], [1, 3]]
    assert client.submit(sum, again).result() == 3


def test_equal_values_of_several_clients(cluster: LocalCluster, client: Client) -> None:
    mine = client.scatter([b"shared" * 100])
    with Client(cluster, set_as_default=False) as other:
        theirs = other.scatter([b"shared" * 100])
        assert theirs[0].key == mine[0].key
        mine[0].release()
        assert theirs[0].result() == b"shared" * 100


def test_values_are_apart_if_it_is_asked_for(client: Client) -> None:
    one, two = client.scatter([5, 5], hash=False)
    assert one.key != two.key
    first, second = client.scatter([object(), object()])  # nothing tells these apart, or that they are the same
    assert first.key != second.key


def test_a_key_is_not_used_again(client: Client) -> None:
    """The worker may hear of the release after it has stored the next value."""
    future = client.scatter("some text")
    key = future.key
    future.release()
    again = client.scatter("some text")
    assert again.key != key
    assert again.result() == "some text"


def test_copies_on_all_workers(cluster: LocalCluster, client: Client) -> None:
    everybody = {worker.ident for worker in cluster.workers}
    futures = client.scatter(["a" * 50, "b" * 50], broadcast=True)
    assert [set(holders) for holders in client.who_has(futures).values()] == [everybody, everybody]
    one = client.scatter("c" * 50)
    more = client.scatter("c" * 50, broadcast=2)
    assert more.key == one.key
    assert set(client.who_has(one)[one.key]) == everybody
    assert client.gather(futures) == ["a" * 50, "b" * 50]
    name = cluster.workers[0].name
    alone = client.scatter("d" * 50, workers=[name], broadcast=True)
    assert client.who_has(alone)[alone.key] == [cluster.workers[0].ident]
    keys = [future.key for future in futures]
    del futures
    eventually(lambda: not set(keys) & set(client.who_has()))


def test_bad_copies(client: Client) -> None:
    with pytest.raises(UserError, match="3 copies need 3 workers, and there are 2"):
        client.scatter(1, broadcast=3)
    with pytest.raises(ValueError, match="broadcast must be True, False, or a number of workers of at least 1, not 0"):
        client.scatter(1, broadcast=0)
    with pytest.raises(TaskNotSerializableError, match="a lock"):
        client.scatter([threading.Lock()])
    with pytest.raises(UserError, match="a worker cannot unpickle what was scattered as 'Unpicklable-"):
        client.scatter([Unpicklable()])
    assert client.scatter(3).result() == 3


def test_scatter_in_a_coroutine(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            futures = await client.scatter([1, 1, 2], broadcast=True)
            assert await client.gather(futures, timeout=30) == [1, 1, 2]

    asyncio.run(main())


def test_the_scheduler_forgets_names() -> None:
    """Those of keys that are gone, now and then."""
    tasks: dict[str, Any] = {}
    answers: list[Any] = []
    hub: Any = SimpleNamespace(
        core=SimpleNamespace(tasks=tasks), send=lambda member, op, number, ok, value: answers.append(value)
    )
    scattering = Scattering(hub)
    names = [f"int-{number}" for number in range(1001)]
    scattering.topics()["scatter"](Inquiry(hub, None, 1, "scatter", names))  # type: ignore[arg-type]
    assert [held for _, held in answers[0]] == [False] * 1001
    assert len({key for key, _ in answers[0]}) == 1001
    assert scattering._keys == {}
