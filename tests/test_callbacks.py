"""Callbacks beyond the conformance suite: contexts, threads, and several of them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import treadle
import treadle.sync
import treadle.threaded
from treadle.callbacks import Callback, RunInfo, TaskRecord, active_callbacks
from treadle.testing.tasks import Boom, Recorder, boom, eventually, inc

GRAPH = {"a": (inc, 1), "b": (inc, "a")}


def test_the_base_class_does_nothing() -> None:
    callback = Callback()
    assert callback.known({}, []) is None
    with callback:
        assert active_callbacks() == [callback]
        assert treadle.get(GRAPH, "b") == 3
    assert active_callbacks() == []


def test_blocks_may_be_nested_and_used_again() -> None:
    recorder, other = Recorder(), Recorder()
    with recorder:
        with other, recorder:
            assert active_callbacks([other]) == [recorder, other, recorder]
        assert active_callbacks([other]) == [recorder, other]
    with recorder:
        assert active_callbacks() == [recorder]
    assert active_callbacks() == []


def test_a_block_ends_with_an_exception() -> None:
    with pytest.raises(Boom), Recorder():
        boom()
    assert active_callbacks() == []


def test_other_threads_do_not_see_a_block() -> None:
    recorder = Recorder()
    found: list[list[Callback]] = []
    with recorder:
        thread = threading.Thread(target=lambda: found.append(active_callbacks()))
        thread.start()
        thread.join()
    assert found == [[]]


def test_asynchronous_tasks_do_not_see_one_another() -> None:
    recorders = [Recorder(), Recorder()]

    async def run(recorder: Recorder, ours: asyncio.Event, theirs: asyncio.Event) -> int:
        with recorder:
            ours.set()
            await theirs.wait()
            result: int = treadle.sync.get(GRAPH, "b")
            return result

    async def both() -> list[int]:
        one, two = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(run(recorders[0], one, two), run(recorders[1], two, one)))

    assert asyncio.run(both()) == [3, 3]
    assert [len(recorder.records) for recorder in recorders] == [2, 2]


def test_hooks_are_called_in_the_order_of_the_blocks() -> None:
    calls: list[tuple[str, str]] = []

    class Named(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def known(self, graph: Any, keys: Any) -> None:
            calls.append((self.name, "known"))

        def start(self, info: RunInfo) -> None:
            calls.append((self.name, "start"))

        def before(self, key: Any, worker: str) -> None:
            calls.append((self.name, "before"))

        def after(self, record: TaskRecord, result: Any) -> None:
            calls.append((self.name, "after"))

        def finish(self, error: BaseException | None) -> None:
            calls.append((self.name, "finish"))

    with Named("outer"):
        treadle.sync.get({"a": (inc, 1)}, "a", callbacks=[Named("extra")])
    hooks = ["known", "start", "before", "after"]
    assert calls[:-2] == [(name, hook) for hook in hooks for name in ("outer", "extra")]
    assert calls[-2:] == [("extra", "finish"), ("outer", "finish")]


def test_known_results_of_several_callbacks() -> None:
    first, second = Recorder(known={"a": 10}), Recorder(known={"b": 20})
    graph = {**GRAPH, "c": (max, "a", "b")}
    assert treadle.get(graph, ["a", "b", "c"], callbacks=[first, second]) == [10, 20, 20]
    assert first.keys("after") == ["c"]
    assert graph["a"] == (inc, 1)


@pytest.mark.parametrize("hook", ["start", "before", "after"])
def test_every_callback_that_was_started_is_finished(hook: str) -> None:
    first, failing, last = Recorder(), Recorder(fail_in=hook), Recorder()
    with pytest.raises(Boom) as caught:
        treadle.get(GRAPH, "b", callbacks=[first, failing, last])
    assert first.errors == failing.errors == [caught.value]
    assert last.errors == ([] if hook == "start" else [caught.value])


def test_the_error_of_a_task_comes_before_that_of_finish() -> None:
    recorder = Recorder(fail_in="finish")
    with pytest.raises(Boom) as caught:
        treadle.get({"a": (boom, "task")}, "a", callbacks=[recorder])
    assert caught.value.args == ("task",)
    assert recorder.errors == [caught.value]


def test_results_are_handed_out_before_they_are_dropped() -> None:
    recorder = Recorder(needs_results=True)
    assert treadle.threaded.get(GRAPH, "b", callbacks=[recorder], num_workers=1) == 3
    assert recorder.values == {"a": 2, "b": 3}


def test_a_hook_may_run_a_graph() -> None:
    found: list[int] = []

    class Nested(Recorder):
        def after(self, record: TaskRecord, result: Any) -> None:
            super().after(record, result)
            found.append(treadle.get(GRAPH, "b"))

    nested = Nested()
    with nested:
        assert treadle.get(GRAPH, "b") == 3
    assert found == [3, 3]
    assert len(nested.records) == 2


def test_no_two_hooks_run_at_once_on_many_threads() -> None:
    recorder = Recorder()
    graph = {("x", i): (inc, i) for i in range(2000)}
    treadle.threaded.get(graph, list(graph), num_workers=4, callbacks=[recorder])
    assert recorder.overlaps == 0
    assert len(recorder.records) == 2000


def test_workers_have_names_of_their_own() -> None:
    barrier = threading.Barrier(3)
    recorder = Recorder()
    graph = {("x", i): (barrier.wait,) for i in range(3)}
    treadle.threaded.get(graph, list(graph), num_workers=3, callbacks=[recorder])
    assert sorted(record.worker for record in recorder.records) == ["thread-1", "thread-2", "thread-3"]
    eventually(lambda: barrier.n_waiting == 0)
    recorder = Recorder()
    treadle.sync.get(GRAPH, "b", callbacks=[recorder])
    assert {record.worker for record in recorder.records} == {"sync"}
