"""News of a task that cross its release, and find that its key is used again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from client_parts import FakeCluster

from treadle import Client, Future, LocalCluster
from treadle.client.fences import UNFENCED
from treadle.testing.tasks import Boom, boom, eventually, inc
from treadle.wire import messages
from treadle.wire.failures import pack_error
from treadle.wire.values import pack_value

Said: TypeAlias = "tuple[Any, ...]"

#: What the scheduler says of a task.
DONE: Said = ("done", [("x", 10, pack_value("old"), "w", "h:1")])
PLACED: Said = ("done", [("x", 10_000, None, "w", "127.0.0.1:1")])
FAILED: Said = ("failed", [("x", "x", pack_error(Boom("old")))])
FORCED: Said = ("failed", [("x", "x", ("cancelled", b"", "'x' was cancelled by another client", {}))])
CANCELLED: Said = ("cancelled", ["x"], "everything starts anew")
STOPPED: Said = ("cancelled", ["x"], "the client has cancelled it")
NEW: Said = ("done", [("x", 10, pack_value("new"), "w", "h:1")])

OLD = {"done": DONE, "placed": PLACED, "failed": FAILED, "forced": FORCED, "cancelled": CANCELLED}


@pytest.fixture
def mute(fake: FakeCluster) -> FakeCluster:
    """It sends no fence back of its own accord."""
    fake.prompt = False
    return fake


@pytest.fixture
def real(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def heard(fake: FakeCluster, client: Client) -> None:
    """Wait until the client has heard all that was said so far."""
    mark = client.submit(inc, 0, pure=False)
    fake.expect(messages.Submit)
    fake.done(mark.key)
    mark.result()


def used_again(fake: FakeCluster, client: Client, value: int = 2) -> Future[Any]:
    """A future of the key whose task was another one just now; the scheduler knows of it."""
    future = client.submit(inc, value, key="x")
    assert fake.expect(messages.Submit).keys == ["x"]
    return future


def after_release(fake: FakeCluster, client: Client) -> Future[Any]:
    used_again(fake, client, 1).release()
    assert fake.expect(messages.Release).keys == ["x"]
    return used_again(fake, client)


def in_one_batch(fake: FakeCluster, client: Client) -> Future[Any]:
    future = used_again(fake, client, 1)
    with client.session._sending:  # nothing leaves while this is held
        del future
        again = client.submit(inc, 2, key="x")
    assert fake.expect(messages.Release).keys == ["x"]
    assert fake.expect(messages.Fence).number == 1
    assert fake.expect(messages.Submit).keys == ["x"]
    return again


def after_cancellation(fake: FakeCluster, client: Client) -> Future[Any]:
    used_again(fake, client, 1).cancel()
    assert fake.expect(messages.Cancel).keys == ["x"]
    return used_again(fake, client)


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("reuse", [after_release, in_one_batch])
def test_old_news(mute: FakeCluster, client: Client, reuse: Callable[..., Future[Any]], old: str) -> None:
    future = reuse(mute, client)
    mute.send(OLD[old], ("started", ["x"]))
    heard(mute, client)
    assert (future.status, future.running()) == ("pending", False)
    mute.send(("fence", 1), ("started", ["x"]))
    heard(mute, client)
    assert (future.status, future._running) == ("pending", True)
    mute.send(NEW)
    assert future.result() == "new"


@pytest.mark.parametrize("old", [each for each in OLD if each != "cancelled"])
def test_old_news_of_what_was_cancelled(mute: FakeCluster, client: Client, old: str) -> None:
    future = after_cancellation(mute, client)
    mute.send(OLD[old], STOPPED)
    heard(mute, client)
    assert future.status == "pending"
    mute.send(("fence", 1), NEW)
    assert future.result() == "new"


def test_a_failure_after_the_fence_is_new(mute: FakeCluster, client: Client) -> None:
    future = after_release(mute, client)
    mute.send(DONE, ("fence", 1), FAILED)
    assert isinstance(future.exception(), Boom)


def test_released_twice(mute: FakeCluster, client: Client) -> None:
    after_release(mute, client).release()
    assert mute.expect(messages.Release).keys == ["x"]
    future = used_again(mute, client)
    mute.send(FAILED, ("fence", 1), DONE, CANCELLED)
    heard(mute, client)
    assert future.status == "pending"
    mute.send(("fence", 2), NEW)
    assert future.result() == "new"


def test_many_keys(mute: FakeCluster, client: Client) -> None:
    keys = [f"x-{number}" for number in range(3000)]
    futures = [client.submit(inc, number, key=key) for number, key in enumerate(keys)]
    while mute.expect(messages.Submit).keys[-1] != keys[-1]:
        pass
    with client.session._sending:
        futures.clear()
        futures += [client.submit(inc, -number, key=key) for number, key in enumerate(keys)]
    assert sorted(mute.expect(messages.Release).keys) == sorted(keys)
    assert mute.expect(messages.Fence).number == 1
    while mute.expect(messages.Submit).keys[-1] != keys[-1]:
        pass
    mute.done(*keys, value="old")
    mute.send(("fence", 1))
    mute.done(*keys, value="new")
    assert client.gather(futures) == ["new"] * len(keys)
    assert not client.session.registry.fences.stale
    assert len(client.session.registry.fences) == 0


def test_what_was_released_is_not_remembered_for_ever(fake: FakeCluster, client: Client) -> None:
    futures = client.map(inc, range(UNFENCED - 1), key="x")
    client.session.flush()
    del futures
    client.session.flush()
    assert len(client.session.registry.fences) == UNFENCED - 1
    assert not [message for message in fake.unread() if isinstance(message, messages.Fence)]
    client.submit(inc, 1, key="last").release()
    eventually(lambda: len(client.session.registry.fences) == 0)


def test_no_release_no_fence(fake: FakeCluster, client: Client) -> None:
    futures = [client.submit(inc, number, key=str(number)) for number in range(3)]
    fake.done("0", "1", "2")
    client.gather(futures)
    client.close()
    assert not [message for message in fake.unread() if isinstance(message, messages.Fence)]


def test_what_the_scheduler_has_cancelled_is_released(mute: FakeCluster, client: Client) -> None:
    """It may have been wanted once more, when this was on its way, and then the scheduler thinks that it still is."""
    future = used_again(mute, client)
    mute.send(CANCELLED)
    eventually(future.cancelled)
    assert mute.expect(messages.Release).keys == ["x"]
    again = used_again(mute, client)
    mute.send(CANCELLED)  # the answer to what was said before the first came
    heard(mute, client)
    assert again.status == "pending"
    mute.send(("fence", 1), NEW)
    assert again.result() == "new"


def test_which_cancellation_is_answered(mute: FakeCluster, client: Client) -> None:
    """Two cancellations, and two that the scheduler told of before it knew of the first."""
    first = used_again(mute, client)
    first.cancel()
    second = used_again(mute, client)
    second.cancel()
    third = used_again(mute, client)
    mute.send(CANCELLED, CANCELLED, ("fence", 1))
    heard(mute, client)
    assert (first.status, second.status, third.status) == ("cancelled", "cancelling", "pending")
    mute.send(("fence", 2))
    mute.send(STOPPED)
    heard(mute, client)
    assert (second.status, third.status) == ("cancelled", "pending")
    mute.send(NEW)
    assert third.result() == "new"


def test_the_answer_may_come_long_after_the_fence(mute: FakeCluster, client: Client) -> None:
    future = after_cancellation(mute, client)
    mute.send(("fence", 1), STOPPED)
    heard(mute, client)
    assert future.status == "pending"
    mute.send(CANCELLED)
    heard(mute, client)
    assert future.cancelled()


def test_a_failure_that_crosses_its_release(cluster: LocalCluster, real: Client) -> None:
    busy, go = threading.Event(), threading.Event()

    def hear_nothing() -> None:
        busy.set()
        go.wait(30)

    def submitted() -> int:
        return [each["event"] for each in other.story("crossing")].count("submitted")

    with Client(cluster, set_as_default=False) as other:
        theirs = other.submit(boom, 1, key="crossing")
        assert isinstance(theirs.exception(), Boom)
        loop = real.session.loop
        assert loop is not None
        loop.call_soon_threadsafe(hear_nothing)
        assert busy.wait(30)
        mine = real.submit(boom, 1, key="crossing")
        real.session.flush()
        eventually(lambda: submitted() == 2)
        theirs.release()
        other.scheduler_info()
    mine.release()
    mine = real.submit(inc, 1, key="crossing")
    real.session.flush()
    go.set()  # the first that it hears is of the old one
    assert mine.result() == 2


def test_a_key_that_is_used_again_and_again(real: Client) -> None:
    for number in range(500):
        old = real.submit(boom if number % 2 else inc, -number, key="again")
        real.session.flush()
        moment = time.perf_counter() + number % 50 * 2e-5  # its news may come before, meanwhile, or not at all
        while time.perf_counter() < moment:
            pass
        old.release()
        assert real.submit(inc, number, key="again").result() == number + 1


def test_a_pure_call_that_is_made_again_and_again(real: Client) -> None:
    for _ in range(100):
        futures = real.map(inc, range(20))
        real.session.flush()
        del futures
        assert real.gather(real.map(inc, range(20))) == list(range(1, 21))
