"""Calls outside of tasks: on workers, and on the scheduler."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from treadle import Client, LocalCluster, cli
from treadle.client.lines import CallFuture
from treadle.errors import ClosedError, PeerError, TaskNotSerializableError, UserError
from treadle.scheduler.settings import Settings
from treadle.testing.tasks import Boom, boom, called_with, eventually, inc, meet, pipes, same
from treadle.wire.parcels import INLINE, pack_arguments, pack_parcel, unpack_arguments, unpack_parcel


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, name="here", allow_run_on_scheduler=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def idents(cluster: LocalCluster) -> set[str]:
    return {worker.ident for worker in cluster.workers}


def introduce(x: int, worker: Any) -> tuple[int, str, str]:
    return x, worker.name, threading.current_thread().name


def inside() -> str:
    import treadle

    assert treadle.get_client().submit(inc, 1).result() == 2
    return treadle.get_worker().name


async def introduce_later(worker: Any = None) -> str:
    await asyncio.sleep(0)
    return str(worker.name)


def fail_on(name: str, worker: Any) -> str:
    if worker.name == name:
        raise Boom(f"not on {name}")
    return str(worker.name)


def die_on(name: str, worker: Any) -> str:
    if worker.name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    return str(worker.name)


def look(scheduler: Any) -> tuple[int, str]:
    return len(scheduler["workers"]), threading.current_thread().name


# On workers


def test_every_worker_calls(client: Client, cluster: LocalCluster) -> None:
    results = client.run(introduce, 3)
    assert results.keys() == idents(cluster)
    assert sorted(results.values()) == [(3, "here-0", "treadle-run"), (3, "here-1", "treadle-run")]
    assert set(client.run(called_with, 1, "a", worker=None, timeout=60)) == idents(cluster)
    assert list(client.run(called_with, 1, b=2).values()) == [((1,), {"b": 2})] * 2
    assert sorted(client.run(inside).values()) == ["here-0", "here-1"]
    assert sorted(client.run(introduce_later).values()) == ["here-0", "here-1"]
    assert len(set(client.run(os.getpid).values())) == 2


def test_an_argument_in_the_place_of_the_worker(client: Client) -> None:
    def name(worker: Any) -> Any:
        return worker

    assert list(client.run(name, "given").values()) == ["given"] * 2
    assert list(client.run(name, worker="given").values()) == ["given"] * 2


def test_big_arguments_and_results(client: Client) -> None:
    array = np.arange(1_000_000.0)
    for result in client.run(same, array).values():
        assert np.array_equal(result, array)


def test_only_some_workers(client: Client, cluster: LocalCluster) -> None:
    first = cluster.workers[0]
    for workers in (first.name, first.ident, [first.address], {first.name, first.ident}):
        assert list(client.run(inc, 1, workers=workers)) == [first.ident]
    with pytest.raises(UserError, match="there is no worker 'nobody'; there are: here-0, here-1"):
        client.run(inc, 1, workers=["here-0", "nobody"])


def test_what_fails_on_one_of_them(client: Client, cluster: LocalCluster) -> None:
    with pytest.raises(Boom, match="not on here-1") as caught:
        client.run(fail_on, "here-1")
    assert "on the worker here-1" in caught.value.__notes__[0]  # type: ignore[attr-defined]
    assert caught.traceback[-1].name == "fail_on"
    results = client.run(fail_on, "here-1", on_error="return")
    good, bad = (results[worker.ident] for worker in cluster.workers)
    assert (good, type(bad)) == ("here-0", Boom)
    assert list(client.run(fail_on, "here-1", on_error="ignore").values()) == ["here-0"]
    with pytest.raises(TypeError, match="cannot be pickled"):
        client.run(threading.Lock)


def test_without_waiting(client: Client, cluster: LocalCluster) -> None:
    futures = client.run(inc, 1, wait=False)
    assert futures.keys() == idents(cluster)
    assert all(isinstance(future, CallFuture) for future in futures.values())
    assert client.gather(list(futures.values())) == [2, 2]
    with pytest.raises(UserError, match="is a call outside of tasks"):
        client.submit(inc, next(iter(futures.values())))


def test_wrong_arguments(client: Client) -> None:
    with pytest.raises(TypeError, match="must be the function to call, not 3"):
        client.run(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error must be one of 'raise', 'return', 'ignore', not 'skip'"):
        client.run(inc, 1, on_error="skip")
    with pytest.raises(TaskNotSerializableError, match="its argument 1 \\(a lock\\)"):
        client.run(inc, threading.Lock())
    future = client.submit(inc, 1)
    with pytest.raises(TaskNotSerializableError, match="its argument 1 \\(a Future\\)"):
        client.run(inc, future)


def test_a_time_limit(client: Client, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    with pytest.raises(concurrent.futures.TimeoutError):
        client.run(meet, one, two, workers="here-0", timeout=0.05)
    meet(two, one)
    assert list(client.run(inc, 1, workers="here-0").values()) == [2]


def test_a_worker_that_dies_meanwhile(client: Client, cluster: LocalCluster) -> None:
    first, second = cluster.workers
    results = client.run(die_on, "here-0", on_error="return", timeout=60)
    assert results[second.ident] == "here-1"
    assert type(results[first.ident]) is PeerError
    assert "die_on on the worker here-0 was not answered: the connection" in str(results[first.ident])
    eventually(lambda: first.ident not in idents(cluster))
    cluster.wait_for_workers()
    with pytest.raises(PeerError, match="on the worker here-1 was not answered"):
        client.run(die_on, "here-1", timeout=60)
    eventually(lambda: second.ident not in idents(cluster))
    cluster.wait_for_workers()
    assert len(client.run(inc, 1)) == 2


def test_an_asynchronous_client(cluster: LocalCluster) -> None:
    async def program() -> None:
        async with Client(cluster, asynchronous=True) as client:
            assert sorted((await client.run(introduce_later)).values()) == ["here-0", "here-1"]
            assert await client.run_on_scheduler(inc, 1) == 2
            with pytest.raises(Boom):
                await client.run(boom, "x")
            futures = await client.run(inc, 1, wait=False)
            assert [await future for future in futures.values()] == [2, 2]

    asyncio.run(program())


def test_a_closed_client(cluster: LocalCluster, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    with Client(cluster, set_as_default=False) as client:
        client.run(inc, 1)  # now there are connections, and the next call is sent at once
        (future,) = client.run(meet, one, two, workers="here-0", wait=False).values()
        assert not future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    meet(two, one)
    for call in (client.run, client.run_on_scheduler):
        with pytest.raises(ClosedError):
            call(inc, 1)


# On the scheduler


def test_the_scheduler_calls(client: Client) -> None:
    assert client.run_on_scheduler(look) == (2, "treadle-run")
    assert client.run_on_scheduler(lambda scheduler=None, **others: others, x=1) == {"x": 1}
    assert client.run_on_scheduler(called_with, 1, b=[2], timeout=60) == ((1,), {"b": [2]})
    assert client.run_on_scheduler(os.getpid) == client.scheduler_info()["pid"]
    with pytest.raises(Boom, match="it broke") as caught:
        client.run_on_scheduler(boom, "it broke")
    assert "boom on the scheduler" in caught.value.__notes__[0]  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="cannot be pickled"):
        client.run_on_scheduler(threading.Lock)


def test_the_cluster_goes_on_while_the_scheduler_calls(client: Client, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    with pytest.raises(concurrent.futures.TimeoutError):
        client.run_on_scheduler(meet, one, two, timeout=0.05)
    assert client.submit(inc, 41, pure=False).result() == 42
    meet(two, one)


def test_the_scheduler_has_to_be_allowed_to_call() -> None:
    with LocalCluster(n_workers=1) as cluster, Client(cluster, set_as_default=False) as client:
        with pytest.raises(UserError, match="--allow-run-on-scheduler") as caught:
            client.run_on_scheduler(inc, 1)
        assert "LocalCluster(allow_run_on_scheduler=True)" in str(caught.value)
        assert client.submit(inc, 1).result() == 2


@pytest.mark.parametrize("flags", [[], ["--allow-run-on-scheduler"]])
def test_the_command_line_can_allow_it(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr("treadle.scheduler.process.serve", served.append)
    result = CliRunner().invoke(cli.main, ["scheduler", "--port", "0", *flags])
    assert result.exit_code == 0, result.output
    assert [settings.allow_run_on_scheduler for settings in served] == [bool(flags)]


# Parcels


@pytest.mark.parametrize(
    "value", [None, True, 3, 2**80, 1.5, "", "x" * 100_000, b"y" * 100_000, [1, {"a": ()}], "\ud800"]
)
def test_parcels(value: Any) -> None:
    packed, parts = pack_parcel(value)
    assert bool(packed) != bool(parts)
    assert len(packed) <= INLINE
    assert unpack_parcel(packed, parts) == value


def test_what_is_in_a_parcel_does_not_change() -> None:
    array = np.zeros(100_000)
    packed, parts = pack_parcel(array)
    array[:] = 1
    assert not unpack_parcel(packed, parts).any()


@pytest.mark.parametrize("args", [(), (1, "a", None), (2**80,), ("x" * 100_000,), ([1], {"b": 2})])
@pytest.mark.parametrize("kwargs", [{}, {"k": [1]}])
def test_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    name, given, words = unpack_arguments(*pack_arguments("method", args, kwargs))
    assert (name, tuple(given), words or {}) == ("method", args, kwargs)
