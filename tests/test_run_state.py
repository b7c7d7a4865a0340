"""The state of a run, driven by hand: one event after another."""

from __future__ import annotations

from operator import add, neg
from typing import Any

import pytest

from treadle.errors import InternalError
from treadle.graph.node import Node
from treadle.graph.ordering import order
from treadle.graph.plan import read
from treadle.local.run import Run

DIAMOND: dict[Any, Any] = {"a": (abs, 1), "b": (neg, "a"), "c": (neg, "a"), "d": (add, "b", "c")}


def start(graph: dict[Any, Any], keys: Any) -> Run:
    plan = read(graph, keys)
    order(plan)
    run = Run(plan)
    run.sanity_check()
    return run


def take(run: Run) -> Node:
    node = run.take()
    assert node is not None
    run.sanity_check()
    return node


def settle(run: Run, node: Node, result: Any) -> list[Any]:
    garbage: list[Any] = []
    run.settle(node, result, garbage)
    run.sanity_check()
    return garbage


def test_from_the_first_task_to_the_last() -> None:
    run = start(DIAMOND, "d")
    assert not run.over()
    a = take(run)
    assert a.key == "a"
    assert run.take() is None
    assert settle(run, a, 1) == []
    b, c = take(run), take(run)
    assert {b.key, c.key} == {"b", "c"}
    assert settle(run, b, -1) == []
    assert run.take() is None
    assert settle(run, c, -2) == [1]
    d = take(run)
    assert sorted(settle(run, d, -3)) == [-2, -1]
    assert run.over()
    assert (d.result, run.live, run.peak, run.unfinished, run.running) == (-3, 1, 3, 0, 0)
    assert [node.result for node in run.nodes[:-1]] == [None] * 3


def test_a_finished_task_lets_go_of_its_arguments_and_dependents() -> None:
    run = start(DIAMOND, "d")
    a = take(run)
    settle(run, a, 1)
    assert (a.args, a.kwargs, a.dependents) == ((), None, [])


def test_a_result_that_was_asked_for_stays() -> None:
    run = start(DIAMOND, ["a", "d"])
    while not run.over():
        settle(run, take(run), 5)
    assert [node.result for node in run.targets] == [5, 5]
    assert run.live == 2


def test_tasks_are_handed_out_by_rank() -> None:
    graph: dict[Any, Any] = {("x", i): (abs, i) for i in range(10)}
    graph.update({("y", i): (neg, ("x", i)) for i in range(10)})
    run = start(graph, [("y", i) for i in range(10)])
    ranks = []
    while not run.over():
        node = take(run)
        ranks.append(node.rank)
        settle(run, node, 0)
    assert ranks == sorted(ranks)
    assert run.peak <= 11


def test_put_back() -> None:
    run = start({("x", i): (abs, i) for i in range(3)}, [("x", i) for i in range(3)])
    first, second = take(run), take(run)
    run.put_back(second)
    run.put_back(first)
    run.sanity_check()
    assert (run.running, run.available()) == (0, 3)
    assert [take(run), take(run)] == [first, second]
    assert run.running == 2


def test_stop() -> None:
    run = start(DIAMOND, "d")
    a = take(run)
    run.stop()
    assert run.take() is None
    assert run.available() == 0
    assert not run.over()
    settle(run, a, 1)
    assert run.over()
    assert run.take() is None


def test_drop() -> None:
    run = start(DIAMOND, "d")
    take(run)
    run.stop()
    run.drop()
    run.sanity_check()
    assert run.over()


def test_nothing_to_do() -> None:
    run = start({"a": 1}, ["a"])
    assert run.over()
    assert run.nodes == run.targets == []
    assert run.take() is None


def test_repr_says_how_far_it_is() -> None:
    run = start(DIAMOND, "d")
    assert repr(run) == "<Run 0/4 done, 0 running, 1 ready, 0 live>"
    settle(run, take(run), 1)
    take(run)
    assert repr(run) == "<Run 1/4 done, 1 running, 1 ready, 1 live>"
    run.stop()
    assert repr(run).endswith("0 ready, 1 live, stopped>")


@pytest.mark.parametrize("broken", ["waiting", "users", "unfinished", "live", "result", "rank", "stuck"])
def test_the_sanity_check_finds_what_is_wrong(broken: str) -> None:
    run = start({"a": (abs, 1), "b": (abs, "a"), "c": (max, "a", "b")}, "c")
    settle(run, take(run), 1)
    if broken == "waiting":
        run.nodes[1].waiting += 1
    elif broken == "users":
        run.nodes[1].users += 5
    elif broken == "unfinished":
        run.unfinished -= 1
    elif broken == "live":
        run.live += 1
    elif broken == "result":
        run.nodes[0].users = 0
    elif broken == "rank":
        run.nodes[0].rank = 9
    else:
        run.take()
        run.drop()
    with pytest.raises(InternalError, match="broken invariant"):
        run.sanity_check()
