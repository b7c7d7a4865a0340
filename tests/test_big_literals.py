"""Big values in graphs: they go straight to workers, and nothing is lost for good when one of these dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_tasks import die, measure

import treadle
from treadle import Client, LocalCluster
from treadle.client import scattering
from treadle.client.calls import LIMIT
from treadle.client.graphs import APART
from treadle.client.session import Session
from treadle.errors import DataLostError, KilledWorkerError, PeerError, UserError
from treadle.graph.spec import Task
from treadle.testing.tasks import Recorder, eventually

# Untyped, in part.
dask: Any = import_module("dask")
da: Any = import_module("dask.array")


@pytest.fixture
def client(default_client: Client) -> Client:
    return default_client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of arguments that each graph sends to the scheduler."""
    sizes: list[int] = []
    ship = Session.ship

    def counted(session: Session, futures: Sequence[Any], batch: Sequence[tuple[Any, ...]]) -> None:
        if any(message[0] == "submit" for message in batch):
            sizes.append(sum(len(payload) for message in batch if message[0] == "submit" for payload in message[3]))
        ship(session, futures, batch)

    monkeypatch.setattr(Session, "ship", counted)
    return sizes


def on_workers(client: Client) -> int:
    """How many results, and values, workers hold."""
    return sum(len(keys) for keys in client.has_what().values())


def test_every_kind_of_place(client: Client, sent: list[int]) -> None:
    array, text, items = np.zeros(APART // 8), "x" * APART, [f"{number:02000d}" for number in range(1000)]
    graph: dict[Any, Any] = {
        "array": array,
        "one": (measure, "array"),
        "two": (measure, "array", b"y" * APART),
        "three": Task(measure, text, word=items, other={"deep": array}),
        "four": (measure, ["one", [array, "two"]], items),
        "small": (measure, "z" * 1000),
    }
    keys = ["one", "two", "three", "four", "small"]
    found = client.get(graph, keys)
    assert found == treadle.get(graph, keys, "sync")
    assert found[2] == [APART, 1000, 1]
    assert sum(sent) < 10_000
    eventually(lambda: on_workers(client) == 0)


def test_what_is_not_big_travels_with_its_task(client: Client, sent: list[int]) -> None:
    assert client.get({"x": (measure, b"a" * (APART - 1000), b"b" * 900)}, "x") == [APART - 1000, 900]
    assert APART - 1000 < sent[0] < APART
    parts = [b"c" * (APART // 4) for _ in range(5)]
    assert client.get({"x": (measure, *parts)}, "x") == [APART // 4] * 5
    assert sent[1] > APART


def test_an_array_in_chunks(client: Client, sent: list[int]) -> None:
    numbers = np.arange(1_000_000.0).reshape(1000, 1000)
    x = da.from_array(numbers, chunks=500)
    assert (x + x.T).sum().compute() == 2 * numbers.sum()
    assert sum(sent) < 100_000
    eventually(lambda: on_workers(client) == 0)


def test_more_than_a_task_may_have(client: Client) -> None:
    big = np.zeros(LIMIT // 8 + 1)
    x = da.from_array(big, chunks=-1)
    assert x.sum().compute() == 0
    assert treadle.delayed(len)(big).compute() == len(big)
    future = client.compute(treadle.delayed(len)(big))
    assert future.result() == len(big)
    assert on_workers(client) == 2, "what the result can be made of again is kept with it"
    del future
    eventually(lambda: on_workers(client) == 0)
    held, chunk = client.persist(x.sum(), x)
    del x
    assert held.compute() == chunk.sum().compute() == 0


def test_where_nothing_can_wait(cluster: LocalCluster) -> None:
    big = bytes(LIMIT + 1)

    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            assert await client.get({"x": (len, big)}, "x") == len(big)
            with pytest.raises(UserError, match=r"argument 1 \(a bytes\) of the task .* no more than .*client.scatter"):
                client.compute(treadle.delayed(len)(big))
            small = client.compute(treadle.delayed(len)(big[: 2 * APART]))
            assert await small == 2 * APART

    asyncio.run(main())


def test_callbacks_see_the_tasks_alone(client: Client) -> None:
    recorder = Recorder()
    assert client.get({"x": (len, bytes(APART)), "y": (abs, "x")}, "y", callbacks=[recorder]) == APART
    assert sorted(recorder.keys("after")) == ["x", "y"]


@pytest.mark.parametrize("times", [3, 4])
def test_workers_die_while_they_are_given_it(client: Client, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    store = scattering._store
    deaths: list[str] = []

    async def dying(session: Session, ident: str, *rest: Any) -> None:
        if len(deaths) < times:
            deaths.append(ident)
            raise PeerError("it died")
        await store(session, ident, *rest)

    monkeypatch.setattr(scattering, "_store", dying)
    graph = {"x": (len, bytes(APART))}
    if times == 3:
        assert client.get(graph, "x") == APART
    else:
        with pytest.raises(PeerError, match="it died"):
            client.get(graph, "x")
    assert len(deaths) == times


def test_there_is_no_worker_yet() -> None:
    with LocalCluster(0, 1) as cluster, Client(cluster) as client, ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, {"x": (len, bytes(APART))}, "x")
        eventually(lambda: bool(client.session._replies))
        cluster.scale(1)
        assert waiting.result() == APART


def test_the_worker_that_has_it_dies(client: Client, sent: list[int], tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    value = bytes(APART)
    assert client.get({"x": (die, str(calls), 1, value)}, "x") == APART
    assert calls.read_text() == ".."
    assert sent[0] < 1000, "it goes to a worker"
    assert sent[1] > APART, "the scheduler has it, and can give it to any worker"


def test_what_the_scheduler_cannot_keep_is_lost(client: Client, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    future = client.compute(treadle.delayed(die)(str(calls), 1, bytes(LIMIT)))
    with pytest.raises(DataLostError, match=r"value 'die-.*' is lost: .* or compute anew what had it in its graph"):
        future.result()
    assert client.compute(treadle.delayed(die)(str(calls), 1, bytes(LIMIT))).result() == LIMIT


def test_the_task_that_has_it_kills_its_workers(tmp_path: Path) -> None:
    graph = {"x": (die, str(tmp_path / "calls"), 100, bytes(APART))}
    with (
        LocalCluster(6, 1) as cluster,
        Client(cluster) as client,
        pytest.raises(KilledWorkerError, match="the task 'x' was given up"),
    ):
        client.get(graph, "x")
