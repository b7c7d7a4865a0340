"""Graphs and calls on Ray."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

import treadle
from treadle.errors import ResultNotSerializableError, TaskNotSerializableError
from treadle.integrations.engine_executor import EngineExecutor
from treadle.testing.conformance import ParallelConformance, SchedulerConformance
from treadle.testing.tasks import Boom, Recorder, add, boom, inc, meet, pipes, same, total


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    # By default Ray tells its workers' linear algebra to use one thread each, which rounds otherwise than it does here.
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    ray.init(num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


class TestRay(SchedulerConformance, ParallelConformance):
    scheduler = "ray"
    num_workers = 2

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.get, scheduler="ray")


GRAPH = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "a"), "d": (add, "b", "c")}


def test_delayed_values_and_collections() -> None:
    import dask.array

    value = treadle.delayed(add)(treadle.delayed(inc)(1), 2)
    assert value.compute(scheduler="ray") == 4
    assert treadle.compute(value, [value, 1], scheduler="ray") == (4, [4, 1])
    with treadle.config.set(scheduler="ray"):
        assert value.compute() == 4
    with treadle.use("ray"):
        assert dask.array.arange(10, chunks=5).sum().compute() == 45


def test_a_function_with_data_of_its_own_travels_once() -> None:
    big = bytes(10_000)

    def size(more: int) -> int:
        return len(big) + more

    graph: dict[Any, Any] = {("x", i): (size, i) for i in range(10)}
    assert treadle.get({**graph, "sum": (total, list(graph))}, "sum", scheduler="ray") == 100_045


def test_what_cannot_be_pickled() -> None:
    with pytest.raises(TaskNotSerializableError, match="its argument 1 "):
        treadle.get({"x": (same, threading.Lock())}, "x", scheduler="ray")
    with pytest.raises(ResultNotSerializableError, match="its result of type lock"):
        treadle.get({"x": (threading.Lock,)}, "x", scheduler="ray")


def test_a_worker_that_dies() -> None:
    def die() -> None:
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError) as caught:
        treadle.get({**GRAPH, "e": (die,), "f": (add, "d", "e")}, "f", scheduler="ray", callbacks=[Recorder()])
    assert getattr(caught.value, "__notes__", []) == ["while running task 'e'"]
    assert treadle.get(GRAPH, "d", scheduler="ray") == 6


def test_calls() -> None:
    with EngineExecutor("ray") as executor:
        one = executor.submit(inc, 1)
        two = executor.submit(total, [one, one, executor.submit(pow, 2, exp=3)])
        assert two.result(60) == 12
        assert one.exception() is None
        assert list(executor.map(add, range(5), range(5))) == [0, 2, 4, 6, 8]
        futures = [executor.submit(inc, i) for i in range(5)]
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [1, 2, 3, 4, 5]
        assert not futures[0].cancel()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(inc, 1)


def test_calls_that_fail() -> None:
    with EngineExecutor("ray") as executor:
        bad = executor.submit(boom, 1, "two")
        for future in (bad, executor.submit(inc, bad)):
            error = future.exception(60)
            assert type(error) is Boom
            assert error.args == (1, "two")
            assert getattr(error, "__notes__", []) == [f"while running task {bad.key!r}"]


def test_calls_that_are_cancelled(tmp_path: Path) -> None:
    names = pipes(tmp_path, 4)
    with EngineExecutor("ray") as executor:
        running = [executor.submit(meet, names[0], names[1]), executor.submit(meet, names[2], names[3])]
        waiting = executor.submit(inc, 1)
        assert waiting.cancel()
        assert waiting.cancelled()
        assert concurrent.futures.wait([waiting, *running], return_when="FIRST_COMPLETED").done == {waiting}
        for ours, theirs in [(names[1], names[0]), (names[3], names[2])]:
            meet(ours, theirs)
        assert [future.result(60) for future in running] == [None, None]
