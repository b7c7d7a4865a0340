"""Conformance: callbacks, and how long results are held."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from treadle.callbacks import Callback
from treadle.testing.tasks import (
    Boom,
    Counted,
    Recorder,
    add,
    boom,
    count_down,
    eventually,
    inc,
    same,
    simulated_live,
    total,
    watched_inside,
)

__all__ = ["HooksConformance", "InProcessConformance", "OneByOneConformance"]

DIAMOND = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "a"), "d": (add, "b", "c")}
RESULTS = {"a": 2, "b": 3, "c": 3, "d": 6}


def layered(seed: int, layers: int = 8, width: int = 6) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """A random graph and its dependencies."""
    random_ = random.Random(seed)
    deps: dict[str, list[str]] = {}
    for layer in range(layers):
        for index in range(width):
            names = [f"{before}-{i}" for before in range(max(0, layer - 2), layer) for i in range(width)]
            deps[f"{layer}-{index}"] = random_.sample(names, min(len(names), random_.randint(0, 3)))
    return {key: (total, names) for key, names in deps.items()}, deps


class HooksConformance:
    """Hooks are called as :class:`treadle.Callback` says."""

    #: What ``RunInfo`` says.
    scheduler: str = ""
    num_workers: int = 0

    def test_order_of_hooks(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        assert get(DIAMOND, ["d"], callbacks=[recorder]) == [6]
        names = [name for name, _ in recorder.events]
        assert names[:2] == ["known", "start"]
        assert names[-1] == "finish"
        assert sorted(names[2:-1]) == ["after"] * 4 + ["before"] * 4
        assert recorder.events[0] == ("known", ["d"])
        for key in DIAMOND:
            assert recorder.events.index(("before", key)) < recorder.events.index(("after", key))
        position = {key: index for index, key in enumerate(recorder.keys("after"))}
        assert position["a"] < position["b"] < position["d"]
        assert position["c"] < position["d"]
        assert recorder.errors == [None]
        assert recorder.overlaps == 0

    def test_run_info(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        get(DIAMOND, "d", callbacks=[recorder])
        assert recorder.info is not None
        assert recorder.info.total == 4
        assert recorder.info.names == ["inc", "inc", "inc", "add"]
        assert (recorder.info.scheduler, recorder.info.num_workers) == (self.scheduler, self.num_workers)

    def test_records(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        get(DIAMOND, "d", callbacks=[recorder])
        assert {record.key: record.name for record in recorder.records} == {
            "a": "inc",
            "b": "inc",
            "c": "inc",
            "d": "add",
        }
        for record in recorder.records:
            assert record.started <= record.stopped
            assert record.worker
            assert 1 <= record.live <= 3
        assert recorder.records[-1].live == 1

    def test_literals_and_aliases_are_no_tasks(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        assert get({"a": 1, "b": "a", "c": (inc, "b"), "d": "c"}, ["d", "a"], callbacks=[recorder]) == [2, 1]
        assert recorder.keys("after") == ["c"]

    def test_nothing_to_run(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        assert get({"a": 1}, ["a"], callbacks=[recorder]) == [1]
        assert [name for name, _ in recorder.events] == ["known", "start", "finish"]

    def test_results_only_for_those_who_need_them(self, get: Callable[..., Any]) -> None:
        with_results, without = Recorder(needs_results=True), Recorder()
        get(DIAMOND, "d", callbacks=[without, with_results])
        assert with_results.values == RESULTS
        assert without.values == dict.fromkeys(RESULTS)

    def test_known_results(self, get: Callable[..., Any]) -> None:
        recorder = Recorder(known={"b": 10, "c": (boom, "taken as it is"), "no such key": 1})
        graph = {**DIAMOND, "e": (same, ["c", "b"])}
        assert get(graph, ["e", "b"], callbacks=[recorder]) == [[(boom, "taken as it is"), 10], 10]
        assert recorder.keys("after") == ["e"]

    def test_as_a_context(self, get: Callable[..., Any]) -> None:
        outer, inner, extra = Recorder(), Recorder(), Recorder()
        with outer:
            with inner:
                get(DIAMOND, "d", callbacks=[extra, outer])
            get(DIAMOND, "a")
        get(DIAMOND, "b")
        assert [len(recorder.records) for recorder in (outer, inner, extra)] == [5, 4, 4]

    def test_a_task_that_fails(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        with pytest.raises(Boom) as caught:
            get({"a": (inc, 1), "b": (boom, "a"), "c": (inc, "b")}, "c", callbacks=[recorder])
        assert recorder.errors == [caught.value]
        assert recorder.keys("before") == ["a", "b"]
        assert recorder.keys("after") == ["a"]

    def test_a_graph_that_is_wrong(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        with pytest.raises(KeyError):
            get({}, "x", callbacks=[recorder])
        assert [name for name, _ in recorder.events] == ["known"]

    @pytest.mark.parametrize("hook", ["known", "start", "before", "after", "finish"])
    def test_exceptions_in_hooks(self, get: Callable[..., Any], hook: str) -> None:
        failing, other = Recorder(fail_in=hook), Recorder()
        graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(200)}
        graph["sum"] = (total, list(graph))
        with pytest.raises(Boom) as caught:
            get(graph, "sum", callbacks=[other, failing])
        assert caught.value.args == (hook,)
        started = hook != "known"
        # The last to start is the first to be told, and what it raises then is news to the others.
        assert other.errors == [caught.value] * started
        assert failing.errors == [None if hook == "finish" else caught.value] * started
        assert ("sum" in other.values) == (hook == "finish")
        assert get(graph, "sum", callbacks=[other]) == 20_100

    def test_nested_runs_do_not_report(self, get: Callable[..., Any]) -> None:
        recorder = Recorder()
        with recorder:
            assert get({"a": (count_down, 3, "sync"), "b": (count_down, 3, "threads")}, ["a", "b"]) == [3, 3]
        assert sorted(recorder.keys("after")) == ["a", "b"]

    def test_callbacks_inside_a_task(self, get: Callable[..., Any]) -> None:
        with Recorder():
            assert get({"a": (watched_inside, Recorder())}, "a") == (2, 0)

    @pytest.mark.parametrize("seed", range(3))
    def test_results_are_dropped_with_their_last_user(self, get: Callable[..., Any], seed: int) -> None:
        graph, deps = layered(seed)
        recorder = Recorder()
        wanted = ["7-0", "3-3"]
        get(graph, wanted, callbacks=[recorder])
        # Which order the tasks end in is the scheduler's; given that order, there is one right count.
        order = [record.key for record in recorder.records]
        needed = {key: names for key, names in deps.items() if key in set(order)}
        expected = simulated_live(needed, order, wanted)
        if self.num_workers == 1:
            assert [record.live for record in recorder.records] == expected
        assert recorder.records[-1].live == expected[-1] == 2
        assert max(record.live for record in recorder.records) <= len(order)


class InProcessConformance:
    """For schedulers that run tasks in the process of their caller."""

    def test_values_are_passed_not_copied(self, get: Callable[..., Any]) -> None:
        value = object()
        graph = {"a": (same, value), "b": (same, "a"), "c": value}
        assert all(result is value for result in get(graph, ["a", "b", "c"]))

    def test_results_are_gone_at_the_end(self, get: Callable[..., Any]) -> None:
        alive = [0]
        _, deps = layered(5)
        results = get({key: (lambda _: Counted(alive), names) for key, names in deps.items()}, ["7-0", "0-0"])
        assert alive == [2]
        del results
        eventually(lambda: alive == [0])  # the threads of a run may leave it a little later than its caller

    def test_a_failed_run_keeps_nothing(self, get: Callable[..., Any]) -> None:
        alive = [0]
        graph = {"a": (lambda: Counted(alive),), "b": (lambda _: Counted(alive), "a"), "c": (boom, "b")}
        with pytest.raises(Boom) as caught:
            get(graph, ["a", "b", "c"])
        assert caught.value.args[0].counter is alive
        del caught
        eventually(lambda: alive == [0])  # the threads of a run may leave it a little later than its caller

    def test_hooks_run_in_turn(self, get: Callable[..., Any]) -> None:
        class Slow(Callback):
            inside = 0
            worst = 0

            def before(self, key: Any, worker: str) -> None:
                self.inside += 1
                self.worst = max(self.worst, self.inside)
                total(range(1000))
                self.inside -= 1

        slow = Slow()
        graph = {("x", i): (inc, i) for i in range(500)}
        assert get(graph, list(graph), callbacks=[slow]) == list(range(1, 501))
        assert slow.worst == 1


class OneByOneConformance:
    """For schedulers that run one task at a time, in the process of their caller."""

    def test_results_are_gone_with_their_last_user(self, get: Callable[..., Any]) -> None:
        """What is alive at the start of a task is what the record of the task before says."""
        alive = [0]
        seen: list[int] = []
        _, deps = layered(5)

        def make(values: list[Any]) -> Counted:
            seen.append(alive[0])
            return Counted(alive)

        recorder = Recorder()
        graph = {key: (make, names) for key, names in deps.items()}
        results = get(graph, ["7-0"], callbacks=[recorder])
        assert seen == [0, *(record.live for record in recorder.records[:-1])]
        del results
        eventually(lambda: alive == [0])  # the threads of a run may leave it a little later than its caller

        without_hooks = seen.copy()
        seen.clear()
        get(graph, ["7-0"])
        assert seen == without_hooks
