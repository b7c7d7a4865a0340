"""Workers of a real cluster that are killed while they work."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from treadle.client.client import Client
from treadle.deploy.local import LocalCluster
from treadle.errors import DataLostError, KilledWorkerError

#: A tree with so many leaves has 10,001 tasks.
LEAVES = 5001
#: How often a worker is killed while such a tree is computed.
ROUNDS = 50


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def duration(cluster: LocalCluster) -> float:
    """Seconds that the tree takes when nobody is killed."""
    graph, key = tree(LEAVES)
    with Client(cluster, set_as_default=False) as client:
        client.get(graph, key)
        start = time.perf_counter()
        client.get(graph, key)
        return time.perf_counter() - start


def leaf(number: int) -> int:
    return number * number


def add(left: int, right: int) -> int:
    return left + right


def tree(leaves: int) -> tuple[dict[Any, Any], Any]:
    """A graph that adds up squares in pairs, and the key of the sum."""
    graph: dict[Any, Any] = {("leaf", number): (leaf, number) for number in range(leaves)}
    level = list(graph)
    serial = 0
    while len(level) > 1:
        above: list[Any] = []
        for index in range(0, len(level) - 1, 2):
            serial += 1
            key = ("sum", serial)
            graph[key] = (add, level[index], level[index + 1])
            above.append(key)
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return graph, level[0]


def kill_self(path: str, times: int) -> str:
    """Kill the process that runs this, so many times."""
    with open(path, "ab") as file:
        file.write(b"x")
    if os.path.getsize(path) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_tree_survives_the_death_of_a_worker(
    client: Client, cluster: LocalCluster, duration: float, seed: int
) -> None:
    dice = random.Random(seed)
    graph, key = tree(LEAVES)
    assert len(graph) == 10_001
    cluster.wait_for_workers(2)
    killer = threading.Timer(dice.uniform(0, duration), lambda: cluster.kill_worker(dice.randrange(2)))
    killer.start()
    try:
        assert client.get(graph, key) == sum(number * number for number in range(LEAVES))
    finally:
        killer.join()


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_survives_a_task_that_kills_its_worker_twice(
    client: Client, cluster: LocalCluster, tmp_path: Path, seed: int
) -> None:
    graph, key = tree(LEAVES)
    victim = random.Random(seed).randrange(LEAVES)
    graph["killer"] = (kill_self, str(tmp_path / "deaths"), 2)
    graph["leaf, if alive"] = (second, "killer", ("leaf", victim))
    graph["both"] = (add, key, "leaf, if alive")
    expected = sum(number * number for number in range(LEAVES)) + victim * victim
    assert client.get(graph, "both") == expected
    assert (tmp_path / "deaths").stat().st_size == 3


def second(_: object, value: int) -> int:
    return value


def test_a_task_that_kills_every_worker_is_given_up(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "deaths"
    killer = client.submit(kill_self, str(path), 100, key="the killer")
    innocent = client.map(leaf, range(500), pure=False)
    with pytest.raises(KilledWorkerError) as caught:
        killer.result(60)
    error = caught.value
    assert (error.key, error.deaths, error.signal) == ("the killer", 3, signal.SIGKILL)
    assert error.host == socket.gethostname()
    assert error.pid > 0
    assert "the task 'the killer' was given up: 3 workers died while they ran it" in str(error)
    assert "SIGKILL" in str(error)
    assert path.stat().st_size == 3
    assert client.gather(innocent) == [number * number for number in range(500)]


def test_what_depends_on_a_killer_fails_with_it(client: Client, tmp_path: Path) -> None:
    killer = client.submit(kill_self, str(tmp_path / "deaths"), 100)
    after = client.submit(second, killer, 1)
    with pytest.raises(KilledWorkerError, match="kill_self"):
        after.result(60)


def test_results_that_died_with_their_worker_are_computed_again(client: Client, cluster: LocalCluster) -> None:
    futures = client.map(bytes, [100_000] * 20, pure=False)
    done, waiting = wait(futures, timeout=60)
    assert len(done) == 20
    assert not waiting
    cluster.wait_for_workers(2)
    for worker in cluster.workers:
        cluster.kill_worker(worker.ident)
    assert client.gather(futures) == [bytes(100_000)] * 20


def test_scattered_values_are_lost_with_their_worker(client: Client, cluster: LocalCluster) -> None:
    cluster.wait_for_workers(2)
    worker = cluster.workers[0]
    future = client.scatter(b"x" * 100_000, workers=worker.ident)
    cluster.kill_worker(worker.name)
    dependent = client.submit(len, future)
    with pytest.raises(DataLostError, match=r"is lost: .*, the last worker that held it, is gone"):
        dependent.result(60)
