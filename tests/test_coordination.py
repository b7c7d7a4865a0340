"""Locks, semaphores, events, queues and variables on a real cluster, and what becomes of them when somebody dies."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import pickle
import queue
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from client_parts import FakeCluster
from coordination_parts import storm
from test_scheduler_server import TOKEN, Site, serving

from treadle import Client, Event, Future, LocalCluster, Lock, Queue, Semaphore, Variable
from treadle.client.coordination.queue import ItemLease
from treadle.errors import ClosedError, ConnectError, LeaseLostError, NotHeldError, NotSerializableError, UserError
from treadle.scheduler.coordination import Coordinating
from treadle.scheduler.settings import Settings
from treadle.testing.tasks import eventually

#: Seconds after which something that should have happened at once will not happen any more.
PATIENCE = 30.0


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture
def other(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def increment(x: int) -> int:
    return x + 1


def held(client: Client) -> set[str]:
    """The keys of all results, once everything that was released is known to be so."""
    client.scheduler_info()
    return set(client.who_has())


class Waiting:
    """A call that waits, in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        threading.Thread(target=self._run, args=(call,)).start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.future.set_result(call())
        except BaseException as error:
            self.future.set_exception(error)

    def result(self) -> Any:
        return self.future.result(PATIENCE)


# Locks and semaphores


def test_a_lock_has_one_holder(client: Client, other: Client) -> None:
    mine, theirs = Lock("one"), Lock("one", client=other)
    assert not mine.locked()
    assert [mine.token] == [None]
    with mine as held:
        assert held is mine
        assert theirs.locked()
        assert not theirs.acquire(blocking=False)
        assert not theirs.acquire(timeout=0.01)
        assert not mine.acquire(blocking=False)  # it is not reentrant
        first = mine.token or 0
    assert theirs.acquire()
    assert (theirs.token or 0) > first > 0
    theirs.release()
    assert not mine.locked()


def test_who_gave_up_waiting_is_not_in_the_line_any_more(client: Client, other: Client) -> None:
    lock = Lock("patience")
    lock.acquire()
    assert not Lock("patience", client=other).acquire(timeout=0.01)
    waiting = Waiting(Lock("patience", client=other).acquire)
    lock.release()
    assert waiting.result()


def test_wrong_uses_of_a_lock(client: Client) -> None:
    lock = Lock("wrong")
    with pytest.raises(NotHeldError, match="<Lock 'wrong'> is not held by this object"):
        lock.release()
    with pytest.raises(ValueError, match="leave out one of them"):
        lock.acquire(blocking=False, timeout=1)
    with pytest.raises(TypeError, match="the name of a Lock is a str that is not empty, not 7"):
        Lock(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"client must be a treadle\.Client"):
        Lock("x", client="y")  # type: ignore[arg-type]
    assert Lock().name != Lock().name


def test_without_a_client_there_is_nothing_to_coordinate() -> None:
    with pytest.raises(UserError, match="there is no client here"):
        Lock("nobody").acquire()


@pytest.mark.parametrize("thing", [Lock("l"), Semaphore(3, "s"), Event("e"), Queue("q", 5), Variable("v")], ids=repr)
def test_things_are_pickled_by_their_names(thing: Any) -> None:
    again = pickle.loads(pickle.dumps(thing))
    assert type(again) is type(thing)
    assert repr(again) == repr(thing)
    assert again.name == thing.name
    assert getattr(again, "maxsize", 5) == 5


def test_a_semaphore_has_so_many_permits(client: Client, other: Client) -> None:
    seats = Semaphore(2, "seats")
    assert seats.acquire()
    assert seats.acquire()
    assert seats.get_value() == 2
    assert not Semaphore(2, "seats", client=other).acquire(timeout=0.01)
    with pytest.raises(UserError, match="the semaphore 'seats' has max_leases=2, and here it is said to have 5"):
        Semaphore(5, "seats", client=other).acquire()
    seats.release()
    assert Semaphore(2, "seats", client=other).acquire(blocking=False)
    seats.release()
    assert seats.get_value() == 1
    with pytest.raises(ValueError, match="max_leases must be at least 1, not 0"):
        Semaphore(0)
    with pytest.raises(TypeError, match="max_leases is a whole number, not 'x'"):
        Semaphore("x")  # type: ignore[arg-type]


def hold_and_count(path: str) -> None:
    with Lock("counter"):
        count = int(Path(path).read_text())
        Path(path).write_text(str(count + 1))


def test_tasks_exclude_one_another(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    client.gather([client.submit(hold_and_count, str(path), pure=False) for _ in range(50)])
    assert path.read_text() == "50"


def wait_for_lock(number: int) -> int:
    with Lock("busy"):
        return number


def test_tasks_that_wait_leave_their_threads_to_others(client: Client) -> None:
    with Lock("busy"):
        waiting = client.map(wait_for_lock, range(10))
        assert client.submit(increment, 1, pure=False).result(PATIENCE) == 2
        assert not any(future.done() for future in waiting)
    assert client.gather(waiting) == list(range(10))


# Death and silence


def test_what_a_client_held_is_free_when_it_goes(cluster: LocalCluster, client: Client) -> None:
    leaving = Client(cluster, set_as_default=False)
    assert Lock("inherited", client=leaving).acquire()
    items = Queue("inherited")
    items.put("item")
    items.put("next")
    assert Queue("inherited", client=leaving).lease().__enter__() == "item"
    waiting = Waiting(Lock("inherited").acquire)
    leaving.close()
    assert waiting.result()
    assert items.get(batch=True) == ["item", "next"]


def die_with(name: str, path: str) -> str:
    """Take everything and be killed, the first time."""
    lock, seat, items = Lock(name), Semaphore(1, name), Queue(name)
    lock.acquire()
    seat.acquire()
    with items.lease() as item:
        if not os.path.exists(path):
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    seat.release()
    lock.release()
    return str(item)


def test_what_a_killed_worker_held_is_free_at_once(client: Client, tmp_path: Path) -> None:
    Queue("fatal").put("item")
    assert client.submit(die_with, "fatal", str(tmp_path / "died")).result(PATIENCE) == "item"
    assert not Lock("fatal").locked()
    assert Semaphore(1, "fatal").get_value() == 0
    assert Queue("fatal").empty()


def test_holders_are_killed_at_random(tmp_path: Path) -> None:
    counts = storm(tmp_path, 8.0, seed=7)
    assert counts.kills > 0
    assert counts.locked > 0
    assert counts.permits > 0
    assert counts.leased > 0
    assert counts.got > 0


Test = Callable[..., Awaitable[None]]


def hasty(test: Test) -> Callable[..., None]:
    """Runs a test with a scheduler whose leases are short."""
    return serving(settings=Settings(lease=0.2))(test)


def connect(site: Site) -> Client:
    return Client(site.server.address, asynchronous=True, set_as_default=False, token=TOKEN)


@hasty
async def test_a_silent_holder_loses_its_lock(site: Site) -> None:
    silent = await site.client("silent")
    silent.say(("ask", 1, "lock.acquire", ("l", True)))
    answer = await silent.hear()
    assert answer.value[0] == "granted"
    async with connect(site) as client:
        lock = Lock("l", client=client)
        assert await lock.acquire(timeout=PATIENCE)
        assert lock.token > answer.value[1]
        news = await silent.hear()
        assert (news.topic, news.rows[0][0]) == ("lease.lost", 1)
        assert (await silent.ask("lease.release", (1, False))).value is False
        await lock.release()


@hasty
async def test_a_holder_that_is_there_keeps_its_lock(site: Site) -> None:
    async with connect(site) as client, Lock("l", client=client) as lock:
        assert not await Event("never", client=client).wait(timeout=0.7)  # more than three leases
        assert not lock.lost


def expire(site: Site) -> None:
    """Let all leases end."""
    (service,) = [service for service in site.server._services if isinstance(service, Coordinating)]
    for holder in service._core.holders.values():
        holder.deadline = 0.0
    service._core.tick(1.0)
    service._deliver()


async def lose(site: Site, items: Queue) -> None:
    async with items.lease() as item:
        assert item == "item"
        expire(site)


async def lose_and_fail(site: Site, lock: Lock, items: Queue) -> None:
    async with lock, items.lease():
        expire(site)
        await items.qsize()
        assert lock.lost
        raise ZeroDivisionError


@hasty
async def test_who_has_lost_a_lease_is_told_so(site: Site) -> None:
    async with connect(site) as client:
        lock, items = Lock("l", client=client), Queue("q", client=client)
        await items.put("item")
        await lock.acquire()
        expire(site)
        with pytest.raises(LeaseLostError, match="<Lock 'l'> was taken from this process"):
            await lock.release()
        with pytest.raises(LeaseLostError, match="an item of <Queue 'q'>"):
            await lose(site, items)
        with pytest.raises(ZeroDivisionError):  # which says more
            await lose_and_fail(site, lock, items)
        assert await items.get() == "item"


@hasty
async def test_who_waits_and_was_silent_waits_on(site: Site) -> None:
    async with connect(site) as client, connect(site) as other:
        theirs = Lock("l", client=other)
        await theirs.acquire()
        await Lock("else", client=client).acquire()
        waiting = asyncio.ensure_future(Lock("l", client=client).acquire())
        await client.scheduler_info()
        expire(site)
        assert await waiting


@hasty
async def test_a_bad_question_is_refused(site: Site) -> None:
    async with connect(site) as client:
        bad: list[tuple[str, Any]] = [
            ("lock.acquire", "name"),
            ("lock.locked", ""),
            ("semaphore.acquire", ("s", 0, True)),
            ("queue.put", ("q", 0, b"\x01", [], -1)),
            ("queue.put", ("q", 0, bytes(100_000), [], 0)),
            ("lease.release", (None, True)),
        ]
        for topic, argument in bad:
            with pytest.raises(UserError):
                await client._asking(topic, argument)
        assert await Lock("l", client=client).acquire(timeout=PATIENCE)


def test_who_waits_hears_that_the_connection_is_lost() -> None:
    fake = FakeCluster()
    try:
        with fake.client() as client:
            waiting = Waiting(Lock("l", client=client).acquire)
            while getattr(fake.received.get(timeout=PATIENCE), "topic", "") != "lock.acquire":
                pass
            fake.lose()
            with pytest.raises(ConnectError):
                waiting.result()
    finally:
        fake.close()


# Events


def test_an_event_is_waited_for(client: Client, other: Client) -> None:
    event, theirs = Event("start"), Event("start", client=other)
    assert not event.wait(timeout=0.01)
    assert not event.is_set()
    waiting = Waiting(event.wait)
    theirs.set()
    assert waiting.result()
    assert event.is_set()
    assert event.wait()
    event.clear()
    assert not theirs.is_set()


# Queues


def test_a_queue_keeps_the_order(client: Client, other: Client) -> None:
    ours, theirs = Queue("order"), Queue("order", client=other)
    for number in range(5):
        ours.put({"number": number})
    assert theirs.qsize() == 5
    assert not theirs.empty()
    assert not theirs.full()
    assert theirs.get() == {"number": 0}
    assert [item["number"] for item in theirs.get(batch=3)] == [1, 2, 3]
    assert theirs.get(batch=True) == [{"number": 4}]
    assert theirs.get(batch=True) == []
    waiting = Waiting(theirs.get)
    ours.put("late")
    assert waiting.result() == "late"


def test_a_queue_of_limited_size(client: Client, other: Client) -> None:
    small = Queue("small", maxsize=1)
    small.put(1)
    assert small.full()
    impatient: dict[str, Any]
    kind: type[Exception]
    for impatient in ({"block": False}, {"timeout": 0.01}):
        for kind in (queue.Full, concurrent.futures.TimeoutError):
            with pytest.raises(kind, match="no place in <Queue 'small'>"):
                small.put(2, **impatient)
    waiting = Waiting(lambda: small.put(3))
    theirs = Queue("small", client=other)
    assert [theirs.get(), theirs.get()] == [1, 3]
    waiting.result()
    for impatient in ({"block": False}, {"timeout": 0.01}):
        for kind in (queue.Empty, concurrent.futures.TimeoutError):
            with pytest.raises(kind, match="no item in <Queue 'small'>"):
                theirs.get(**impatient)
    with pytest.raises(UserError, match="maxsize=1, and here it is said to have 2"):
        Queue("small", maxsize=2).put(1)


def test_wrong_uses_of_a_queue(client: Client, other: Client) -> None:
    items = Queue("wrong")
    with pytest.raises(UserError, match=r"the item \(a bytes\) has 100,0.. bytes, and only 65,536"):
        items.put(bytes(100_000))
    with pytest.raises(NotSerializableError, match=r"the item cannot be pickled .*; it is a lock"):
        items.put(threading.Lock())
    with pytest.raises(ValueError, match="batch must be at least 1, not -1"):
        items.get(batch=-1)
    with pytest.raises(ValueError, match="maxsize must be at least 0, not -1"):
        Queue("x", maxsize=-1)
    with pytest.raises(UserError, match="belongs to another client"):
        items.put(other.submit(increment, 1))
    future = client.submit(increment, 1)
    future.release()
    with pytest.raises(UserError, match="was released or cancelled"):
        items.put(future)
    assert items.empty()


def fail_to_work(lease: ItemLease, theirs: Queue) -> None:
    with lease as item:
        assert item == "first"
        assert lease.token is not None
        assert theirs.qsize() == 1
        with pytest.raises(RuntimeError, match="this lease is in use already"):
            lease.__enter__()
        raise ZeroDivisionError


def test_an_item_returns_when_the_work_on_it_fails(client: Client, other: Client) -> None:
    items, theirs = Queue("work"), Queue("work", client=other)
    items.put("first")
    items.put("second")
    lease = items.lease()
    with pytest.raises(ZeroDivisionError):
        fail_to_work(lease, theirs)
    assert lease.token is None
    with theirs.lease() as item:
        assert item == "first"
    assert theirs.get(batch=True) == ["second"]
    with pytest.raises(queue.Empty), items.lease(timeout=0.01):
        raise AssertionError("there was nothing to work on")


def test_a_queue_carries_futures(cluster: LocalCluster, client: Client) -> None:
    items = Queue("futures")
    with Client(cluster, set_as_default=False) as leaving:
        Queue("futures", client=leaving).put({"deep": [leaving.submit(increment, 41, pure=False)]})
    with items.lease() as item:
        future = item["deep"][0]
        assert isinstance(future, Future)
        assert future.result(PATIENCE) == 42
    assert client.submit(increment, future).result(PATIENCE) == 43
    key = future.key
    del item, future
    eventually(lambda: key not in held(client))


def test_a_closed_queue(client: Client, other: Client) -> None:
    items = Queue("closed", maxsize=1)
    items.put(1)
    putting = Waiting(lambda: items.put(2))
    Waiting(lambda: Event("never").wait(0.01)).result()
    Queue("closed", client=other).close()
    with pytest.raises(ClosedError, match="<Queue 'closed'> is closed: nothing can be put into it"):
        putting.result()
    with pytest.raises(ClosedError, match="nothing can be put"):
        items.put(3)
    assert items.get() == 1
    with pytest.raises(ClosedError, match="there is nothing left in it"):
        items.get()


def test_an_interrupted_get_gives_back_what_it_took(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    items = Queue("interrupted")
    items.put(1)
    items.put(2)
    module: Any = import_module("treadle.client.coordination.queue")
    original = module.give_back

    async def interrupted(*args: Any, **options: Any) -> None:
        await original(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "give_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        items.get()
    monkeypatch.undo()
    assert items.get(batch=True) == [1, 2]


# Variables


def test_a_variable_has_its_last_value(client: Client, other: Client) -> None:
    ours, theirs = Variable("v"), Variable("v", client=other)
    with pytest.raises(concurrent.futures.TimeoutError, match=r"<Variable 'v'> had no value within 0\.01 seconds"):
        theirs.get(timeout=0.01)
    waiting = Waiting(theirs.get)
    ours.set([1, 2])
    assert waiting.result() == [1, 2]
    ours.set(client.submit(increment, 1, pure=False))
    future = theirs.get()
    assert future.result(PATIENCE) == 2
    key = future.key
    del future
    assert theirs.get().result(PATIENCE) == 2  # it is kept for as long as it is the value
    ours.delete()
    eventually(lambda: key not in held(client))
    with pytest.raises(concurrent.futures.TimeoutError):
        ours.get(timeout=0.01)


# Asynchronous clients


def asynchronously(test: Test) -> Callable[[LocalCluster], None]:
    @functools.wraps(test)
    def run(cluster: LocalCluster) -> None:
        async def body() -> None:
            async with Client(cluster, asynchronous=True) as client:
                await test(client)

        asyncio.run(body())

    del run.__dict__["__wrapped__"]  # its parameters are others
    return run


@asynchronously
async def test_everything_can_be_awaited(client: Client) -> None:
    lock, seats, event = Lock("async"), Semaphore(1, "async"), Event("async")
    async with lock, seats:
        assert await lock.locked()
        assert await seats.get_value() == 1
        assert not await Lock("async").acquire(timeout=0.01)
    items, variable = Queue("async", maxsize=1), Variable("async")
    putting = asyncio.gather(items.put(1), items.put(2))
    assert [await items.get(), await items.get()] == [1, 2]
    await putting
    await items.put(client.submit(increment, 1))
    async with items.lease() as future:
        assert await future == 2
    assert await items.empty()
    assert not await items.full()
    waiting = asyncio.ensure_future(event.wait())
    await event.set()
    assert await waiting
    assert await event.is_set()
    await variable.set("x")
    assert await variable.get() == "x"
    with pytest.raises(UserError, match="write `async with`"):
        lock.__enter__()


@asynchronously
async def test_a_wait_that_is_cancelled_leaves_the_line(client: Client) -> None:
    lock = Lock("cancelled")
    await lock.acquire()
    waiting = [asyncio.ensure_future(Lock("cancelled").acquire()) for _ in range(2)]
    await client.scheduler_info()
    waiting[0].cancel()
    await lock.release()
    assert await waiting[1]
    assert waiting[0].cancelled()


def test_a_lock_can_be_awaited_with_any_client(client: Client) -> None:
    async def body() -> int | None:
        async with Lock("mixed") as lock:
            token: int | None = lock.token
            return token

    assert asyncio.run(body()) is not None
