"""Pools: Treadle's own threads, and the executors and pools that callers bring."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import pytest
from test_conformance import InlineExecutor
from test_failures import die

import treadle
import treadle.multiprocessing
import treadle.sync
import treadle.threaded
from treadle import config
from treadle.errors import UserError
from treadle.local.pools import PoolError
from treadle.local.threads import ThreadPool
from treadle.testing.tasks import Boom, Counted, Recorder, boom, count_down, eventually, inc, same, total

DIAMOND: dict[str, Any] = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "a"), "d": (total, ["b", "c"])}


def thread_name(*_: Any) -> str:
    return threading.current_thread().name


def note_thread(names: list[str]) -> None:
    names.append(thread_name())


def seen(**options: Any) -> tuple[str, int]:
    """Which scheduler ran a graph, and with how many workers."""
    recorder = Recorder()
    assert treadle.get(DIAMOND, "d", callbacks=[recorder], **options) == 6
    assert recorder.info is not None
    return recorder.info.scheduler, recorder.info.num_workers


# Which pool, and how much of it


def test_the_number_of_workers_comes_from_the_pool() -> None:
    with ThreadPoolExecutor(3) as pool:
        assert seen(pool=pool) == ("threads", 3)
        assert seen(pool=pool, num_workers=2) == ("threads", 2)
        assert seen(pool=pool, num_workers=9) == ("threads", 3)
        assert seen(scheduler=pool) == ("threads", 3)
    with multiprocessing.pool.ThreadPool(2) as pool:
        assert seen(pool=pool) == ("threads", 2)
    assert seen(pool=InlineExecutor(), num_workers=5) == ("executor", 5)
    assert seen(pool=InlineExecutor()) == ("executor", config.cpu_count())


def test_tasks_run_on_the_threads_of_the_pool() -> None:
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
        assert treadle.get({"a": (thread_name,)}, "a", pool=pool).startswith("mine")
        assert treadle.threaded.get({"a": (thread_name,)}, "a", pool=pool).startswith("mine")
        assert treadle.multiprocessing.get({"a": (thread_name,)}, "a", pool=pool).startswith("mine")
        assert treadle.sync.get({"a": (thread_name,)}, "a", pool=pool) == threading.current_thread().name


def test_a_pool_from_the_settings() -> None:
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
        with config.set(pool=pool):
            assert treadle.get({"a": (thread_name,)}, "a").startswith("mine")
            assert treadle.get({"a": (thread_name,)}, "a", scheduler="sync") == threading.current_thread().name
        assert treadle.get({"a": (thread_name,)}, "a").startswith("treadle-")
        config.set(pool=pool)
        try:
            assert treadle.get({"a": (thread_name,)}, "a").startswith("mine")
        finally:
            config.set(pool=None)
        with config.set(scheduler=pool):
            assert treadle.get({"a": (thread_name,)}, "a").startswith("mine")
    assert treadle.get({"a": (thread_name,)}, "a").startswith("treadle-")


@pytest.mark.parametrize("pool", [4, "threads", object(), [1]], ids=["number", "text", "object", "list"])
def test_what_is_no_pool(pool: Any) -> None:
    with pytest.raises(PoolError, match=r"is not a pool: pass a concurrent\.futures\.Executor") as caught:
        treadle.get(DIAMOND, "d", pool=pool)
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, TypeError)
    assert repr(pool) in str(caught.value)


def test_a_pool_of_multiprocessing() -> None:
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        graph: dict[Any, Any] = {("x", i): (lambda i: i + 1, i) for i in range(100)}
        graph["sum"] = (total, list(graph))
        recorder = Recorder()
        assert treadle.get(graph, "sum", pool=pool, callbacks=[recorder]) == 5050
        assert recorder.info is not None
        assert (recorder.info.scheduler, recorder.info.num_workers) == ("executor", 2)
        with pytest.raises(Boom, match="here"):
            treadle.get({"a": (boom, "here")}, "a", pool=pool)
        assert treadle.get({"a": (count_down, 3, None)}, "a", pool=pool) == 3


class TaskProcessExecutor(InlineExecutor):
    """Claims by its name that it uses other processes, as executors of other libraries do."""

    sent: Any = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        type(self).sent = args
        return super().submit(fn, *args, **kwargs)


class Derived(TaskProcessExecutor):
    """Does not say so itself."""


@pytest.mark.parametrize("kind", [TaskProcessExecutor, Derived])
def test_executors_of_other_processes_get_pickles(kind: type[Executor]) -> None:
    value: list[int] = []
    assert treadle.get({"a": (same, value), "b": (lambda x: x, "a")}, "b", pool=kind()) is not value
    assert isinstance(TaskProcessExecutor.sent[0], bytes)


# When the pool fails


def test_a_pool_that_was_shut_down() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        treadle.get(DIAMOND, "d", pool=pool)
    with multiprocessing.pool.ThreadPool(1) as closed:
        pass
    with pytest.raises(ValueError, match="not running"):
        treadle.get(DIAMOND, "d", pool=closed)


def test_a_pool_that_is_shut_down_by_a_task() -> None:
    """Those of its threads that have come do all the work."""
    pool = ThreadPoolExecutor(4)
    graph: dict[Any, Any] = {"stop": (pool.shutdown, False)}
    graph.update({("x", i): (lambda _, i: i, "stop", i) for i in range(50)})
    graph["sum"] = (total, [("x", i) for i in range(50)])
    assert treadle.get(graph, "sum", pool=pool) == 1225


class Refusing(InlineExecutor):
    """Takes so many calls and no more."""

    def __init__(self, count: int) -> None:
        self.count = count

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count -= 1
        if self.count < 0:
            raise RuntimeError("no more")
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_executor_that_refuses(count: int) -> None:
    graph: dict[Any, Any] = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "b")}
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="no more") as caught:
        treadle.get(graph, "c", pool=Refusing(count), num_workers=1, callbacks=[recorder])
    assert recorder.keys("after") == ["a", "b", "c"][:count]
    assert recorder.errors == [caught.value]


def test_a_process_of_an_executor_dies() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        with pytest.raises(BrokenProcessPool) as caught:
            treadle.get({"a": (inc, 1), "bad": (die, "exit", "a")}, "bad", pool=pool)
        assert caught.value.__notes__ == ["while running task 'bad'"]  # type: ignore[attr-defined]


def test_what_has_not_started_is_cancelled() -> None:
    """Batches wait for the only thread, which a task that is about to fail occupies."""
    release = threading.Event()
    started: list[int] = []

    class Plain(Executor):
        """Forwards to a thread, which Treadle need not know."""

        def __init__(self) -> None:
            self.pool = ThreadPoolExecutor(1)
            self.futures: list[Future[Any]] = []

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.futures.append(self.pool.submit(fn, *args, **kwargs))
            if len(self.futures) == 2:
                release.set()
            return self.futures[-1]

    def work(index: int) -> None:
        started.append(index)
        release.wait()
        raise Boom(index)

    plain = Plain()
    graph = {("x", i): (work, i) for i in range(10)}
    with plain.pool, pytest.raises(Boom):
        treadle.get(graph, list(graph), pool=plain, num_workers=1)
    assert len(started) <= 2
    assert all(future.done() for future in plain.futures)


# Memory


def test_an_idle_thread_holds_no_results() -> None:
    """The last user of a result is done, and its thread has nothing more to do while another one works."""
    alive = [0]
    barrier = threading.Barrier(2)

    def use(value: Counted) -> None:
        barrier.wait()

    def long() -> bool:
        barrier.wait()
        eventually(lambda: alive == [0])
        return True

    graph = {"made": (lambda: Counted(alive),), "use": (use, "made"), "long": (long,), "all": (same, ["use", "long"])}
    assert treadle.get(graph, "all", num_workers=2) == [None, True]


def test_an_executor_holds_no_results_between_batches() -> None:
    alive = [0]
    counts: list[int] = []

    def count(*_: Any) -> None:
        counts.append(alive[0])

    graph = {
        "made": (lambda: Counted(alive),),
        "use": (count, "made"),
        "after": (count, "use"),
        "end": (count, "after"),
    }
    treadle.get(graph, "end", pool=InlineExecutor(), num_workers=1)
    assert counts == [1, 0, 0]


# Treadle's own threads


def test_threads_are_kept() -> None:
    pool = ThreadPool()
    names: list[str] = []
    for _ in range(20):
        pool.run(partial(note_thread, names))
        eventually(lambda: len(pool._parked) == pool._started)
    assert len(names) == 20
    assert len(set(names)) == 1


def test_runs_do_not_pile_up_threads() -> None:
    for _ in range(200):
        treadle.threaded.get(DIAMOND, "d", num_workers=2)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("treadle-")]
    # Other tests have had more of them busy at once, at most 6 runs of 4 or 5 threads.
    assert len(names) <= 60


def test_a_chain_keeps_to_one_thread() -> None:
    graph: dict[Any, Any] = {("x", 0): (thread_name,)}
    graph.update({("x", i): (lambda name: {name, thread_name()}.pop(), ("x", i - 1)) for i in range(1, 20)})
    graph["names"] = [("x", i) for i in range(20)]
    assert len(set(treadle.threaded.get(graph, "names", num_workers=4))) == 1


def test_nested_runs_on_one_thread_of_a_pool() -> None:
    with ThreadPoolExecutor(1) as pool:
        nested = partial(treadle.get, {"x": (inc, 1), "y": (inc, "x")}, "y", pool=pool)
        assert treadle.get({"a": (nested,), "b": (inc, "a")}, "b", pool=pool) == 4
