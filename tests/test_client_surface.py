"""Whatever waits for a cluster has a limit of time, can be interrupted, and can be awaited.

The list of all that waits is made by looking at what is there, so that nothing can be added and not be tested.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest
from client_parts import FakeCluster
from rich.console import Console

import treadle
from treadle import Client, Event, Executor, Future, LocalCluster, Lock, Pub, Queue, Semaphore, Sub, Variable
from treadle.client.background import BackgroundLoop
from treadle.client.latch import Latch
from treadle.testing import Proxy
from treadle.testing.tasks import inc
from treadle.wire import messages

#: What has methods that may wait. Functions that may are beside them.
CLASSES = (Client, Future, Executor, Lock, Semaphore, Event, Queue, Variable, Pub, Sub)
FUNCTIONS = (treadle.wait, treadle.as_completed, treadle.progress)

#: What never waits for anybody.
QUIET = {
    "Client": {
        "as_current",
        "cancel",
        "current",
        "get_executor",
        "map",
        "persist",
        "retry",
        "stream",
        "submit",
        "unsubscribe_topic",
    },
    "Future": {
        "add_done_callback",
        "cancel",
        "cancelled",
        "done",
        "release",
        "retry",
        "running",
        "set_exception",
        "set_result",
        "set_running_or_notify_cancel",
    },
    # shutdown(wait=True) waits as the standard library says, which has no timeout; Ctrl-C ends it.
    "Executor": {"shutdown", "submit"},
    "Sub": {"close"},
}

#: ``call(client, future, timeout)``: a future that is not done.
Call = Callable[[Client, Any, Any], Any]


class Plugin(treadle.WorkerPlugin):
    """Does nothing."""


def enter(block: Any) -> Any:
    return block.__aenter__() if asyncio._get_running_loop() is not None else block.__enter__()


CALLS: dict[str, Call] = {
    "Client.compute": lambda client, future, timeout: client.compute(
        treadle.delayed(inc)(1), sync=True, timeout=timeout
    ),
    "Client.explain": lambda client, future, timeout: client.explain(future, timeout=timeout),
    "Client.forward_output": lambda client, future, timeout: client.forward_output(timeout=timeout),
    "Client.gather": lambda client, future, timeout: client.gather([future], timeout=timeout),
    "Client.get": lambda client, future, timeout: client.get({"x": (inc, 1)}, "x", timeout=timeout),
    "Client.get_dataset": lambda client, future, timeout: client.get_dataset("x", timeout=timeout),
    "Client.get_events": lambda client, future, timeout: client.get_events("x", timeout=timeout),
    "Client.get_task_stream": lambda client, future, timeout: client.get_task_stream(timeout=timeout),
    "Client.get_versions": lambda client, future, timeout: client.get_versions(timeout=timeout),
    "Client.get_worker_logs": lambda client, future, timeout: client.get_worker_logs(timeout=timeout),
    "Client.has_what": lambda client, future, timeout: client.has_what(timeout=timeout),
    "Client.list_datasets": lambda client, future, timeout: client.list_datasets(timeout=timeout),
    "Client.log_event": lambda client, future, timeout: client.log_event("x", 1, timeout=timeout),
    "Client.nbytes": lambda client, future, timeout: client.nbytes(timeout=timeout),
    "Client.ncores": lambda client, future, timeout: client.ncores(timeout=timeout),
    "Client.nthreads": lambda client, future, timeout: client.nthreads(timeout=timeout),
    "Client.processing": lambda client, future, timeout: client.processing(timeout=timeout),
    "Client.profile": lambda client, future, timeout: client.profile(timeout=timeout),
    "Client.publish_dataset": lambda client, future, timeout: client.publish_dataset(x=future, timeout=timeout),
    "Client.rebalance": lambda client, future, timeout: client.rebalance(timeout=timeout),
    "Client.register_plugin": lambda client, future, timeout: client.register_plugin(Plugin(), timeout=timeout),
    "Client.replicate": lambda client, future, timeout: client.replicate(future, timeout=timeout),
    "Client.restart": lambda client, future, timeout: client.restart(timeout=timeout),
    "Client.restart_workers": lambda client, future, timeout: client.restart_workers(["w"], timeout=timeout),
    "Client.retire_workers": lambda client, future, timeout: client.retire_workers(["w"], timeout=timeout),
    "Client.run": lambda client, future, timeout: client.run(inc, 1, timeout=timeout),
    "Client.run_on_scheduler": lambda client, future, timeout: client.run_on_scheduler(inc, 1, timeout=timeout),
    "Client.scatter": lambda client, future, timeout: client.scatter([1, 2], timeout=timeout),
    "Client.scheduler_info": lambda client, future, timeout: client.scheduler_info(timeout=timeout),
    "Client.shutdown": lambda client, future, timeout: client.shutdown(timeout=timeout),
    "Client.story": lambda client, future, timeout: client.story(future, timeout=timeout),
    "Client.subscribe_topic": lambda client, future, timeout: client.subscribe_topic("x", print, timeout=timeout),
    "Client.unpublish_dataset": lambda client, future, timeout: client.unpublish_dataset("x", timeout=timeout),
    "Client.unregister_plugin": lambda client, future, timeout: client.unregister_plugin("x", timeout=timeout),
    "Client.upload_file": lambda client, future, timeout: client.upload_file(treadle.sync.__file__, timeout=timeout),
    "Client.upload_package": lambda client, future, timeout: client.upload_package("rich", timeout=timeout),
    "Client.wait_for_workers": lambda client, future, timeout: client.wait_for_workers(1, timeout=timeout),
    "Client.who_has": lambda client, future, timeout: client.who_has(timeout=timeout),
    "Future.exception": lambda client, future, timeout: future.exception(timeout),
    "Future.logs": lambda client, future, timeout: future.logs(timeout=timeout),
    "Future.result": lambda client, future, timeout: future.result(timeout),
    "Executor.map": lambda client, future, timeout: list(client.get_executor().map(inc, [1, 2], timeout=timeout)),
    "Lock.acquire": lambda client, future, timeout: Lock("x", client=client).acquire(timeout=timeout),
    "Lock.locked": lambda client, future, timeout: Lock("x", client=client).locked(timeout=timeout),
    "Semaphore.acquire": lambda client, future, timeout: Semaphore(2, "x", client=client).acquire(timeout=timeout),
    "Semaphore.get_value": lambda client, future, timeout: Semaphore(2, "x", client=client).get_value(timeout=timeout),
    "Event.clear": lambda client, future, timeout: Event("x", client=client).clear(timeout=timeout),
    "Event.is_set": lambda client, future, timeout: Event("x", client=client).is_set(timeout=timeout),
    "Event.set": lambda client, future, timeout: Event("x", client=client).set(timeout=timeout),
    "Event.wait": lambda client, future, timeout: Event("x", client=client).wait(timeout=timeout),
    "Queue.close": lambda client, future, timeout: Queue("x", client=client).close(timeout=timeout),
    "Queue.empty": lambda client, future, timeout: Queue("x", client=client).empty(timeout=timeout),
    "Queue.full": lambda client, future, timeout: Queue("x", client=client).full(timeout=timeout),
    "Queue.get": lambda client, future, timeout: Queue("x", client=client).get(timeout=timeout),
    "Queue.lease": lambda client, future, timeout: enter(Queue("x", client=client).lease(timeout=timeout)),
    "Queue.put": lambda client, future, timeout: Queue("x", client=client).put(1, timeout=timeout),
    "Queue.qsize": lambda client, future, timeout: Queue("x", client=client).qsize(timeout=timeout),
    "Variable.delete": lambda client, future, timeout: Variable("x", client=client).delete(timeout=timeout),
    "Variable.get": lambda client, future, timeout: Variable("x", client=client).get(timeout=timeout),
    "Variable.set": lambda client, future, timeout: Variable("x", client=client).set(1, timeout=timeout),
    "Pub.put": lambda client, future, timeout: Pub("x", client=client).put(1, timeout=timeout),
    "wait": lambda client, future, timeout: treadle.wait([future], timeout),
    "as_completed": lambda client, future, timeout: next(treadle.as_completed([future], timeout)),
    "progress": lambda client, future, timeout: treadle.progress(
        future, console=Console(file=io.StringIO()), timeout=timeout
    ),
}


#: What has to hold something, or to have asked for it, before it can wait: these have tests of their own.
PREPARED = {"Client.close", "Lock.release", "Semaphore.release", "Sub.get"}

#: What says by its value that the time is up, as the same method of the standard library does.
TELLS = {"Lock.acquire": False, "Semaphore.acquire": False, "Event.wait": False}


def test_everything_that_waits_is_in_the_list() -> None:
    waiting: dict[str, Any] = {function.__name__: function for function in FUNCTIONS}
    for kind in CLASSES:
        for name, method in inspect.getmembers(kind, callable):
            if not name.startswith("_") and name not in QUIET.get(kind.__name__, ()):
                waiting[f"{kind.__name__}.{name}"] = method
    without = [name for name, function in waiting.items() if "timeout" not in inspect.signature(function).parameters]
    assert without == []
    assert set(waiting) == set(CALLS) | PREPARED


def expect_after(fake: FakeCluster) -> None:
    while "after" not in fake.expect(messages.Submit).keys:
        pass


def check_usable(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="after")
    client.session.flush()
    expect_after(fake)
    fake.done("after", value=2)
    assert future.result(30) == 2


@pytest.mark.parametrize("name", CALLS)
def test_the_time_is_up(fake: FakeCluster, client: Client, name: str) -> None:
    future = client.submit(inc, 0, key="pending")
    if name in TELLS:
        assert CALLS[name](client, future, 0.01) is TELLS[name]
    elif name == "wait":
        assert CALLS[name](client, future, 0.01).not_done == {future}
    else:
        with pytest.raises(FutureTimeoutError):
            CALLS[name](client, future, 0.01)
    check_usable(fake, client)


def interrupt_when_it_waits(thread: threading.Thread, over: threading.Event) -> None:
    """Send a SIGINT to a thread as soon as it waits for a latch."""
    codes = {Latch.block.__code__, BackgroundLoop.run.__code__}
    assert thread.ident is not None

    def waits() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None and frame.f_code not in codes:
            frame = frame.f_back
        return frame is not None or over.is_set()

    # To look without a pause would keep the other thread from getting there: it lets go of the interpreter often.
    deadline = time.monotonic() + 60.0
    while not waits():
        assert time.monotonic() < deadline, "it never waits"
        over.wait(0.001)
    if not over.is_set():
        signal.pthread_kill(thread.ident, signal.SIGINT)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c(fake: FakeCluster, client: Client, name: str) -> None:
    future = client.submit(inc, 0, key="pending")
    over = threading.Event()
    helper = threading.Thread(target=interrupt_when_it_waits, args=(threading.current_thread(), over))
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            CALLS[name](client, future, None)
    finally:
        over.set()
        helper.join()
    check_usable(fake, client)


async def result_of(future: Any) -> Any:
    return await future


#: Where asynchronous code writes something else.
AWAITED: dict[str, Call] = {
    "Future.result": lambda client, future, timeout: asyncio.wait_for(result_of(future), timeout),
    "as_completed": lambda client, future, timeout: treadle.as_completed([future], timeout).__anext__(),
}
#: What is for threads only. A coroutine awaits the future, and looks at what was raised.
BLOCKING = {"Executor.map", "Future.exception"}


@pytest.mark.parametrize("name", [name for name in CALLS if name not in BLOCKING])
def test_in_a_coroutine(fake: FakeCluster, name: str) -> None:
    call = AWAITED.get(name, CALLS[name])

    async def main() -> None:
        async with fake.client(asynchronous=True) as client:
            future = client.submit(inc, 0, key="pending")
            if name in TELLS:
                assert await call(client, future, 0.01) is TELLS[name]
            elif name == "wait":
                assert (await call(client, future, 0.01)).not_done == {future}
            else:
                with pytest.raises((FutureTimeoutError, asyncio.TimeoutError)):
                    await call(client, future, 0.01)
            waiting = asyncio.ensure_future(call(client, future, None))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            after = client.submit(inc, 1, key="after")
            client.session.flush()
            await asyncio.get_running_loop().run_in_executor(None, expect_after, fake)
            fake.done("after", value=2)
            assert await after == 2

    asyncio.run(main())


def test_what_is_held_is_given_back_in_time() -> None:
    with (
        LocalCluster(1, 1) as cluster,
        Proxy(cluster.address) as proxy,
        Client(proxy.address, token=cluster.token, set_as_default=False) as client,
    ):
        lock, semaphore = Lock("x", client=client), Semaphore(1, "y", client=client)
        subscription = Sub("z", client=client)
        assert lock.acquire()
        assert semaphore.acquire()
        proxy.stall()
        for wait in (lock.release, semaphore.release, subscription.get):
            with pytest.raises(FutureTimeoutError):
                wait(timeout=0.01)
        proxy.resume()
        assert client.submit(inc, 1).result() == 2


def test_closing_does_not_wait_for_who_does_not_read() -> None:
    with LocalCluster(1, 1) as cluster, Proxy(cluster.address) as proxy:
        client = Client(proxy.address, token=cluster.token, set_as_default=False)
        proxy.stall()
        future = client.submit(len, b"x" * 9_000_000)
        client.session.flush()
        client.close(timeout=0.01)
        assert future.cancelled()
