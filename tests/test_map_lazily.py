"""``client.map`` over what never ends, and over iterables of unequal lengths."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_parts import Gate, drain, pass_gate

from treadle import Client, LocalCluster
from treadle.errors import ClosedError, TaskNotSerializableError, UserError
from treadle.testing.tasks import Boom, add, called_with, eventually, inc, same


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


def test_the_results_of_an_endless_iterable(client: Client) -> None:
    futures = client.map(inc, itertools.count(), buffersize=10)
    assert [future.result() for future in itertools.islice(futures, 1000)] == list(range(1, 1001))
    futures.close()


def test_nothing_is_kept_of_what_was_given(client: Client) -> None:
    futures = client.map(inc, itertools.count(), buffersize=10)
    for future in itertools.islice(futures, 500):
        future.result()
    client.session.flush()
    eventually(lambda: len(client.session.registry.futures) <= 11)
    futures.close()
    del future, futures
    client.session.flush()
    eventually(lambda: not client.session.registry.futures)


def test_at_most_buffersize_calls_are_submitted_and_not_given(client: Client, gate: Gate) -> None:
    taken: list[int] = []
    with client.map(pass_gate, itertools.repeat(gate.path), drain(itertools.count(), taken), buffersize=3) as futures:
        assert taken == [0, 1, 2]
        assert repr(futures) == "<LazyMap, 3 calls submitted>"
        gate.open()
        for count in range(1, 6):
            future = next(futures)
            assert future.done()
            assert future.result() == count - 1
            assert len(taken) == 3 + count


def test_it_ends_with_the_shortest_iterable(client: Client) -> None:
    futures = client.map(add, range(5), itertools.count(), buffersize=2)
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]
    assert list(futures) == []
    assert list(client.map(inc, [], buffersize=2)) == []
    assert client.gather(client.map(add, itertools.count(), [5, 6])) == [5, 7]


def test_a_failed_call_does_not_end_it(client: Client) -> None:
    futures = list(client.map(reciprocal, [1, 0, 2], buffersize=1))
    assert [future.status for future in futures] == ["finished", "error", "finished"]
    assert client.gather(futures, errors="skip") == [1.0, 0.5]


def reciprocal(number: float) -> float:
    return 1 / number


def test_options_are_those_of_a_map(client: Client) -> None:
    def futures(**options: Any) -> Any:
        return client.map(called_with, itertools.count(), buffersize=2, **options)

    named = futures(key="lazy", word="a")
    assert [next(named).key for _ in range(3)] == ["lazy-0", "lazy-1", "lazy-2"]
    assert next(named).result() == ((3,), {"word": "a"})
    listed = futures(key=["first", "second"])
    assert [next(listed).key, next(listed).key] == ["first", "second"]
    with pytest.raises(ValueError, match="more calls than keys"):
        next(listed)
    endless = futures(key=map("number {}".format, itertools.count()))
    assert [next(endless).key for _ in range(3)] == ["number 0", "number 1", "number 2"]
    with pytest.raises(ValueError, match="retries"):
        futures(retries=-1)
    pending = client.map(inc, itertools.count(), buffersize=2, resources={"none": 1})
    assert "none" in client.explain(pending._buffer.waiting[0])
    pending.close()
    assert len(client.gather(list(client.map(inc, [1, 1], pure=False, buffersize=2)))) == 2


def test_what_goes_wrong_with_a_call_comes_after_the_calls_before_it(client: Client) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise Boom("in the iterable")

    futures = client.map(inc, items(), buffersize=10)
    assert [next(futures).result(), next(futures).result()] == [2, 3]
    with pytest.raises(Boom, match="in the iterable"):
        next(futures)
    assert list(futures) == []

    unpicklable = client.map(same, [1, (number for number in range(3))], buffersize=5)
    assert next(unpicklable).result() == 1
    with pytest.raises(TaskNotSerializableError, match="its argument 1"):
        next(unpicklable)


def test_strict_wants_equal_lengths(client: Client) -> None:
    assert client.gather(client.map(add, [1, 2], (3, 4), strict=True)) == [4, 6]
    assert client.map(add, [], [], strict=True) == []
    with pytest.raises(ValueError, match="iterable 2 has 1 items, iterable 1 has more"):
        client.map(add, [1, 2], [3], strict=True)
    with pytest.raises(ValueError, match="iterable 1 has 2 items, iterable 2 has more"):
        client.map(add, [1, 2], itertools.count(), strict=True)
    futures = client.map(add, [1, 2], [3, 4, 5], strict=True, buffersize=2)
    assert [next(futures).result(), next(futures).result()] == [4, 6]
    with pytest.raises(ValueError, match="iterable 1 has 2 items, iterable 2 has more"):
        next(futures)
    assert client.gather(client.map(add, [1, 2], [3])) == [4]


def test_bad_arguments(client: Client) -> None:
    with pytest.raises(TypeError, match="something to map over"):
        client.map(inc, buffersize=3)
    with pytest.raises(TypeError, match="must be the function to call, not 3"):
        client.map(3, [1], buffersize=3)  # type: ignore[call-overload]
    for wrong in (0, -2):
        with pytest.raises(ValueError, match="buffersize must be at least 1"):
            client.map(inc, [1], buffersize=wrong)
    for other in ("3", 2.5):
        with pytest.raises(TypeError, match="buffersize must be a whole number or None, not"):
            client.map(inc, [1], buffersize=other)  # type: ignore[call-overload]


def test_closing_cancels_what_was_not_given(client: Client, gate: Gate) -> None:
    futures = client.map(pass_gate, itertools.repeat(gate.path), itertools.count(), buffersize=4)
    waiting = list(futures._buffer.waiting)
    futures.close()
    assert [future.cancelled() for future in waiting] == [True] * 4
    assert list(futures) == []
    futures.close()


def test_what_is_forgotten_is_released(client: Client) -> None:
    futures = client.map(inc, itertools.count(), buffersize=4, resources={"none": 1})
    keys = [future.key for future in futures._buffer.waiting]
    client.session.flush()
    del futures
    client.session.flush()
    eventually(lambda: not client.session.registry.futures.keys() & set(keys))


def test_the_client_is_closed_meanwhile(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        futures = client.map(inc, itertools.count(), buffersize=4)
        next(futures)
    with pytest.raises(ClosedError):
        next(futures)


def test_in_coroutines(cluster: LocalCluster) -> None:
    async def main() -> list[int]:
        async with Client(cluster, asynchronous=True) as client:
            results: list[int] = []
            futures = client.map(inc, itertools.count(), buffersize=3)
            async for future in futures:
                results.append(await future)
                if len(results) == 50:
                    break
            with pytest.raises(UserError, match="this is the thread of the event loop"):
                next(futures)
            futures.close()
            assert [future async for future in futures] == []
            return results

    assert asyncio.run(main()) == list(range(1, 51))
