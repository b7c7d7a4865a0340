"""Trying again, cancelling with an honest status, tasks that nobody waits for, and which client is the current one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from client_parts import FakeCluster

import treadle
from treadle import Client, LocalCluster, delayed
from treadle.errors import UserError
from treadle.testing.tasks import Boom, eventually, inc
from treadle.wire import messages
from treadle.wire.failures import pack_error


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, 1) as cluster:
        yield cluster


@pytest.fixture
def real(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def fail(fake: FakeCluster, *keys: str, culprit: str = "") -> None:
    fake.send(("failed", [(key, culprit or key, pack_error(Boom(key))) for key in keys]))


def only_once(path: Path, value: int) -> int:
    """Fails when it is called for the first time."""
    if not path.exists():
        path.touch()
        raise Boom("the first time")
    return value


def wait_for(path: Path, started: Path) -> None:
    started.touch()
    while not path.exists():
        pass


# Trying again


def test_retry_makes_a_future_pending(fake: FakeCluster, client: Client) -> None:
    future, twin = client.submit(inc, 1, key="x"), client.submit(inc, 1, key="x")
    other = client.submit(inc, 2, key="y")
    fail(fake, "x")
    assert isinstance(future.exception(), Boom)
    fake.done("y", value=3)
    assert other.result() == 3
    client.retry([future, other])
    assert fake.expect(messages.Retry).keys == ["x"]
    assert (future.status, twin.status, other.status) == ("pending", "pending", "finished")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0)
    done = threading.Event()
    future.add_done_callback(lambda each: done.set())
    fake.done("x", value=2)
    assert future.result() == twin.result() == 2
    assert done.wait(30)


def test_retry_that_fails_again(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    fail(fake, "x")
    assert future.exception() is not None
    future.retry()
    assert future.status == "pending"
    fail(fake, "x")
    with pytest.raises(Boom):
        future.result()


def test_what_failed_before_it_is_done_too(fake: FakeCluster, client: Client) -> None:
    first = client.submit(inc, 1, key="x")
    second = client.submit(inc, first, key="y")
    fail(fake, "x", "y", culprit="x")
    assert isinstance(first.exception(), Boom)
    assert isinstance(second.exception(), Boom)
    second.retry()
    assert fake.expect(messages.Retry).keys == ["y"]
    assert first.status == "error"
    fake.done("x", "y", value=5)
    assert second.result() == 5
    assert first.result() == 5


def test_what_cannot_be_tried_again(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    future.cancel()
    with pytest.raises(UserError, match="cannot be tried again, because its task is forgotten"):
        future.retry()
    other = client.submit(inc, 1, key="y")
    other.release()
    with pytest.raises(UserError, match="its task is forgotten"):
        client.retry(other)


def test_retry_on_a_cluster(real: Client, tmp_path: Path) -> None:
    first = real.submit(only_once, tmp_path / "flag", 3)
    second = real.submit(inc, first)
    with pytest.raises(Boom):
        second.result()
    real.retry({"a": second})
    assert second.result() == 4
    assert first.result() == 3


# Cancelling


def test_a_future_is_cancelling_until_its_task_has_stopped(real: Client, tmp_path: Path) -> None:
    future = real.submit(wait_for, tmp_path / "go", tmp_path / "started")
    eventually((tmp_path / "started").exists)
    real.cancel(future, reason="it was too slow")
    assert future.done()
    real.scheduler_info()
    assert future.status == "cancelling"
    (tmp_path / "go").touch()
    eventually(lambda: future.status == "cancelled")
    with pytest.raises(CancelledError, match="it was too slow"):
        future.result()


def test_each_answer_belongs_to_one_cancellation(fake: FakeCluster, client: Client) -> None:
    first = client.submit(inc, 1, key="x")
    first.cancel()
    second = client.submit(inc, 1, key="x")
    second.cancel()
    third = client.submit(inc, 1, key="x")
    while fake.expect(messages.Fence).number < 2:
        pass
    fake.send(("cancelled", ["x"], "its client wanted it so"))
    eventually(lambda: first.status == "cancelled")
    assert (second.status, third.status) == ("cancelling", "pending")
    fake.send(("cancelled", ["x"], "its client wanted it so"))
    eventually(lambda: second.status == "cancelled")
    assert third.status == "pending"
    fake.done("x", value=2)
    assert third.result() == 2


def test_nothing_is_cancelling_without_a_connection(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    future.cancel()
    assert future.status == "cancelling"
    client.close()
    assert future.status == "cancelled"


def test_cancel_says_what_is_asked_of_the_scheduler(fake: FakeCluster, client: Client) -> None:
    client.cancel([client.submit(inc, 1, key="x")])
    assert fake.expect(messages.Cancel) == messages.Cancel(["x"], False)
    client.cancel(client.submit(inc, 1, key="y"), force=True)
    assert fake.expect(messages.Cancel) == messages.Cancel(["y"], True)


def test_what_somebody_else_has_cancelled(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    fake.send(("failed", [("x", "x", ("cancelled", b"", "'x' was cancelled by another client, 'c'", {}))]))
    with pytest.raises(CancelledError, match="by another client, 'c'"):
        future.result()
    assert (future.cancelled(), future.status) == (True, "cancelled")


def test_force_on_a_cluster(cluster: LocalCluster, real: Client, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as other:
        mine, theirs = (
            each.submit(wait_for, tmp_path / "go", tmp_path / "started", key="shared") for each in (real, other)
        )
        eventually((tmp_path / "started").exists)
        other.scheduler_info()
        real.cancel(mine)
        real.scheduler_info()
        assert theirs.status == "pending"
        mine = real.submit(wait_for, tmp_path / "go", tmp_path / "started", key="shared")
        real.cancel(mine, force=True)
        with pytest.raises(CancelledError, match="cancelled by another client"):
            theirs.result(30)
        (tmp_path / "go").touch()
        eventually(lambda: mine.status == "cancelled")


# Fire and forget


def test_a_task_that_nobody_waits_for(cluster: LocalCluster, real: Client, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        future = client.submit(wait_for, tmp_path / "go", tmp_path / "started", key="errand")
        treadle.fire_and_forget([client.submit(Path.touch, tmp_path / "done"), future])
        eventually((tmp_path / "started").exists)
    (tmp_path / "go").touch()
    eventually((tmp_path / "done").exists)
    eventually(lambda: "errand" not in real.who_has())


def test_forgotten_tasks_are_sent_before_the_client_closes(cluster: LocalCluster, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        treadle.fire_and_forget(client.submit(Path.touch, tmp_path / "done"))
    eventually((tmp_path / "done").exists)


def test_what_is_wrong_with_it_is_logged(capfd: Any, tmp_path: Path) -> None:
    with LocalCluster(1, 1) as cluster, Client(cluster, set_as_default=False) as client:
        treadle.fire_and_forget(client.submit(only_once, tmp_path / "flag", 1, key="bad"))
        eventually(lambda: "failed" in [each["event"] for each in client.story("bad")])
        assert client.submit(inc, 1).result() == 2
    assert "the task 'bad', which nobody waits for, failed (raised)" in capfd.readouterr().err


# The current client


def test_the_current_client(cluster: LocalCluster, real: Client) -> None:
    with pytest.raises(UserError, match="no client is open: make one"):
        treadle.current_client()
    with Client(cluster) as default:
        assert treadle.current_client() is Client.current() is default
        with real.as_current() as current:
            assert treadle.current_client() is current is real
            with default.as_current():
                assert treadle.current_client() is default
            assert treadle.current_client() is real
            elsewhere: list[Client] = []
            thread = threading.Thread(target=lambda: elsewhere.append(treadle.current_client()))
            thread.start()
            thread.join()
            assert elsewhere == [default]
        assert treadle.current_client() is default


def test_the_current_client_computes(real: Client) -> None:
    with real.as_current():
        assert delayed(inc)(1).compute() == 2
    assert [each["status"] for each in real.get_task_stream(count=1)] == ["finished"]


def test_each_coroutine_has_its_own(cluster: LocalCluster, real: Client) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True, set_as_default=False) as client:

            async def other() -> bool:
                with real.as_current():
                    await asyncio.sleep(0)
                    return treadle.current_client() is real

            with client.as_current():
                assert await asyncio.ensure_future(other())
                assert treadle.current_client() is client

    asyncio.run(main())
