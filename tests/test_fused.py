"""Dask's fused tasks, sorted once."""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import Any

import pytest

import treadle
from treadle.graph import fused
from treadle.graph.fused import Steps, run_fused
from treadle.testing.tasks import Counted, add, inc, total

spec: Any = import_module("dask._task_spec")
da: Any = import_module("dask.array")


def task(key: str, func: Any, *deps: str) -> Any:
    return spec.Task(key, func, *map(spec.TaskRef, deps))


def graph(*tasks: Any) -> dict[str, Any]:
    return {each.key: each for each in tasks}


def test_steps_come_after_what_they_need_and_drop_what_nobody_needs() -> None:
    tasks = graph(
        task("out", add, "left", "right"),
        task("right", inc, "middle"),
        task("left", add, "middle", "in"),
        task("middle", inc, "in"),
        task("nobody", inc, "in"),
    )
    steps = Steps(tasks, "out", ["in"])
    assert [key for key, _, _ in steps.steps][::3] == ["middle", "out"]
    done: set[str] = {"in"}
    for key, _, spent in steps.steps:
        assert tasks[key].dependencies <= done
        done -= set(spent)
        done.add(key)
    assert done == {"out"}
    assert run_fused(steps, 10) == (11 + 10) + 12


def test_values_do_not_outlive_their_use() -> None:
    counter = [0]
    alive: list[int] = []

    def make(value: Any) -> Any:
        made = Counted(counter)
        alive.append(counter[0])
        return made

    tasks = graph(*[task(f"x{n + 1}", make, f"x{n}") for n in range(20)])
    result = run_fused(Steps(tasks, "x20", ["x0"]), 0)
    assert max(alive) == 2
    del result
    assert counter[0] == 0


def test_literals_aliases_and_containers() -> None:
    tasks = {
        "data": spec.DataNode("data", 5),
        "alias": spec.Alias("alias", "data"),
        "list": spec.List(spec.TaskRef("alias"), spec.TaskRef("in"), 1),
    }
    tasks["out"] = spec.Task("out", total, spec.TaskRef("list"))
    assert run_fused(Steps(tasks, "out", ["in"]), 4) == 10


def test_fused_tasks_in_fused_tasks() -> None:
    inner = spec.Task.fuse(task("b", inc, "a"), task("c", inc, "b"))
    outer = spec.Task.fuse(inner, task("d", inc, "c"))
    assert outer.func is fused.dasks_own()
    tasks, outkey, inkeys = outer.args[:3]
    steps = Steps(tasks, outkey, inkeys)
    assert run_fused(steps, 1) == 4
    assert run_fused(pickle.loads(pickle.dumps(steps)), 1) == 4
    assert any(isinstance(run, fused.Inner) for _, run, _ in steps.steps)


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_no_graph_is_sorted_while_it_runs(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (da.arange(1000, chunks=100) + 1) * 2 - 3
    expected = (x.sum().compute(scheduler="sync"), x[::7].compute(scheduler="sync").tolist())

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("sorted while it runs")

    if scheduler != "processes":
        monkeypatch.setattr(spec, "execute_graph", never)
    with treadle.use(scheduler):
        assert (x.sum().compute(), x[::7].compute().tolist()) == expected
