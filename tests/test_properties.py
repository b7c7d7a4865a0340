"""Random graphs, random failures and random interleavings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_conformance import InlineExecutor

import treadle.multiprocessing
import treadle.sync
import treadle.threaded
from treadle.graph.node import Node
from treadle.graph.ordering import order
from treadle.graph.plan import read
from treadle.graph.spec import Data, Ref, Task
from treadle.local import threads
from treadle.local.drive import execute
from treadle.local.executor import ExecutorDriver
from treadle.local.processes.pool import shared_pool
from treadle.local.run import Run
from treadle.testing.graphs import GraphCase, cases
from treadle.testing.tasks import Boom, Recorder, eventually, simulated_live

STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

SCHEDULERS: dict[str, Callable[..., Any]] = {
    "sync": treadle.sync.get,
    "one thread": partial(treadle.threaded.get, num_workers=1),
    "three threads": partial(treadle.threaded.get, num_workers=3),
    "two processes": partial(treadle.multiprocessing.get, num_workers=2),
    "executor": partial(treadle.get, pool=InlineExecutor(), num_workers=2),
}


# A second reading of what graphs mean: recursive, slow, and short enough to be seen to be right.


class Evaluator:
    def __init__(self, graph: dict[Any, Any]) -> None:
        self.graph = graph
        self.results: dict[Any, Any] = {}

    def get(self, keys: Any) -> Any:
        return [self.get(key) for key in keys] if isinstance(keys, list) else self.result(keys)

    def result(self, key: Any) -> Any:
        if key not in self.results:
            self.results[key] = self.value(self.graph[key])
        return self.results[key]

    def value(self, value: Any) -> Any:
        if isinstance(value, (Data, Ref, Task)):
            return self.explicit(value)
        if isinstance(value, tuple) and value and callable(value[0]):
            return value[0](*[self.value(arg) for arg in value[1:]])
        if self.is_key(value):
            return self.result(value)
        return inside(value, self.value)

    def explicit(self, value: Any) -> Any:
        if isinstance(value, Data):
            return value.value
        if isinstance(value, Ref):
            return self.result(value.key)
        if isinstance(value, Task):
            call: Any = value.func
            words = {word: self.explicit(arg) for word, arg in value.kwargs.items()}
            return call(*[self.explicit(arg) for arg in value.args], **words)
        return inside(value, self.explicit)

    def is_key(self, value: Any) -> bool:
        try:
            return value in self.graph
        except TypeError:
            return False


def inside(value: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(convert, value))
    if isinstance(value, dict):
        return {word: convert(item) for word, item in value.items()}
    return value


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(STEADY, max_examples=60)
@given(case=cases())
def test_every_scheduler_computes_what_a_graph_means(name: str, case: GraphCase) -> None:
    assert SCHEDULERS[name](case.graph, case.keys) == Evaluator(case.graph).get(case.keys)


# Live results


def dependencies(plan_nodes: list[Node]) -> dict[Any, list[Any]]:
    return {node.key: [dep.key for dep in node.deps] for node in plan_nodes}


def planned(case: GraphCase) -> Run:
    plan = read(case.graph, case.keys)
    order(plan)
    return Run(plan)


@pytest.mark.parametrize("name", ["sync", "one thread", "three threads", "two processes", "executor"])
@settings(STEADY, max_examples=40)
@given(case=cases())
def test_records_count_the_live_results(name: str, case: GraphCase) -> None:
    run = planned(case)
    deps = dependencies(run.nodes)
    targets: list[Any] = [node.key for node in run.targets]
    ranks = [node.key for node in run.nodes]
    recorder = Recorder()
    SCHEDULERS[name](case.graph, case.keys, callbacks=[recorder])

    ended = [record.key for record in recorder.records]
    assert sorted(map(str, ended)) == sorted(map(str, ranks))
    live = [record.live for record in recorder.records]
    if name in ("sync", "one thread"):
        assert live == simulated_live(deps, ended, targets)
        # One worker takes the ready task of the lowest rank, which the order makes the next one.
        assert ended == sorted(ended, key=ranks.index)
    if live:
        assert live[-1] == len(set(targets))
        assert max(live) <= len(ranks)


# The state of a run, driven by hand


class Interleaving:
    """A run whose events come in an order that somebody else decides."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.running: list[Node] = []
        self.taken: list[Any] = []
        self.settled: list[Any] = []
        self.deps = dependencies(run.nodes)
        self.users = {node.key: list(node.dependents) for node in run.nodes}
        self.targets = {node.key for node in run.targets}
        self.peak = 0

    def take(self) -> None:
        available = self.run.available()
        ready = [
            node
            for node in self.run.nodes
            if not node.done and node not in self.running and all(dep in self.settled for dep in self.deps[node.key])
        ]
        node = self.run.take()
        assert available == (0 if self.run.stopped else len(ready))
        assert (node is None) == (available == 0)
        if node is not None:
            assert node is ready[0]
            self.running.append(node)
            self.taken.append(node.key)

    def settle(self, index: int) -> None:
        node = self.running.pop(index % len(self.running))
        garbage: list[Any] = []
        before = self.held()
        self.run.settle(node, ("result of", node.key), garbage)
        self.settled.append(node.key)
        gone = (before | {node.key}) - self.held()
        assert sorted(map(str, garbage)) == sorted(str(("result of", key)) for key in gone)
        assert self.run.live == len(self.held())
        self.peak = max(self.peak, len(before) + (node.key in before | self.held()))

    def held(self) -> set[Any]:
        """The results that somebody still needs."""
        return {
            key
            for key in self.settled
            if key in self.targets or any(user.key not in self.settled for user in self.users[key])
        }

    def put_back(self, index: int) -> None:
        self.run.put_back(self.running.pop(index % len(self.running)))

    def lose(self, index: int) -> None:
        self.running.pop(index % len(self.running))
        self.run.drop()


@settings(STEADY, max_examples=150)
@given(case=cases(), data=st.data())
def test_the_state_of_a_run_is_sane_after_every_event(case: GraphCase, data: st.DataObject) -> None:
    driven = Interleaving(planned(case))
    run = driven.run
    run.sanity_check()
    put_back = 0
    while not run.over():
        events = ["take"] * (run.available() > 0) * 3 + ["settle"] * bool(driven.running) * 3
        events += ["put back"] * bool(driven.running and put_back < 20) + ["stop"] * (not run.stopped)
        event = data.draw(st.sampled_from(events))
        which = data.draw(st.integers(0, 10))
        if event == "take":
            driven.take()
        elif event == "settle":
            driven.settle(which)
        elif event == "put back":
            put_back += 1
            driven.put_back(which)
        elif which == 0:
            if driven.running:
                driven.lose(which)
            run.stop()
        run.sanity_check()
        assert run.running == len(driven.running)
        assert run.unfinished == len(run.nodes) - len(driven.settled)
        assert run.peak >= run.live
    assert run.peak >= driven.peak - 1
    if not run.stopped:
        assert sorted(map(str, driven.settled)) == sorted(str(node.key) for node in run.nodes)
        assert driven.held() == driven.targets
    run.take()
    assert run.running == 0


# Failures


class Census:
    """How many tasks run now in this process, and how many have started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.running = 0
        self.started = 0

    def call(self, fails: bool, *args: Any) -> int:
        with self._lock:
            self.running += 1
            self.started += 1
        try:
            if fails:
                raise Boom("at random")
            return len(args)
        finally:
            with self._lock:
                self.running -= 1


def layers(data: st.DataObject, make: Callable[..., Any]) -> dict[Any, Any]:
    """A graph in layers, in which every task may fail and at least one does."""
    width = data.draw(st.integers(1, 8))
    depth = data.draw(st.integers(1, 5))
    bad = data.draw(st.sets(st.tuples(st.integers(0, depth - 1), st.integers(0, width - 1)), min_size=1, max_size=3))
    graph: dict[Any, Any] = {}
    for layer in range(depth):
        for index in range(width):
            near = [("x", layer - 1, i) for i in (index, (index + 1) % width)] if layer else []
            graph["x", layer, index] = (make, (layer, index) in bad, *near)
    return graph


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@settings(STEADY, max_examples=40)
@given(data=st.data())
def test_nothing_runs_on_threads_after_a_failure(num_workers: int, data: st.DataObject) -> None:
    census = Census()
    graph = layers(data, census.call)
    with pytest.raises(Boom):
        treadle.threaded.get(graph, list(graph), num_workers=num_workers)
    assert census.running == 0
    started = census.started
    assert treadle.threaded.get({("y", i): (census.call, False) for i in range(20)}, ("y", 3)) == 0
    assert census.started == started + 1
    pool = threads.shared_pool()
    eventually(lambda: len(pool._parked) == pool._started)


@settings(STEADY, max_examples=25)
@given(data=st.data())
def test_nothing_runs_on_an_executor_after_a_failure(data: st.DataObject) -> None:
    census = Census()
    graph = layers(data, census.call)

    with ThreadPoolExecutor(2) as pool:
        # Threads of a ThreadPoolExecutor schedule themselves; here it is sent batches, as an unknown executor is.
        done = execute(graph, list(graph), ExecutorDriver(pool, 2, pickled=False), None)
        assert isinstance(done.error, Boom)
        assert census.running == 0
        started = census.started
    assert census.started == started


def touch(folder: str, fails: bool, *args: Any) -> int:
    """Leave a file behind for as long as the task runs."""
    path = Path(folder, f"{os.getpid()}-{threading.get_ident()}")
    path.touch()
    try:
        if fails:
            raise Boom("at random")
        return len(args)
    finally:
        path.unlink()


@settings(STEADY, max_examples=25)
@given(data=st.data())
def test_nothing_runs_on_processes_after_a_failure(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("running")
    graph = layers(data, partial(touch, str(folder)))
    before = {member.pid for member in shared_pool()._idle}
    with pytest.raises(Boom):
        treadle.multiprocessing.get(graph, list(graph), num_workers=2)
    assert list(folder.iterdir()) == []
    pool = shared_pool()
    assert not pool._lent
    assert before <= {member.pid for member in pool._idle}
    assert all(member.alive() for member in pool._idle)
    good = {("y", i): (touch, str(folder), False) for i in range(5)}
    assert treadle.multiprocessing.get(good, list(good), num_workers=2) == [0] * 5
