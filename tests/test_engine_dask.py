"""Graphs and calls on a cluster of Dask's."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from engine_parts import DaskConformance, dask_client

import treadle
from treadle.errors import ClosedError, TaskNotSerializableError, UserError
from treadle.graph.ordering import order
from treadle.graph.plan import read
from treadle.integrations.engine_executor import EngineExecutor
from treadle.integrations.engines import CallFailed, Step, Unit, lines_of
from treadle.local.run import Run
from treadle.scheduling import SchedulerError
from treadle.testing.tasks import Boom, Recorder, add, boom, eventually, inc, linger, meet, pipes, same, total

distributed: Any = import_module("distributed")  # whose functions have no types


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with dask_client(**{"distributed.scheduler.allowed-failures": 0}) as client:
        yield client


class TestDask(DaskConformance):
    def test_ten_thousand_tasks_side_by_side(self, get: Callable[..., Any]) -> None:
        """A tenth of them here, since Dask takes a millisecond or two for each; tests/engines has them all."""
        graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(1000)}
        graph["sum"] = (total, list(graph))
        assert get(graph, "sum") == 500_500
        assert get(graph, [("x", i) for i in range(1000)]) == list(range(1, 1001))


GRAPH = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "a"), "d": (add, "b", "c")}


def test_by_name_it_is_the_default_client(client: Any) -> None:
    with client.as_current():
        assert treadle.get(GRAPH, ["d", "a"], scheduler="dask") == [6, 2]
        value = treadle.delayed(add)(treadle.delayed(inc)(1), 2)
        assert value.compute(scheduler="dask") == 4
        assert treadle.compute(value, [value, 1], scheduler="distributed") == (4, [4, 1])
        with treadle.config.set(scheduler="dask"):
            assert value.compute() == 4


def test_without_a_default_client() -> None:
    with pytest.raises(UserError, match=r"open a distributed\.Client first"):
        treadle.get(GRAPH, "d", scheduler="dask")


def test_delayed_values_and_collections_on_a_client(client: Any) -> None:
    import dask.array

    assert treadle.delayed(add)(treadle.delayed(inc)(1), 2).compute(scheduler=client) == 4
    with treadle.use(client):
        assert dask.array.arange(10, chunks=5).sum().compute() == 45


def test_a_task_runs_where_others_could_not_import_its_function(client: Any) -> None:
    big = bytes(10_000)  # a function that is shared, not sent with each of its tasks

    def size(more: int) -> int:
        return len(big) + more

    graph: dict[Any, Any] = {("x", i): (size, i) for i in range(10)}
    assert treadle.get({**graph, "sum": (total, list(graph))}, "sum", scheduler=client) == 100_045


@pytest.mark.parametrize("length", [5_000, 2_000_000])
def test_values_that_many_tasks_need_travel_once(client: Any, length: int) -> None:
    graph: dict[Any, Any] = {"data": bytes(length)}
    graph.update({("x", i): (len, "data") for i in range(20)})
    recorder = Recorder()
    assert treadle.get(graph, [("x", i) for i in range(20)], scheduler=client) == [length] * 20
    assert treadle.get(graph, ("x", 0), scheduler=client, callbacks=[recorder]) == length
    assert recorder.keys("after") == [("x", 0)]


def test_nothing_is_left_on_the_cluster(client: Any) -> None:
    with pytest.raises(Boom):
        treadle.get({**GRAPH, "e": (boom, "d")}, ["d", "e"], scheduler=client, callbacks=[Recorder()])
    assert treadle.get(GRAPH, ["d", "a"], scheduler=client, callbacks=[Recorder()]) == [6, 2]
    assert treadle.get({**GRAPH, "big": bytes(2_000_000), "e": (len, "big")}, "e", scheduler=client) == 2_000_000
    eventually(lambda: not any(client.has_what().values()))


def test_arguments_that_cannot_be_sent(client: Any) -> None:
    with pytest.raises(TaskNotSerializableError, match=r"its argument 1 .*lock"):
        treadle.get({"x": (same, threading.Lock())}, "x", scheduler=client)
    with pytest.raises(TaskNotSerializableError, match=r"the value .*dict"):
        treadle.get({"v": {"k": threading.Lock(), "b": bytes(5000)}, "x": (same, "v")}, "x", scheduler=client)


def test_a_closed_client_is_refused(client: Any) -> None:
    with distributed.Client(client.cluster, set_as_default=False) as closed:
        pass
    with pytest.raises(ClosedError, match="the client of Dask's cluster is closed"):
        treadle.get(GRAPH, "d", scheduler=closed)


def test_an_asynchronous_client_is_refused(client: Any) -> None:
    async def compute() -> None:
        async with distributed.Client(client.scheduler.address, asynchronous=True, set_as_default=False) as other:
            treadle.get(GRAPH, "d", scheduler=other)

    import asyncio

    with pytest.raises(UserError, match="asynchronous client"):
        asyncio.run(compute())


def test_what_follows_one_another_is_one_task() -> None:
    graph: dict[object, object] = {
        "a": (inc, 1),
        "b": (inc, "a"),
        "c": (inc, "b"),
        "d": (add, "b", "c"),
        "e": (inc, "d"),
        "f": (inc, "e"),
    }
    plan = read(graph, ["f", "e"])
    order(plan)
    run = Run(plan)
    for num_workers, expected in [(1, ["ab", "c", "de", "f"]), (0, "abcdef")]:
        assert ["".join(str(node.key) for node in line) for line in lines_of(run.nodes, num_workers)] == list(expected)


def test_many_tasks_become_fewer_that_keep_all_busy() -> None:
    graph: dict[object, object] = {(0, i): (inc, i) for i in range(1024)}
    for level in range(1, 11):
        graph.update({(level, i): (add, (level - 1, 2 * i), (level - 1, 2 * i + 1)) for i in range(1024 >> level)})
    plan = read(graph, (10, 0))
    order(plan)
    run = Run(plan)
    lines = lines_of(run.nodes, 2)
    assert sorted(node.rank for line in lines for node in line) == list(range(2047))
    assert 128 <= len(lines) <= 512
    for line in lines:
        known: set[object] = set()
        for node in line:
            known.add(node)
            assert all(dep in known or dep.users > 1 or dep not in line for dep in node.deps)
        assert all(node.users == 1 and node.dependents[0] in line for node in line[:-1])


def test_without_the_package(tmp_path: Path) -> None:
    for name in ("distributed", "ray"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')")
    code = f"""if True:
        import sys, treadle
        sys.path.insert(0, {str(tmp_path)!r})
        for name, extra in [("dask", "distributed"), ("ray", "ray")]:
            try:
                treadle.get({{}}, [], scheduler=name)
            except treadle.errors.UserError as error:
                assert f"pip install 'treadle[{{extra}}]'" in str(error), error
            else:
                raise AssertionError(name)
    """
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_failures_say_what_they_are() -> None:
    error = CallFailed("x", ("raised", b"", "Traceback:\n  somewhere\nValueError: no\n", {}))
    assert str(error) == "ValueError: no"
    assert repr(Unit("load", (Step("x", b"", b"", ()),) * 2)) == "<load after 1 others>"


# Plain futures programs


@pytest.fixture(scope="module")
def executor(client: Any) -> Iterator[EngineExecutor]:
    with EngineExecutor(client) as executor:
        yield executor


def test_calls(executor: EngineExecutor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    one = executor.submit(inc, 1)
    two = executor.submit(total, [one, one, executor.submit(pow, 2, exp=3)])
    assert two.result(60) == 12
    assert one.exception() is None
    assert list(executor.map(add, range(5), range(5))) == [0, 2, 4, 6, 8]
    futures = [executor.submit(inc, i) for i in range(5)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [1, 2, 3, 4, 5]
    assert all(future.done() and not future.cancel() for future in futures)


def test_calls_that_fail(executor: EngineExecutor) -> None:
    bad = executor.submit(boom, 1, "two")
    after = executor.submit(inc, bad)
    for future in (bad, after):
        error = future.exception(60)
        assert type(error) is Boom
        assert error.args == (1, "two")
        assert getattr(error, "__notes__", []) == [f"while running task {bad.key!r}"]
    with pytest.raises(Boom):
        after.result()
    with pytest.raises(TaskNotSerializableError, match="its argument 1 "):
        executor.submit(same, threading.Lock())


def test_calls_that_are_cancelled(executor: EngineExecutor, tmp_path: Path) -> None:
    names = pipes(tmp_path, 4)
    running = [executor.submit(meet, names[0], names[1]), executor.submit(meet, names[2], names[3])]
    waiting = executor.submit(inc, 1)
    with pytest.raises(concurrent.futures.TimeoutError):
        waiting.result(0)
    assert waiting.cancel()
    assert waiting.cancel()
    assert waiting.cancelled()
    assert concurrent.futures.wait([waiting, *running], return_when="FIRST_COMPLETED").done == {waiting}
    for ours, theirs in [(names[1], names[0]), (names[3], names[2])]:
        meet(ours, theirs)
    assert [future.result(60) for future in running] == [None, None]


def test_shutdown(client: Any, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    executor = EngineExecutor(client)
    done = tmp_path / "done"
    future = executor.submit(linger, one, two, str(done))
    meet(two, one)
    executor.shutdown()
    assert done.exists()
    assert future.result() == str(done)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(inc, 1)


def test_shutdown_that_cancels(client: Any, tmp_path: Path) -> None:
    one, two, three, four = pipes(tmp_path, 4)

    def stay() -> None:
        meet(one, two)
        meet(three, four)

    executor = EngineExecutor(client)
    future = executor.submit(stay)
    meet(two, one)
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()
    meet(four, three)


def test_futures_of_another_executor(client: Any, executor: EngineExecutor) -> None:
    with EngineExecutor(client) as other:
        future = other.submit(inc, 1)
        with pytest.raises(UserError, match="another executor"):
            executor.submit(inc, future)


def test_what_is_no_engine() -> None:
    with pytest.raises(SchedulerError, match="an engine is"):
        EngineExecutor("threads")


def die(how: int) -> None:
    os.kill(os.getpid(), how)


def test_a_worker_that_dies(client: Any) -> None:
    """The last test: it leaves one worker."""
    with pytest.raises(distributed.KilledWorker) as caught:
        treadle.get({"a": (inc, 1), "b": (die, 9), "c": (add, "a", "b")}, "c", scheduler=client)
    assert getattr(caught.value, "__notes__", []) == ["while running task 'b'"]
    assert treadle.get(GRAPH, "d", scheduler=client) == 6
