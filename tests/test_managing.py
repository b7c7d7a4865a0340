"""Looking after workers and their data, on a real cluster."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import treadle
from treadle import Client, Future, LocalCluster
from treadle.client.managing import Assigned
from treadle.errors import ClosedError, ConnectError, DataLostError, UserError
from treadle.testing.tasks import add, eventually, inc, meet, pipes, total


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=3, threads_per_worker=1, name="here") as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: LocalCluster) -> LocalCluster:
    """A cluster with three workers, whatever became of those that there were."""
    shared.scale(3)
    return shared


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def hold(client: Client, tmp_path: Path) -> Iterator[Any]:
    """``hold(worker=…)`` returns a task that has begun to run, and runs until ``hold.go()`` or the end of the test.

    After ``hold.forget()`` the tasks need not come to an end: their processes have.
    """
    held: list[threading.Thread] = []

    def start(**options: Any) -> Future[Any]:
        folder = tmp_path / str(len(held))
        folder.mkdir()
        one, two = pipes(folder, 2)
        future = client.submit(begin_and_meet, one, two, str(folder / "begun"), pure=False, **options)
        client.session.flush()
        eventually((folder / "begun").exists)
        held.append(threading.Thread(target=meet, args=(two, one)))
        return future

    def go() -> None:
        for thread in held:
            if not thread.ident:
                thread.start()
            thread.join()

    start.go = go  # type: ignore[attr-defined]
    start.forget = held.clear  # type: ignore[attr-defined]
    yield start
    go()


def begin_and_meet(one: str, two: str, begun: str) -> str:
    Path(begun).touch()
    meet(one, two)
    return "met"


def big_and_locked() -> tuple[Any, bytes]:
    return threading.Lock(), bytes(100_000)


def names(cluster: LocalCluster) -> list[str]:
    return [worker.name for worker in cluster.workers]


def held_by(client: Client, name: str) -> list[str]:
    ((_, keys),) = client.has_what(name).items()
    found: list[str] = keys
    return found


# Workers


def test_wait_for_workers(cluster: LocalCluster, client: Client) -> None:
    assert client.wait_for_workers(2) is None
    with pytest.raises(FutureTimeoutError, match=r"there were not 4 workers within 0\.05 seconds"):
        client.wait_for_workers(4, timeout=0.05)
    waiting = threading.Thread(target=client.wait_for_workers, args=(4, 60.0))
    waiting.start()
    cluster.scale(4)
    waiting.join()
    cluster.scale(3)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "two"])
def test_wait_for_a_number_of_workers_that_is_none(client: Client, count: Any) -> None:
    with pytest.raises(ValueError, match="n_workers must be a whole number of at least 1"):
        client.wait_for_workers(count)


def test_threads_of_workers(cluster: LocalCluster, client: Client) -> None:
    assert list(client.nthreads().values()) == [1, 1, 1]
    first = cluster.workers[0]
    assert client.nthreads(first.name) == client.ncores([first.address]) == {first.ident: 1}


def test_what_workers_have_to_do(client: Client, hold: Any) -> None:
    running = hold(workers="here-0")
    behind = client.submit(inc, 1, workers="here-0", pure=False)
    client.session.flush()
    eventually(lambda: client.processing("here-0") != {})
    ((ident, assigned),) = client.processing("here-0").items()
    assert running.key in assigned
    assert assigned.stopping == []
    assert sorted(client.processing()) == sorted(client.nthreads())
    running.cancel()
    eventually(lambda: client.processing()[ident].stopping == [running.key])
    assert running.key not in client.processing()[ident], "it is told apart"
    hold.go()
    assert behind.result() == 2
    eventually(lambda: client.processing()[ident].stopping == [])


def test_the_look_of_what_workers_have_to_do() -> None:
    assert repr(Assigned(["x"])) == "['x']"
    assert repr(Assigned(["x"], ["y"])) == "['x'] (stopping: ['y'])"


def test_an_unknown_worker(client: Client) -> None:
    for asks in (client.processing, client.retire_workers, client.restart_workers):
        with pytest.raises(UserError, match="there is no worker 'nobody'; there are: here-0, here-1, here-2"):
            asks("nobody")
    with pytest.raises(TypeError, match="workers are named by strings"):
        client.processing([1])  # type: ignore[list-item]


def test_a_worker_retires_and_its_results_stay(cluster: LocalCluster, client: Client, hold: Any) -> None:
    values = client.scatter([10, 20, 30], workers="here-1")
    result = client.submit(inc, 1, workers="here-1", pure=False)
    assert result.result() == 2
    running = hold(workers="here-1")
    answer: list[Any] = []
    retiring = threading.Thread(target=lambda: answer.append(client.retire_workers("here-1")))
    retiring.start()
    eventually(lambda: client.scheduler_info()["workers"][running_on(client, running)]["retiring"])
    others = client.map(inc, range(100, 120))
    assert client.gather(others) == list(range(101, 121))
    assert not answer, "what it is running ends first"
    hold.go()
    retiring.join()
    ((_, about),) = answer[0].items()
    assert about["name"] == "here-1"
    assert about["nthreads"] == 1
    cluster.wait_for_workers(2)
    assert names(cluster) == ["here-0", "here-2"], "its process is not replaced"
    assert client.gather([*values, running]) == [10, 20, 30, "met"]
    assert client.submit(total, values).result() == 60
    cluster.scale(3)
    assert names(cluster) == ["here-0", "here-1", "here-2"]


def running_on(client: Client, future: Future[Any]) -> str:
    assigned: dict[str, Assigned] = client.processing()
    return next(ident for ident, keys in assigned.items() if future.key in keys)


def test_some_workers_retire(cluster: LocalCluster, client: Client) -> None:
    values = client.scatter(list(range(9)))
    gone = client.retire_workers(n=2)
    assert len(gone) == 2
    cluster.wait_for_workers(1)
    assert client.gather(values) == list(range(9))
    with pytest.raises(UserError, match="2 workers cannot retire: there are 1"):
        client.retire_workers(n=2)


def test_the_last_worker_does_not_retire_with_the_last_copy(cluster: LocalCluster, client: Client) -> None:
    cluster.scale(1)
    (name,) = names(cluster)
    value = client.scatter("treasure")
    with pytest.raises(UserError, match=r"stays: there is no other worker to take 'str-.*'; force=True has it"):
        client.retire_workers(name)
    assert client.submit(inc, 1, pure=False).result() == 2, "it gets tasks again"
    assert client.retire_workers(name, force=True)
    with pytest.raises(DataLostError):
        value.result()


def test_a_worker_retires_and_stays_connected(client: Client) -> None:
    (ident,) = client.retire_workers("here-2", close_workers=False)
    assert client.scheduler_info()["workers"][ident]["retiring"]
    futures = client.map(inc, range(200, 220))
    client.gather(futures)
    assert held_by(client, "here-2") == []
    client.restart_workers("here-2")
    assert not any(about["retiring"] for about in client.scheduler_info()["workers"].values())


@pytest.mark.parametrize("words", [{}, {"workers": "here-0", "n": 1}])
def test_which_workers_are_to_retire_must_be_said(client: Client, words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="say either which workers are to leave, or how many"):
        client.retire_workers(**words)
    with pytest.raises(ValueError, match="n must be a whole number"):
        client.retire_workers(n=0)


def test_nobody_retires_if_nobody_is_named(client: Client) -> None:
    assert client.retire_workers([]) == {}


def test_a_restart_is_a_new_beginning(cluster: LocalCluster, client: Client, hold: Any) -> None:
    pids = {worker.pid for worker in cluster.workers}
    running = hold(workers="here-0")
    waiting = client.submit(add, running, 1, pure=False)
    value = client.scatter(1)
    with Client(cluster, set_as_default=False) as other:
        theirs = other.submit(inc, 1, pure=False, workers="here-0")
        other.session.flush()
        eventually(lambda: other.scheduler_info()["tasks"]["processing"] >= 1)
        answer = client.restart(timeout=60.0)
        hold.forget()
        assert answer == {"restarted": ["here-0", "here-1", "here-2"], "kept": []}
        for future in (running, waiting, value, theirs):
            with pytest.raises(CancelledError, match="was cancelled: the cluster was restarted"):
                future.result(60.0)
    cluster.wait_for_workers(3)
    assert pids.isdisjoint(worker.pid for worker in cluster.workers)
    assert client.has_what() == {worker.ident: [] for worker in cluster.workers}
    assert client.submit(inc, 41).result() == 42


def test_a_restart_need_not_be_waited_for(cluster: LocalCluster, client: Client) -> None:
    idents = {worker.ident for worker in cluster.workers}
    answer = client.restart(wait_for_workers=False)
    assert answer["restarted"] == ["here-0", "here-1", "here-2"]
    eventually(lambda: len(cluster.workers) == 3 and idents.isdisjoint(worker.ident for worker in cluster.workers))


def test_one_worker_is_restarted(cluster: LocalCluster, client: Client, hold: Any) -> None:
    before = cluster.workers
    stuck = hold(workers="here-1")
    result = client.submit(pow, 2, 5, workers=["here-1", "here-2"], pure=False)
    assert client.restart_workers("here-1", timeout=60.0) == {"restarted": ["here-1"], "kept": ["here-0", "here-2"]}
    hold.forget()
    cluster.wait_for_workers(3)
    after = cluster.workers
    assert [one.ident == two.ident for one, two in zip(before, after)] == [True, False, True]
    assert result.result() == 32
    stuck.cancel()


# Data


def test_bytes_of_results(client: Client) -> None:
    values = client.scatter([b"x" * 1000, b"y" * 3000])
    block = client.submit(bytes, 500, pure=False)
    block.result()
    by_name = client.nbytes()
    assert by_name["scatter"] >= 4000
    assert by_name["bytes"] >= 500
    by_key = client.nbytes([values[1], block.key], summary=False)
    assert list(by_key) == [values[1].key, block.key]
    assert 3000 <= by_key[values[1].key] < 3100
    assert client.nbytes(["unknown"], summary=False) == {}


def test_copies(client: Client) -> None:
    one = client.submit(inc, 1, pure=False)
    two = client.scatter("value")
    assert client.replicate([one, {"more": two}]) is None
    assert [len(idents) for idents in client.who_has([one, two]).values()] == [3, 3]
    three = client.scatter("another", workers="here-0")
    client.replicate(three, n=2, workers=["here-0", "here-2"])
    assert [three.key in held_by(client, name) for name in ("here-0", "here-1", "here-2")] == [True, False, True]


def test_a_copy_outlives_the_worker(cluster: LocalCluster, client: Client) -> None:
    value = client.scatter("dear", workers="here-0")
    client.replicate(value, n=2)
    cluster.kill_worker("here-0")
    assert client.submit(str.upper, value).result() == "DEAR"
    cluster.wait_for_workers()


def test_copies_that_cannot_be(client: Client) -> None:
    value = client.scatter(1)
    with pytest.raises(UserError, match="4 workers cannot hold them: there are 3"):
        client.replicate(value, n=4)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, not 0"):
        client.replicate(value, n=0)
    failed = client.submit(int, "x", pure=False)
    with pytest.raises(ValueError, match="invalid literal"):
        client.replicate(failed)
    lock = client.submit(big_and_locked, pure=False)
    with pytest.raises(UserError, match=f"no worker could get a copy of {lock.key!r}"):
        client.replicate(lock)


def test_a_copy_waits_for_its_task(client: Client, hold: Any) -> None:
    running = hold()
    with pytest.raises(FutureTimeoutError):
        client.replicate(running, timeout=0.05)
    hold.go()
    client.replicate(running)
    assert len(client.who_has(running)[running.key]) == 3


def test_futures_of_another_client(cluster: LocalCluster, client: Client) -> None:
    with Client(cluster, set_as_default=False) as other:
        value = other.scatter(1)
        for asks in (client.replicate, client.rebalance):
            with pytest.raises(UserError, match="belongs to another client"):
                asks(value)


def test_a_balance(client: Client) -> None:
    values = client.scatter([bytes([number]) * 10_000 for number in range(12)], workers="here-0")
    others = client.scatter([b"a", b"b"], workers="here-1")
    answer = client.rebalance(values[:2])
    assert (answer["moved"], answer["problems"]) == (2, [])
    assert client.rebalance()["problems"] == []
    sizes = [client.nbytes(held_by(client, f"here-{number}"))["scatter"] for number in range(3)]
    assert max(sizes) - min(sizes) <= 10_100
    assert client.gather(values) == [bytes([number]) * 10_000 for number in range(12)]
    assert client.rebalance(workers=["here-0"])["moved"] == 0
    assert client.gather(others) == [b"a", b"b"]


# Both faces


def test_in_asynchronous_code(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True, set_as_default=False) as client:
            await client.wait_for_workers(3, timeout=60.0)
            with pytest.raises(FutureTimeoutError):
                await client.wait_for_workers(9, timeout=0.05)
            assert list((await client.nthreads()).values()) == [1, 1, 1]
            values = await client.scatter([b"a" * 1000, b"b" * 1000])
            await client.replicate(values)
            assert (await client.nbytes(values))["scatter"] >= 2000
            assert (await client.rebalance())["moved"] == 0
            assert all(keys == [] for keys in (await client.processing()).values())
            assert len(await client.retire_workers("here-2")) == 1
            assert await client.restart_workers("here-0") == {"restarted": ["here-0"], "kept": ["here-1"]}
            assert (await client.restart(timeout=60.0))["kept"] == []

    asyncio.run(main())


# The end


def test_the_end_of_everything() -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    with Client(cluster, set_as_default=False) as client, Client(cluster.address, token=cluster.token) as other:
        assert client.submit(inc, 1).result() == 2
        pending = other.submit(inc, 1, resources={"nothing": 1}, pure=False)
        client.shutdown(timeout=60.0)
        assert client.closed
        assert "closed" in repr(cluster)
        with pytest.raises(ConnectError):
            pending.result(60.0)
    with pytest.raises(ClosedError):
        client.shutdown()


def test_the_end_of_everything_in_asynchronous_code() -> None:
    async def main() -> LocalCluster:
        async with LocalCluster(n_workers=1, threads_per_worker=1, asynchronous=True) as cluster:
            async with Client(cluster, asynchronous=True) as client:
                assert await client.submit(inc, 1) == 2
                await client.shutdown()
                assert client.closed
            return cluster

    assert "closed" in repr(asyncio.run(main()))


def test_a_client_of_its_own_cluster() -> None:
    client = treadle.Client(set_as_default=False)
    client.shutdown()
    assert client.closed


@contextmanager
def process(module: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of a cluster, without a parent that looks after it."""
    source = f"from treadle.{module}.process import main; main()"
    command = [sys.executable, "-c", source, json.dumps(settings)]
    environment = {**os.environ, "TREADLE_TOKEN": "secret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        yield child
        child.kill()
        child.communicate()


def test_without_parents_and_permissions() -> None:
    with process("scheduler", port=0) as scheduler:
        assert scheduler.stderr is not None
        address = scheduler.stderr.readline().split("listens on tcp ")[1].split(",")[0]
        with (
            process("worker", scheduler=address, ident="alone", name="alone"),
            Client(address, token="secret", set_as_default=False) as client,
        ):
            client.wait_for_workers(1, timeout=60.0)
            with pytest.raises(UserError, match="worker 'alone' cannot be restarted: its process has no parent"):
                client.restart_workers("alone")
            assert client.restart() == {"restarted": [], "kept": ["alone"]}
            with pytest.raises(UserError, match="does not let clients end it; start it with --allow-shutdown"):
                client.shutdown()
            assert client.submit(inc, 1).result() == 2
