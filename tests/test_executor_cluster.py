"""What is particular to an executor on a cluster."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from executor_parts import PATIENCE, Maker, pass_gate, touch

import treadle
from treadle import Client, Executor, Future, LocalCluster
from treadle.client.calls import LargeArgumentWarning
from treadle.errors import ClosedError, ConnectError, KilledWorkerError, TaskNotSerializableError, UserError
from treadle.testing.tasks import Boom, add, boom, eventually, inc, same


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, name="here") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def make(client: Client, tmp_path: Path) -> Iterator[Maker]:
    maker = Maker("cluster", client, tmp_path)
    yield maker
    maker.close()


# Where the calls run


def test_an_executor_with_a_cluster_of_its_own() -> None:
    with Executor(max_workers=1) as executor:
        client = executor.client
        info = client.scheduler_info()
        assert [worker["nthreads"] for worker in info["workers"].values()] == [1]
        big = executor.submit(bytes, 3_000_000)
        results = executor.map(bytes, [2_000_000, 1])
        bad = executor.submit(boom, "it broke")
    assert client.closed
    with pytest.raises(ConnectError):
        Client(client._session.address if client._session else "", timeout=0.1, set_as_default=False)
    assert len(big.result()) == 3_000_000
    assert [len(result) for result in results] == [2_000_000, 1]
    assert isinstance(bad.exception(), Boom)


def test_an_executor_on_a_cluster_that_survives_it(cluster: LocalCluster, client: Client) -> None:
    with Executor(cluster) as first:
        future = first.submit(bytes, 1_000_000)
    assert first.client.closed
    assert len(future.result()) == 1_000_000
    with Executor(cluster.address, token=cluster.token) as second:
        assert second.submit(inc, 1).result() == 2
    with pytest.raises(ConnectError):
        Executor("127.0.0.1:1", timeout=0.1, token="none")
    assert client.submit(inc, 1).result() == 2


def test_an_executor_of_a_client_that_survives_it(client: Client) -> None:
    with client.get_executor() as executor:
        assert executor.client is client
        future = executor.submit(bytes, 1_000_000)
    assert not client.closed
    assert len(future.result()) == 1_000_000


def test_options_are_those_of_a_submit(client: Client) -> None:
    with client.get_executor(workers="here-1", priority=3, retries=1) as executor:
        futures = [executor.submit(inc, number) for number in range(10)]
        names = {worker["name"]: ident for ident, worker in client.scheduler_info()["workers"].items()}
        assert {future._worker for future in treadle.wait(futures).done} == {names["here-1"]}
    with pytest.raises(ValueError, match="retries"):
        client.get_executor(retries=-1)
    with pytest.raises(TypeError, match="nonsense"):
        client.get_executor(nonsense=1)


def test_max_workers(client: Client) -> None:
    with pytest.raises(ValueError, match="max_workers is for a cluster that the executor starts itself"):
        Executor(client, max_workers=2)
    with pytest.raises(ValueError, match="max_workers must be at least 1, not 0"):
        Executor(max_workers=0)
    with pytest.raises(TypeError, match="max_workers must be a whole number, not 'two'"):
        Executor(max_workers="two")  # type: ignore[arg-type]


def test_its_repr_says_what_is_pending(make: Maker) -> None:
    executor = make()
    assert repr(executor) == f"<Executor of {make.client!r}, 0 calls pending>"
    _, gate = make.hold(executor)
    assert "1 calls pending" in repr(executor)
    gate.open()
    executor.shutdown()
    assert repr(executor).endswith("0 calls pending, shut down>")


# Calls


def test_futures_are_treadles_own(client: Client) -> None:
    with client.get_executor() as executor:
        first = executor.submit(inc, 1)
        assert isinstance(first, Future)
        assert executor.submit(add, first, client.submit(inc, 2)).result() == 5
        assert list(executor.map(sum, [[first, first]])) == [4]
        assert client.submit(inc, first).result() == 3


def test_a_future_that_runs_says_so_and_can_be_cancelled_no_more(make: Maker) -> None:
    future, gate = make.hold(make(), 5)
    assert future.status == "pending"  # type: ignore[attr-defined]
    assert not future.cancel()
    gate.open()
    assert future.result() == 5


def test_what_cannot_be_sent_is_named_and_spoils_nothing(client: Client) -> None:
    with client.get_executor() as executor:
        with pytest.raises(TaskNotSerializableError, match="its argument 2"):
            executor.submit(print, 1, threading.Lock())
        with pytest.raises(TaskNotSerializableError, match="its argument 1"):
            executor.map(same, [1, threading.Lock()])
        with pytest.raises(TypeError, match="must be the function to call, not 3"):
            executor.submit(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be the function to call, not 3"):
            executor.map(3, [1])  # type: ignore[arg-type]
        assert executor.submit(inc, 1).result() == 2


def test_who_sends_much_data_is_warned(client: Client) -> None:
    big = bytes(11_000_000)
    with client.get_executor() as executor:
        with pytest.warns(LargeArgumentWarning, match="argument 1") as seen:
            future = executor.submit(len, big)
        with pytest.warns(LargeArgumentWarning, match="argument 1") as seen_of_map:
            results = executor.map(len, [big, big])
        assert [warning.filename for warning in (*seen, *seen_of_map)] == [__file__] * 2
        assert [future.result(), *results] == [len(big)] * 3


def test_a_call_that_kills_its_worker_spoils_nothing_else() -> None:
    with Executor(max_workers=1) as executor:
        bad = executor.submit(os._exit, 3)
        with pytest.raises(KilledWorkerError, match="exited with status 3"):
            bad.result()
        assert executor.submit(inc, 1).result() == 2


def test_calls_of_a_chunk(client: Client) -> None:
    with client.get_executor() as executor:
        assert list(executor.map(lambda x: [x], itertools.islice(itertools.count(), 10), chunksize=4)) == [
            [number] for number in range(10)
        ]
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="chunksize must be at least 1"):
                executor.map(inc, [1], chunksize=wrong)
        results = executor.map(reciprocal, [1, 2, 0, 4], chunksize=3)
        assert [next(results), next(results)] == [1.0, 0.5]
        with pytest.raises(ZeroDivisionError) as caught:
            next(results)
        assert caught.value.__notes__ == ["while running task 'reciprocal'"]  # type: ignore[attr-defined]
        assert caught.traceback[-1].name == "reciprocal"
        lazily = executor.map(inc, itertools.count(), chunksize=10, buffersize=2)
        assert list(itertools.islice(lazily, 35)) == list(range(1, 36))


def reciprocal(number: float) -> float:
    return 1 / number


def test_what_an_iterable_raises_comes_after_the_results_before_it(client: Client) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise Boom("in the iterable")

    with client.get_executor() as executor:
        with pytest.raises(Boom, match="in the iterable"):
            executor.map(inc, items())
        results = executor.map(inc, items(), buffersize=10)
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(Boom, match="in the iterable"):
            next(results)


def test_a_buffered_map_makes_no_more_calls_after_a_failure(client: Client) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    with client.get_executor() as executor:
        results = executor.map(boom, items(), buffersize=2)
        with pytest.raises(Boom):
            next(results)
        assert taken == [0, 1]
        assert list(results) == []


# The end


def test_nothing_is_kept_of_calls_that_are_done(make: Maker) -> None:
    executor: Any = make()
    futures = [executor.submit(inc, number) for number in range(5)]
    list(executor.map(inc, range(5)))
    treadle.wait(futures)
    assert executor._work.pending == set()


def test_shutdown_waits_for_what_was_cancelled_and_ran_nevertheless(make: Maker) -> None:
    executor = make()
    started = make.path()
    gate = make.gate()
    future: Any = executor.submit(touch, started, gate.path)
    eventually(future.running)
    future._running = False  # as if that was not known yet
    assert future.cancel()
    assert future.status == "cancelling"
    thread = threading.Thread(target=executor.shutdown)
    thread.start()
    eventually(lambda: bool(executor._work._latches))  # type: ignore[attr-defined]
    assert thread.is_alive()
    gate.open()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert os.path.exists(started + ".done")


def test_a_forgotten_executor_ends_when_its_calls_are_done(cluster: LocalCluster, make: Maker) -> None:
    gate = make.gate()
    executor = Executor(cluster)
    client = executor.client
    future = executor.submit(pass_gate, gate.path, 1)
    del executor
    gc.collect()
    assert not client.closed
    gate.open()
    assert future.result() == 1
    eventually(lambda: client.closed)


def test_calls_of_a_client_that_is_closed_are_cancelled(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        executor = client.get_executor(resources={"none": 1})
        future = executor.submit(inc, 1)
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(ClosedError):
        executor.submit(inc, 1)
    executor.shutdown()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_shutdown_leaves_an_executor_that_can_be_shut_down(make: Maker) -> None:
    executor: Any = make()
    future, gate = make.hold(executor, 1)

    def interrupt() -> None:
        eventually(lambda: bool(executor._work._latches))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown()
    thread.join()
    assert not future.done()
    with pytest.raises(ClosedError):
        executor.submit(inc, 1)
    gate.open()
    executor.shutdown()
    assert future.result(0) == 1


def test_a_forked_child_has_no_part_in_it(make: Maker) -> None:
    executor = make()
    _, gate = make.hold(executor, 1)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            executor.submit(inc, 1)
        except ClosedError:
            executor.shutdown()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate.open()


# In coroutines


def test_it_is_an_executor_for_asyncio(client: Client) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        with client.get_executor() as executor:
            calls = [loop.run_in_executor(executor, partial(inc, number)) for number in range(5)]
            return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


def test_the_executor_of_an_asynchronous_client(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            executor = client.get_executor()
            assert await executor.submit(inc, 1) == 2
            assert await asyncio.get_running_loop().run_in_executor(executor, inc, 2) == 3
            pending = executor.submit(bytes, 1_000_000)
            with pytest.raises(UserError, match="would never end"):
                executor.shutdown()
            executor.shutdown(wait=False)
            assert len(await pending) == 1_000_000
            with pytest.raises(ClosedError):
                executor.submit(inc, 1)

    asyncio.run(main())


# In calls


def count_down(depth: int) -> int:
    """Compute ``depth`` by as many nested calls."""
    if depth == 0:
        return 0
    with treadle.get_client().get_executor() as executor:
        return executor.submit(count_down, depth - 1).result() + next(executor.map(int, [1]))


def test_calls_that_wait_for_calls_never_get_stuck() -> None:
    with Executor(max_workers=1) as executor:
        assert executor.submit(count_down, 10).result() == 10
