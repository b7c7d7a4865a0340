"""What a task can do besides computing: ask for its worker, use a client, and wait without holding up the others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from worker_parts import FakeScheduler, supervise

import treadle
from treadle import Client, LocalCluster, get_client, get_worker, rejoin, secede, worker_client
from treadle.client.default import current
from treadle.client.inside import current as current_task
from treadle.errors import KilledWorkerError, NotInTaskError
from treadle.testing.tasks import Boom, boom, eventually, inc, pipes
from treadle.wire import messages
from treadle.wire.values import unpack_value
from treadle.worker import seats
from treadle.worker.seats import Seat


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=2, resources={"token": 1}, name="here") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def narrow_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:
        yield cluster


@pytest.fixture
def narrow(narrow_cluster: LocalCluster) -> Iterator[Client]:
    """Of a cluster with one slot."""
    with Client(narrow_cluster, set_as_default=False) as client:
        yield client


# What tasks share in their worker's process

lock = threading.Lock()
executing = most = 0
gates: dict[str, threading.Event] = {}
barrier = threading.Barrier(2)


def gate(name: str) -> threading.Event:
    with lock:
        return gates.setdefault(name, threading.Event())


def open_gate(name: str) -> None:
    gate(name).set()


def wait_at(name: str) -> str:
    assert gate(name).wait(60)
    return name


@contextmanager
def counted() -> Iterator[None]:
    """Code of a user's that executes, and does not wait."""
    global executing, most
    with lock:
        executing += 1
        most = max(most, executing)
    try:
        yield
    finally:
        with lock:
            executing -= 1


def most_at_once() -> int:
    return most


def meet_here() -> int:
    return barrier.wait(60)


# The worker and its client


def facts() -> dict[str, Any]:
    worker = get_worker()
    folder = Path(worker.local_directory)
    folder.joinpath("file").write_text("content")
    assert worker is get_worker()
    return {
        "pid": os.getpid(),
        "name": worker.name,
        "ident": worker.ident,
        "address": worker.address,
        "scheduler": worker.scheduler,
        "nthreads": worker.nthreads,
        "resources": worker.resources,
        "folder": str(folder),
        "plugins": worker.plugins,
    }


def test_get_worker() -> None:
    with LocalCluster(1, 2, resources={"token": 1}, name="alone") as cluster, Client(cluster) as client:
        told = client.submit(facts).result()
        again = client.submit(facts, pure=False).result()
        assert told == again
        assert (told["name"], told["nthreads"], told["resources"]) == ("alone-0", 2, {"token": 1})
        assert told["scheduler"] == cluster.address
        [(ident, info)] = client.scheduler_info()["workers"].items()
        assert (told["ident"], told["address"]) == (ident, info["address"])
        assert Path(told["folder"], "file").read_text() == "content"
        assert told["plugins"] == {}
    eventually(lambda: not Path(told["folder"]).exists())


@pytest.mark.parametrize("function", [get_worker, get_client, secede, rejoin], ids=lambda each: each.__name__)
def test_outside_of_tasks(function: Any) -> None:
    with pytest.raises(NotInTaskError, match=rf"{function.__name__}\(\) was called outside of a task"):
        function()
    with pytest.raises(ValueError, match="outside"):
        function()


def test_get_client_outside_of_tasks_is_the_default_client(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        assert get_client() is client
        with pytest.raises(NotInTaskError), worker_client():
            pass
        with worker_client(separate_thread=False) as found:
            assert found is client


def use_clients() -> tuple[int, bool, bool, str]:
    client = get_client()
    client.close()
    with client as same:
        assert not same.closed
    return client.submit(inc, 1).result(), get_client() is client, current() is client, repr(client)


def test_tasks_share_a_client(client: Client) -> None:
    value, same, default, shown = client.submit(use_clients).result()
    assert (value, same, default) == (2, True, True)
    assert "task-here-0" in shown
    assert client.submit(use_clients, pure=False).result() == (value, same, default, shown)


def compute_inside() -> tuple[bool, int]:
    here = threading.get_ident()
    return treadle.delayed(threading.get_ident)().compute() == here, treadle.delayed(inc)(1).compute()


def test_compute_inside_of_a_task_stays_there(narrow: Client) -> None:
    assert narrow.submit(compute_inside).result() == (True, 2)


def priority_here() -> int:
    task = current_task()
    assert task is not None
    return task.priority


def priorities() -> tuple[int, int, int, list[int]]:
    client = get_client()
    child = client.submit(priority_here, pure=False)
    asked = client.submit(priority_here, pure=False, priority=-2)
    grandchild = client.submit(priority_of_child)
    mapped = client.map(called_priority, range(2))
    return child.result(), asked.result(), grandchild.result(), client.gather(mapped)


def priority_of_child() -> int:
    return get_client().submit(priority_here, pure=False).result()


def called_priority(_: int) -> int:
    return priority_here()


def test_children_are_more_urgent_than_their_parents(client: Client) -> None:
    assert client.submit(priorities).result() == (1, -2, 2, [1, 1])
    assert client.submit(priorities, pure=False, priority=7).result() == (8, -2, 9, [8, 8])
    assert client.submit(priority_of_child, pure=False, priority=1 << 20).result() == 1 << 20


# Waiting


def chain(depth: int) -> int:
    return 0 if depth == 0 else 1 + get_client().submit(chain, depth - 1).result()


def fibonacci(n: int) -> int:
    if n < 2:
        return n
    client = get_client()
    one, two = client.map(fibonacci, (n - 1, n - 2))
    return one.result() + two.result()


def threads_here() -> int:
    return sum(each.name.startswith("treadle-worker-") for each in threading.enumerate())


def test_recursion_on_one_slot(narrow: Client) -> None:
    assert narrow.submit(chain, 50).result() == 50
    assert narrow.submit(fibonacci, 12).result() == 144
    eventually(lambda: narrow.submit(threads_here, pure=False).result() <= 2)


def parent(number: int) -> int:
    client = get_client()
    with counted():
        futures = [client.submit(child, number, which) for which in range(2)]
    values = []
    for future in futures:
        values.append(future.result())
        with counted():
            values.append(sum(range(500)) * 0)
    return sum(values)


def child(number: int, which: int) -> int:
    with counted():
        sum(range(500))
        return number + which


def test_never_more_tasks_execute_than_there_are_slots(client: Client) -> None:
    futures = client.map(parent, range(200))
    assert client.gather(futures) == [2 * number + 1 for number in range(200)]
    assert 1 <= client.submit(most_at_once, pure=False).result() <= 2


def wait_in_many_ways(way: str) -> Any:
    client = get_client()
    futures = client.map(inc, range(3), pure=False)
    if way == "gather":
        return client.gather(futures)
    if way == "wait":
        return sorted(future.result() for future in treadle.wait(futures).done)
    if way == "standard wait":
        treadle.wait([*futures, concurrent.futures.Future()], timeout=0.2)
        return [future.result() for future in futures]
    if way == "as_completed":
        return sorted(future.result() for future in treadle.as_completed(futures))
    if way == "compute":
        return client.compute([treadle.delayed(inc)(value) for value in range(3)], sync=True)
    if way == "get":
        return client.get({"a": (inc, 0), "b": (inc, "a"), "c": (inc, "b")}, ["a", "b", "c"])
    if way == "exception":
        return [future.exception() or future.result() for future in futures]
    with worker_client() as same:
        assert same is client
        return [future.result() for future in futures]


@pytest.mark.parametrize(
    "way", ["gather", "wait", "standard wait", "as_completed", "compute", "get", "exception", "worker_client"]
)
def test_whatever_waits_gives_up_the_thread(narrow: Client, way: str) -> None:
    assert narrow.submit(wait_in_many_ways, way).result() == [1, 2, 3]


def give_up_waiting() -> str:
    client = get_client()
    never = client.submit(inc, 1, resources={"nothing": 1}, pure=False)
    for timeout in (0, 0.0001, 0.05):
        with pytest.raises(concurrent.futures.TimeoutError):
            never.result(timeout=timeout)
    assert not treadle.wait([never], timeout=0.05).done
    never.cancel()
    return "gave up"


def test_a_wait_that_times_out_takes_the_thread_again(client: Any) -> None:
    assert client.gather(client.map(lambda _: give_up_waiting(), range(4))) == ["gave up"] * 4
    # There are two slots still, and no more.
    client.gather([client.submit(meet_here, pure=False) for _ in range(2)])
    held = [client.submit(wait_at, f"end-{index}", pure=False) for index in range(2)]
    third = client.submit(open_gate, "end-1", pure=False)
    assert not treadle.wait([third], timeout=0.3).done
    client.submit(open_gate_async, "end-0").result()
    assert client.gather(held) == ["end-0", "end-1"]


async def open_gate_async(name: str) -> None:
    """Needs no slot."""
    open_gate(name)


class Interrupt(Exception):
    pass


def be_interrupted(name: str) -> str:
    thread = threading.get_ident()
    client = get_client()
    never, raising = client.submit(inc, 1, resources={"nothing": 1}, pure=False), client.submit(raise_in, thread, name)
    try:
        never.result(timeout=60)
    except Interrupt:
        return name if raising.result() is None else "not interrupted"
    return "not interrupted"


def raise_in(thread: int, name: str) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interrupt))


def test_a_wait_that_is_interrupted_takes_the_thread_again(narrow: Client) -> None:
    assert narrow.submit(be_interrupted, "first").result() == "first"
    assert narrow.submit(chain, 3, pure=False).result() == 3


def interrupted_at(count: int) -> bool:
    """Wait, and be interrupted at the n-th line of what the worker does for that. Whether there are so many."""
    never = get_client().submit(inc, 1, resources={"nothing": 1}, pure=False)
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        module = frame.f_globals["__name__"]
        if event == "line" and module.startswith(("treadle.worker.", "asyncio.")):
            lines += 1
            if lines == count:
                sys.settrace(None)
                raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        treadle.wait([never], timeout=0.002)
    except Interrupt:
        pass
    finally:
        sys.settrace(None)
    # On one slot, this needs a task that gives it up, and that it is as it was.
    assert chain(2) == 2
    return lines == count


def test_a_wait_can_be_interrupted_anywhere(narrow: Client) -> None:
    count = 1
    while narrow.submit(interrupted_at, count).result(timeout=60):
        assert narrow.submit(chain, 3, pure=False).result(timeout=60) == 3
        count += 1
    assert count > 20


def wait_for_gate(name: str) -> str:
    return get_client().submit(wait_at, name).result()


def test_a_task_that_is_cancelled_while_it_waits(narrow: Any) -> None:
    future = narrow.submit(wait_for_gate, "cancelled")
    inner = narrow.submit(wait_at, "cancelled")
    eventually(lambda: "waits for something" in narrow.explain(future))
    assert future.cancel()
    narrow.submit(open_gate_async, "cancelled").result()
    assert inner.result() == "cancelled"
    assert narrow.submit(chain, 3, pure=False).result() == 3


def fail_after_waiting() -> None:
    get_client().submit(inc, 1, pure=False).result()
    raise Boom("after")


def wait_for_failure() -> None:
    get_client().submit(boom, 1, 2).result()


def test_a_task_that_raises_after_it_has_waited(narrow: Client) -> None:
    with pytest.raises(Boom, match="after") as caught:
        narrow.submit(fail_after_waiting).result()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail_after_waiting"
    with pytest.raises(Boom) as caught:
        narrow.submit(wait_for_failure).result()
    assert caught.value.args == (1, 2)
    assert narrow.submit(inc, 1).result() == 2


def wait_until(path: str) -> str:
    never = get_client().submit(inc, 1, resources={"nothing": 1}, pure=False)
    while not os.path.exists(path):
        treadle.wait([never], timeout=0.1)
    return "unharmed"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_waits_is_not_blamed_for_a_death(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        waiting = client.submit(wait_until, str(tmp_path / "end"))
        eventually(lambda: "waits for something" in client.explain(waiting))
        with pytest.raises(KilledWorkerError) as caught:
            client.submit(die).result()
        assert caught.value.deaths == 3
        (tmp_path / "end").touch()
        assert waiting.result() == "unharmed"


# By hand


def step_aside() -> str:
    secede()
    secede()
    assert gate("aside").wait(60)
    rejoin()
    rejoin()
    return "back"


def stay_aside() -> str:
    secede()
    assert gate("aside").wait(60)
    return get_client().submit(inc, 1, pure=False).result() and "never back"


def test_secede_and_rejoin(narrow: Client) -> None:
    futures = [narrow.submit(step_aside), narrow.submit(stay_aside), narrow.submit(step_aside, pure=False)]
    narrow.submit(open_gate, "aside").result()
    assert narrow.gather(futures) == ["back", "never back", "back"]
    assert narrow.submit(chain, 3, pure=False).result() == 3


def use_worker_client() -> Any:
    with worker_client() as client:
        assert gate("worker client").wait(60)
        return client.submit(inc, 1).result()


def test_worker_client_occupies_no_thread(narrow: Client) -> None:
    future = narrow.submit(use_worker_client)
    narrow.submit(open_gate, "worker client").result()
    assert future.result() == 2


def be_away(gate: str) -> float:
    """For how many seconds it surely occupied no thread."""
    secede()
    left = time.perf_counter()
    with open(gate, "rb"):  # until somebody writes
        away = time.perf_counter() - left
    rejoin()
    return away


def test_the_seconds_of_a_task_are_those_in_which_it_occupied_a_thread(tmp_path: Path) -> None:
    [gate] = pipes(tmp_path, 1)

    async def report() -> tuple[messages.Finished, float]:
        async with FakeScheduler() as scheduler:
            supervisor = supervise(scheduler)
            supervisor.start()
            try:
                worker = await scheduler.joined()
                worker.run("first", threads_here)  # imports this module, which takes its time
                await worker.hears(messages.Finished)
                began = time.perf_counter()
                attempt = worker.run("x", be_away, gate)
                assert (await worker.hears(messages.Seceded)).attempts == [attempt]
                with open(gate, "wb"):
                    pass
                assert (await worker.hears(messages.Rejoined)).attempts == [attempt]
                finished = await worker.hears(messages.Finished)
                return finished, time.perf_counter() - began
            finally:
                await asyncio.get_running_loop().run_in_executor(None, supervisor.stop)

    finished, most = asyncio.run(report())
    [(_, _, seconds, packed)] = finished.rows
    assert packed is not None
    assert 0 <= seconds <= most - unpack_value(packed)


@pytest.mark.parametrize(
    ("ways", "ended", "expected"),
    [
        ("", 11.0, 1.0),
        ("leave", 18.0, 2.0),
        ("leave come_back", 18.0, 3.0),
        ("leave leave come_back come_back", 18.0, 3.0),
        ("secede secede rejoin rejoin leave", 19.0, 3.0),
    ],
)
def test_the_seconds_of_a_thread(ways: str, ended: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        worker = None

        def heed(self, seat: Seat) -> None:
            if not seat.waits:
                seat.pass_gate()

    ticks = iter([12.0, 17.0, 18.0])
    monkeypatch.setattr(seats, "perf_counter", lambda: next(ticks))
    seat = Seat(Elsewhere())  # type: ignore[arg-type]
    for way in ways.split():
        getattr(seat, way)()
    assert seat.seconds_here(10.0, ended) == expected
    # What is rounded to less than nothing is nothing: a worker that reported it would be thrown out.
    assert seat.seconds_here(18.0 + 1e-9, 18.0) == 0.0
