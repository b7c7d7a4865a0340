"""Actors, on real workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from client_parts import FakeCluster

import treadle
from treadle import Actor, ActorFuture, Client, LocalCluster
from treadle.client.actors import About
from treadle.errors import ActorLostError, ClosedError, DataLostError, TaskNotSerializableError, UserError
from treadle.testing.tasks import Boom, eventually, inc, meet, pipes
from treadle.wire import messages
from treadle.wire.sizes import sizeof
from treadle.wire.values import pack_value


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, resources={"token": 1}, name="here") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def start(client: Client) -> Callable[..., Any]:
    """``start(cls, …)`` returns a handle of a new actor."""

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        return client.submit(cls, *args, actor=True, **kwargs).result(60)

    return make


class Counter:
    kind = "counter"

    def __init__(self, n: int = 0) -> None:
        self.n = n
        self._secret = 1

    @property
    def double(self) -> int:
        return 2 * self.n

    def increment(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def where(self) -> tuple[str, str]:
        return treadle.get_worker().name, threading.current_thread().name

    def fail(self, text: str) -> None:
        raise Boom(text)

    def lock(self) -> Any:
        return threading.Lock()

    def meet(self, one: str, two: str) -> int:
        meet(one, two)
        return self.n

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Notes:
    """Remembers what it was called with, and may know another actor."""

    def __init__(self, other: Any = None, **more: Any) -> None:
        self.other = other
        self.notes: list[Any] = []
        self.array: Any = None

    def note(self, *args: Any, **kwargs: Any) -> int:
        self.notes.append((args, kwargs) if kwargs else args)
        return len(self.notes)

    def repeat(self, text: str, count: int) -> str:
        return text * count

    def know(self, other: Any) -> None:
        self.other = other

    def ask(self, by: int) -> Any:
        return self.other.increment(by).result()

    def ask_for_n(self) -> Any:
        return self.other.n

    def reach(self) -> Any:
        return self.other

    def keep(self, array: Any) -> Any:
        self.array = array.copy()
        return self.array

    def spoil(self) -> None:
        self.array[:] = -1


class Gate:
    """Has coroutine methods."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waiting = 0
        self.threads: set[int] = set()

    async def pass_through(self, number: int) -> int:
        self.threads.add(threading.get_ident())
        self.waiting += 1
        await self.event.wait()
        return number

    def open(self) -> int:
        self.threads.add(threading.get_ident())
        self.event.set()
        return self.waiting

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise Boom("later")

    async def ask(self, other: Any) -> Any:
        return await other.increment(5), await other.n


class Refusing:
    def __init__(self) -> None:
        raise Boom("no such actor")


def use(handle: Any, by: int) -> tuple[int, int]:
    return handle.increment(by).result(), handle.n


def threads_of(key: str) -> int:
    return sum(thread.name == f"treadle-actor-{key}" for thread in threading.enumerate())


def lives(client: Client, key: str) -> bool:
    return any(client.run(threads_of, key).values())


# Calls


def test_a_counter(client: Client) -> None:
    future = client.submit(Counter, 5, actor=True)
    assert isinstance(future, treadle.Future)
    counter = cast(Any, future.result())
    assert isinstance(counter, Actor)
    call = counter.increment(2)
    assert isinstance(call, ActorFuture)
    assert isinstance(call, concurrent.futures.Future)
    assert call.result() == 7
    assert counter.increment().result(60) == 8
    assert counter.increment(by=-1).result() == 7
    assert (counter.n, counter.double, counter.kind) == (7, 14, "counter")
    assert client.gather([future])[0] is counter


def test_what_a_handle_looks_like(client: Client, start: Callable[..., Any]) -> None:
    counter = start(Counter, workers="here-1")
    key = counter._about.key
    assert key.startswith("Counter-")
    assert repr(counter) == f"<Actor Counter {key!r} on here-1>"
    assert repr(counter.increment) == f"<method 'increment' of {counter!r}>"
    assert counter.increment.__name__ == "increment"
    assert {"increment", "double", "kind"} <= set(dir(counter))
    call = counter.increment()
    call.result()
    assert repr(call) == f"<ActorFuture '{key}.increment' finished int>"
    assert sizeof(counter) == 256
    with pytest.raises(AttributeError, match="'Counter' object has no attribute 'nothing'"):
        _ = counter.nothing
    with pytest.raises(AttributeError, match="begins with an underscore: '_secret'"):
        _ = counter._secret
    with pytest.raises(AttributeError, match="'n' cannot be set on a handle of an actor"):
        counter.n = 3


def test_calls_are_executed_in_their_order(start: Callable[..., Any], client: Client) -> None:
    notes = start(Notes)
    calls = [notes.note(number) for number in range(10_000)]
    assert client.gather(calls) == list(range(1, 10_001))
    assert notes.notes == [(number,) for number in range(10_000)]


def test_calls_of_many_threads(start: Callable[..., Any]) -> None:
    counter = start(Counter)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: counter.increment().result(), range(400)))
    assert sorted(results) == list(range(1, 401))


def test_many_actors(client: Client) -> None:
    futures = [client.submit(Counter, number, actor=True) for number in range(20)]
    counters = cast(list[Any], client.gather(futures))
    assert client.gather([counter.increment() for counter in counters]) == list(range(1, 21))


def test_arguments_of_all_kinds(start: Callable[..., Any]) -> None:
    notes = start(Notes)
    given = [(1, "a", None, 2.5, b"b", True), (2**80, "\ud800"), ([1, {"k": (2,)}],), ("x" * 100_000,), (), (inc,)]
    for args in given:
        notes.note(*args).result()
    notes.note(1, k=[2]).result()
    assert notes.notes == [*given, ((1,), {"k": [2]})]


def test_arrays_are_as_they_were_at_the_call(start: Callable[..., Any], client: Client) -> None:
    notes = start(Notes)
    array = np.empty(500_000)
    calls = []
    for number in range(20):
        array[:] = number
        calls += [notes.keep(array), notes.spoil()]
    for number, result in enumerate(client.gather(calls)[::2]):
        assert (result == number).all()


def test_many_results_that_are_not_small(client: Client, start: Callable[..., Any]) -> None:
    notes = start(Notes)
    results = client.gather([notes.repeat("x", 10_000) for _ in range(5000)])
    assert all(result == "x" * 10_000 for result in results)
    arrays = client.gather([notes.keep(np.full(1000, float(number))) for number in range(1000)])
    assert [array[-1] for array in arrays] == list(range(1000))


def test_exceptions(start: Callable[..., Any]) -> None:
    counter = start(Counter)
    with pytest.raises(Boom, match="it broke") as caught:
        counter.fail("it broke").result()
    shown = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (shown.name, shown.line) == ("fail", "raise Boom(text)")
    assert not any("worker" in frame.filename.split("treadle")[-1] for frame in traceback.extract_tb(caught.tb))
    assert isinstance(counter.fail("again").exception(), Boom)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        counter.increment(nothing=1).result()
    with pytest.raises(TypeError, match="result of type lock cannot leave the worker process"):
        counter.lock().result()
    with pytest.raises(TaskNotSerializableError, match="its argument 1 \\(a lock\\)"):
        counter.increment(threading.Lock())
    assert counter.increment().result() == 1


def test_a_class_that_cannot_be_made(client: Client) -> None:
    with pytest.raises(Boom, match="no such actor") as caught:
        client.submit(Refusing, actor=True).result()
    assert caught.traceback[-1].name == "__init__"
    with pytest.raises(TypeError, match="must be the class of the actor, not 3"):
        client.submit(3, actor=True)  # type: ignore[arg-type]
    with pytest.raises(TaskNotSerializableError, match="argument 2 \\(a lock\\)"):
        client.submit(Counter, threading.Lock(), actor=True)


def test_time_limits(start: Callable[..., Any], tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    counter = start(Counter)
    call = counter.meet(one, two)
    after = counter.increment()
    with pytest.raises(concurrent.futures.TimeoutError):
        call.result(timeout=0.05)
    assert not after.done()
    meet(two, one)
    assert (call.result(), after.result()) == (0, 1)


def test_wait_and_as_completed(start: Callable[..., Any]) -> None:
    counter = start(Counter)
    calls = [counter.increment() for _ in range(10)]
    assert treadle.wait(calls).not_done == set()
    assert {call.result() for call in treadle.as_completed(calls)} == set(range(1, 11))
    calls = [counter.increment() for _ in range(10)]
    assert len(concurrent.futures.wait(calls, 60).done) == 10
    calls = [counter.increment() for _ in range(10)]
    assert sum(1 for _ in concurrent.futures.as_completed(calls, 60)) == 10
    told: list[Any] = []
    call = counter.increment()
    call.add_done_callback(lambda done: told.append(done.result()))
    assert call.result() == 31
    eventually(lambda: told == [31])


# Cancelling and interrupts


def test_cancel(start: Callable[..., Any], tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    counter = start(Counter)
    running = counter.meet(one, two)
    queued = [counter.increment() for _ in range(3)]
    with pytest.raises(concurrent.futures.TimeoutError):
        queued[0].result(timeout=0.01)  # by now they are at the worker
    assert queued[1].cancel()
    assert queued[1].cancelled()
    with pytest.raises(CancelledError, match="increment' was cancelled"):
        queued[1].result()
    assert not running.cancel()
    meet(two, one)
    assert (running.result(), queued[0].result(), queued[2].result()) == (0, 1, 2)
    assert not running.cancel()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_and_not_the_call(start: Callable[..., Any], tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    counter = start(Counter)
    call = counter.meet(one, two)

    def interrupt() -> None:
        eventually(lambda: bool(call._watch))
        signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        call.result()
    thread.join()
    meet(two, one)
    assert call.result() == 0


# Where handles go


def test_handles_in_tasks(client: Client) -> None:
    future = client.submit(Counter, actor=True, workers="here-0")
    counter = cast(Any, future.result())
    for number, (given, worker) in enumerate([(future, 0), (future, 1), (counter, 0), (counter, 1)], 1):
        done = client.submit(use, given, 1, workers=f"here-{worker}", pure=False)
        assert done.result() == (number, number)


def test_the_thread_of_an_actor_is_not_that_of_a_task(client: Client, start: Callable[..., Any]) -> None:
    counters = [start(Counter, workers=f"here-{number}") for number in range(2)]
    for number, counter in enumerate(counters):
        assert counter.where().result() == (f"here-{number}", f"treadle-actor-{counter._about.key}")
    tasks = [client.submit(use, counters[number % 2], 1, pure=False) for number in range(20)]
    client.gather(tasks)
    assert [counter.n for counter in counters] == [10, 10]


def test_actors_that_call_actors(client: Client, start: Callable[..., Any]) -> None:
    future = client.submit(Counter, actor=True, workers="here-0")
    for other in (future, future.result()):
        asking = start(Notes, other, workers="here-1")
        before = cast(Any, future.result()).n
        assert asking.ask(1).result() == before + 1
        assert asking.ask_for_n().result() == before + 1
    told = start(Notes, workers="here-0")
    told.know(future.result()).result()
    assert told.ask(10).result() == 12
    reached = told.reach().result()
    assert reached.increment().result() == 13
    assert repr(told.other) == repr(reached)


def test_an_actor_lives_as_long_as_it_has_a_handle(client: Client) -> None:
    future = client.submit(Counter, actor=True)
    counter = cast(Any, future.result())
    key, packed = future.key, pickle.dumps(counter)
    del future
    assert counter.increment().result() == 1
    with client.as_current():
        again = pickle.loads(packed)
    del counter
    assert again.increment().result() == 2
    assert lives(client, key)
    del again
    gc.collect()
    eventually(lambda: not lives(client, key))
    with client.as_current(), pytest.raises(ActorLostError, match="it was released") as caught:
        pickle.loads(packed).increment().result()
    assert "it was released, and is not on the worker here-" in str(caught.value)


def test_tasks_do_not_keep_an_actor_alive(client: Client) -> None:
    """Also not those on another worker, where the handle is kept as an input of the task."""
    future = client.submit(Counter, actor=True, workers="here-0")
    for worker in ("here-0", "here-1"):
        client.submit(use, future, 1, workers=worker, pure=False).result()
    key = future.key
    assert lives(client, key)
    del future
    eventually(lambda: not lives(client, key))


def test_release(client: Client) -> None:
    future = client.submit(Counter, actor=True)
    counter = cast(Any, future.result())
    future.release()
    uses: list[Callable[[], Any]] = [lambda: counter.increment(), lambda: counter.n]
    for use_it in uses:
        with pytest.raises(ClosedError, match="was released"):
            use_it()
    eventually(lambda: not lives(client, future.key))


def test_a_key_names_one_actor(client: Client) -> None:
    one, two = (client.submit(Counter, actor=True, key="the counter") for _ in range(2))
    cast(Any, one.result()).increment().result()
    assert cast(Any, two.result()).n == 1
    assert one.key == "the counter"


def test_resources(client: Client) -> None:
    counters = [cast(Any, client.submit(Counter, actor=True, resources={"token": 1}).result()) for _ in range(3)]
    assert [counter.n for counter in counters] == [0, 0, 0]


def test_what_is_no_argument(client: Client, start: Callable[..., Any]) -> None:
    counter = start(Counter)
    with pytest.raises(UserError, match="is a call outside of tasks, whose result is not on the cluster"):
        client.submit(inc, counter.increment())
    with pytest.raises(TaskNotSerializableError, match="its argument 1 \\(a Future\\)"):
        counter.increment(client.submit(inc, 1))


def test_a_handle_without_a_client() -> None:
    about = About("c", "Counter", "w", "here-0", "127.0.0.1:1", "f" * 32, frozenset({"increment"}), frozenset())
    handle = cast(Any, pickle.loads(pickle.dumps(Actor(about))))
    with pytest.raises(UserError, match="belongs to a cluster that no client here is connected to"):
        handle.increment()


# Coroutines


def test_coroutine_methods_run_at_the_same_time(client: Client, start: Callable[..., Any]) -> None:
    gate = start(Gate)
    calls = [gate.pass_through(number) for number in range(1000)]
    assert gate.open().result() == 1000
    assert client.gather(calls) == list(range(1000))
    assert len(gate.threads) == 1
    with pytest.raises(Boom, match="later") as caught:
        gate.fail().result()
    assert caught.traceback[-1].name == "fail"


def test_coroutine_methods_that_await_actors(start: Callable[..., Any]) -> None:
    counter = start(Counter, workers="here-0")
    for worker in ("here-0", "here-1"):
        before = counter.n
        assert start(Gate, workers=worker).ask(counter).result() == (before + 5, before + 5)


def test_an_actor_ends_while_its_coroutines_wait(client: Client) -> None:
    future = client.submit(Gate, actor=True)
    gate = cast(Any, future.result())
    call = gate.pass_through(1)
    assert gate.waiting == 1
    future.release()
    eventually(lambda: not lives(client, future.key))
    with pytest.raises((CancelledError, asyncio.CancelledError)):
        call.result()


def test_an_asynchronous_client(cluster: LocalCluster) -> None:
    async def program() -> None:
        async with Client(cluster, asynchronous=True) as client:
            counter: Any = await client.submit(Counter, actor=True)
            assert await counter.increment(2) == 2
            assert await asyncio.gather(*(counter.increment() for _ in range(100))) == list(range(3, 103))
            assert await counter.n == 102
            assert await client.gather([counter.increment(), counter.increment()]) == [103, 104]
            with pytest.raises(Boom):
                await counter.fail("x")
            with pytest.raises(AttributeError):
                await counter.nothing
            pending = counter.increment()
        with pytest.raises(CancelledError):
            await pending
        with pytest.raises(ClosedError):
            counter.increment()

    asyncio.run(program())


# The end


def test_a_closed_client(cluster: LocalCluster, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    with Client(cluster, set_as_default=False) as client:
        counter: Any = client.submit(Counter, actor=True).result()
        assert counter.n == 0
        calls = [counter.meet(one, two), *(counter.increment() for _ in range(100))]
        with open(one, "rb"):
            pass  # the first one has begun
    for call in calls:
        with pytest.raises(CancelledError):
            call.result()
    uses: list[Callable[[], Any]] = [lambda: counter.increment(), lambda: counter.n]
    for use_it in uses:
        with pytest.raises(ClosedError, match="this client is closed"):
            use_it()
    with open(two, "wb"):
        pass  # it ends


def test_the_death_of_its_worker(client: Client, cluster: LocalCluster, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    future = client.submit(Counter, actor=True, workers="here-0")
    counter = cast(Any, future.result())
    other = cast(Any, client.submit(Counter, actor=True, workers="here-1").result())
    calls = [counter.increment(), counter.meet(one, two), *(counter.increment() for _ in range(1000))]
    assert calls[0].result() == 1
    cluster.kill_worker("here-0")
    for call in calls[1:]:
        with pytest.raises(ActorLostError) as caught:
            call.result(60)
    error = caught.value
    assert isinstance(error, DataLostError)
    assert (error.key, error.kind, error.worker) == (future.key, "Counter", "here-0")
    assert str(error).startswith(
        f"the actor {future.key!r} (a Counter) is lost, and its state with it: its worker here-0"
    )
    for late in (counter.increment(), counter.increment()):
        with pytest.raises(ActorLostError):
            late.result(60)
    with pytest.raises(ActorLostError):
        _ = counter.n
    with pytest.raises(ActorLostError):
        client.submit(use, future, 1).result(60)
    assert other.increment().result() == 1
    cluster.wait_for_workers()


def test_an_actor_that_ends_its_worker(client: Client, cluster: LocalCluster, start: Callable[..., Any]) -> None:
    counter = start(Counter, workers="here-1")
    with pytest.raises(ActorLostError, match="here-1 is gone"):
        counter.die().result(60)
    eventually(lambda: counter._about.worker not in {worker.ident for worker in cluster.workers})
    cluster.wait_for_workers()
    assert start(Counter, workers="here-1").increment().result() == 1


def test_the_scheduler_may_know_first() -> None:
    fake = FakeCluster()
    with fake.client() as client:
        future = client.submit(Counter, actor=True)
        client.session.flush()
        assert fake.expect(messages.Submit).keys == [future.key]
        about = About(
            future.key, "Counter", "w", "here-0", fake.worker, "0" * 32, frozenset({"increment"}), frozenset()
        )
        fake.send(("done", [(future.key, 10, pack_value(Actor(about)), "w", fake.worker)]))
        counter = cast(Any, future.result())
        info = {"key": future.key, "worker": "here-0", "actor": True}
        fake.send(("failed", [(future.key, future.key, ("lost", b"", "it is gone", info))]))
        eventually(lambda: bool(counter._hold.lost))
        with pytest.raises(ActorLostError, match=r"its worker here-0 is gone \(the scheduler says so\)"):
            counter.increment().result()
    fake.close()
