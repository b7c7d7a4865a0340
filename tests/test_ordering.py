"""The static order: valid, deterministic, without recursion, optimal on trees, and low in live results elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
from dask._task_spec import convert_legacy_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import CycleError, GraphError, MissingKeyError
from treadle.graph.node import Node
from treadle.graph.ordering import order, static_order
from treadle.graph.plan import Plan, read
from treadle.graph.spec import Data, Ref, Task
from treadle.local.run import Run

Graph = dict[Any, Any]

#: The same examples in every run, and no limit on their time.
CHECKED = settings(derandomize=True, deadline=None)


def task(*args: object) -> None:
    """The function of every task: it is never called."""


def outputs(graph: Graph, inputs: Callable[[Any], list[Any]]) -> list[Any]:
    used = {key for value in graph.values() for key in inputs(value)}
    return [key for key in graph if key not in used]


def plan_of(graph: Graph, keys: list[Any] | None = None) -> Plan:
    """An unordered plan; the tasks of ``graph`` are ``(task, [keys of the inputs])``."""
    return read(graph, outputs(graph, lambda value: value[1]) if keys is None else keys)


def peak(plan: Plan) -> int:
    """The peak of live results when one worker runs the plan in the order of ``plan.nodes``. Uses the plan up."""
    for rank, node in enumerate(plan.nodes):
        node.rank = rank
    run = Run(plan)
    run.sanity_check()
    expected = list(plan.nodes)
    for node in expected:
        assert run.take() is node
        run.settle(node, None, [])
    run.sanity_check()
    return run.peak


def ordered_peak(graph: Graph, keys: list[Any] | None = None) -> int:
    plan = plan_of(graph, keys)
    order(plan)
    return peak(plan)


@st.composite
def graphs(draw: st.DrawFn, most: int = 40) -> tuple[Graph, list[Any]]:
    """A graph with keys to compute: outputs, and perhaps tasks from its middle, all of it needed or not."""
    size = draw(st.integers(1, most))
    reach = draw(st.integers(1, most))
    graph: Graph = {}
    for i in range(size):
        inputs = draw(st.lists(st.integers(max(0, i - reach), i - 1), max_size=4, unique=True)) if i else []
        graph["n", i] = (task, [("n", j) for j in inputs])
    keys = outputs(graph, lambda value: value[1])
    if draw(st.booleans()):
        keys = draw(st.lists(st.sampled_from(list(graph)), min_size=1, max_size=6))
    return graph, keys


@CHECKED
@given(graphs())
def test_an_order_is_topological_and_leaves_the_plan_ready_to_run(case: tuple[Graph, list[Any]]) -> None:
    graph, keys = case
    before = plan_of(graph, keys)
    plan = plan_of(graph, keys)
    order(plan)
    assert sorted(node.key for node in plan.nodes) == sorted(node.key for node in before.nodes)  # type: ignore[type-var]
    assert [node.rank for node in plan.nodes] == list(range(len(plan.nodes)))
    for node in plan.nodes:
        assert all(dep.rank < node.rank for dep in node.deps)
        assert node.waiting == len(node.deps)
        assert node.users == 0
        assert not node.done
    links = {node.key: (node.deps, node.dependents) for node in plan.nodes}
    for old in before.nodes:
        deps, dependents = links[old.key]
        assert [dep.key for dep in deps] == [dep.key for dep in old.deps]
        assert [user.key for user in dependents] == [user.key for user in old.dependents]


@CHECKED
@given(graphs())
def test_no_graph_gets_a_higher_peak_than_the_readers_order(case: tuple[Graph, list[Any]]) -> None:
    assert ordered_peak(*case) <= peak(plan_of(*case))


@CHECKED
@given(graphs())
def test_the_same_graph_gets_the_same_order_twice(case: tuple[Graph, list[Any]]) -> None:
    assert static_order(*case) == static_order(*case)


@CHECKED
@given(graphs())
def test_ordering_an_ordered_plan_does_not_raise_the_peak(case: tuple[Graph, list[Any]]) -> None:
    plan = plan_of(*case)
    order(plan)
    order(plan)
    assert peak(plan) <= ordered_peak(*case)


def lowest_peak(plan: Plan) -> int:
    """The lowest peak of any order, by trying all sets of tasks that can be done; for up to a dozen tasks."""
    nodes = plan.nodes
    index = {node.key: i for i, node in enumerate(nodes)}
    inputs = [sum(1 << index[dep.key] for dep in node.deps) for node in nodes]
    users = [sum(1 << index[user.key] for user in node.dependents) for node in nodes]
    kept = {index[target.key] for target in plan.targets}
    best = {0: 0}
    for done in range(1 << len(nodes)):
        if done not in best:
            continue
        live = sum(1 for i in range(len(nodes)) if done >> i & 1 and (i in kept or users[i] & ~done))
        for i in range(len(nodes)):
            if not done >> i & 1 and inputs[i] & ~done == 0:
                reached = max(best[done], live + 1)
                after = done | 1 << i
                best[after] = min(reached, best.get(after, reached))
    return best[(1 << len(nodes)) - 1]


@CHECKED
@given(st.lists(st.integers(0, 8), min_size=1, max_size=9))
def test_forests_get_the_lowest_peak_there_is(parents: list[int]) -> None:
    # Task i feeds a task before it, or nobody: all shapes of trees and forests occur.
    inputs: dict[int, list[Any]] = {i: [] for i in range(len(parents))}
    for i, parent in enumerate(parents):
        if parent < i:
            inputs[parent].append(("n", i))
    graph = {("n", i): (task, keys) for i, keys in inputs.items()}
    assert ordered_peak(graph) == lowest_peak(plan_of(graph))


@CHECKED
@given(graphs(most=9))
def test_small_graphs_stay_close_to_the_lowest_peak(case: tuple[Graph, list[Any]]) -> None:
    lowest = lowest_peak(plan_of(*case))
    assert lowest <= ordered_peak(*case) <= lowest + 1


def tree(leaves: int, fan: int) -> Graph:
    graph: Graph = {(0, i): (task, []) for i in range(leaves)}
    level = 0
    while leaves > 1:
        level += 1
        below, leaves = leaves, -(-leaves // fan)
        for i in range(leaves):
            graph[level, i] = (task, [(level - 1, j) for j in range(i * fan, min(below, (i + 1) * fan))])
    return graph


def layers(width: int, count: int, offsets: list[int], wrap: bool = True) -> Graph:
    graph: Graph = {(0, i): (task, []) for i in range(width)}
    for t, i in product(range(1, count), range(width)):
        columns = [(i + k) % width for k in offsets] if wrap else [i + k for k in offsets if 0 <= i + k < width]
        graph[t, i] = (task, [(t - 1, j) for j in columns])
    return graph


def butterfly(levels: int) -> Graph:
    width = 1 << levels
    graph: Graph = {(0, i): (task, []) for i in range(width)}
    for t, i in product(range(levels), range(width)):
        graph[t + 1, i] = (task, [(t, i), (t, i ^ (1 << t))])
    return graph


def roots_then_reduce(groups: int, members: int) -> Graph:
    graph: Graph = {}
    for g, m in product(range(groups), range(members)):
        graph["load", g, m] = (task, [])
        graph["clean", g, m] = (task, [("load", g, m)])
    for g in range(groups):
        graph["group", g] = (task, [("clean", g, m) for m in range(members)])
    graph["total"] = (task, [("group", g) for g in range(groups)])
    return graph


def matmul(n: int) -> Graph:
    graph: Graph = {}
    for i, j in product(range(n), range(n)):
        graph["a", i, j] = (task, [])
        graph["b", i, j] = (task, [])
        graph["c", i, j] = (task, [("p", i, j, k) for k in range(n)])
        for k in range(n):
            graph["p", i, j, k] = (task, [("a", i, k), ("b", k, j)])
    return graph


def shuffle(inputs: int, count: int) -> Graph:
    graph: Graph = {}
    for i in range(inputs):
        graph["group", i] = (task, [])
        for o in range(count):
            graph["split", i, o] = (task, [("group", i)])
    for o in range(count):
        graph["merge", o] = (task, [("split", i, o) for i in range(inputs)])
    return graph


def column_sums(roots: int, columns: int) -> Graph:
    graph: Graph = {}
    for r in range(roots):
        graph["load", r] = (task, [])
        for c in range(columns):
            graph["part", r, c] = (task, [("load", r)])
            graph["sum", r, c] = (task, [("part", r, c), ("sum", r - 1, c)] if r else [("part", r, c)])
    return graph


def anomaly(count: int) -> Graph:
    graph: Graph = {"mean": (task, [("part", i) for i in range(count)])}
    for i in range(count):
        graph["x", i] = (task, [])
        graph["part", i] = (task, [("x", i)])
        graph["less", i] = (task, [("x", i), "mean"])
    graph["total"] = (task, [("less", i) for i in range(count)])
    return graph


def running_totals(count: int) -> Graph:
    graph: Graph = {}
    for i in range(count):
        before: list[Any] = [("run", i - 1)] if i else []
        graph["x", i] = (task, [])
        graph["run", i] = (task, [("x", i), *before])
        graph["out", i] = (task, [("x", i), *before])
    graph["end"] = (task, [("out", i) for i in range(count)])
    return graph


def transposed_sum(n: int) -> Graph:
    graph: Graph = {}
    for i, j in product(range(n), range(n)):
        graph["x", i, j] = (task, [])
        graph["add", i, j] = (task, [("x", i, j), ("x", j, i)] if i != j else [("x", i, j)])
        graph["part", i, j] = (task, [("add", i, j)])
    for i in range(n):
        graph["row", i] = (task, [("part", i, j) for j in range(n)])
    graph["all"] = (task, [("row", i) for i in range(n)])
    return graph


@pytest.mark.parametrize(
    ("graph", "most"),
    [
        pytest.param({i: (task, []) for i in range(50)}, 50, id="flat"),
        pytest.param(tree(64, 2), 8, id="tree by 2"),
        pytest.param(tree(64, 8), 16, id="tree by 8"),
        pytest.param(layers(12, 6, list(range(12))), 24, id="dense layers"),
        pytest.param(layers(30, 12, list(range(5))), 35, id="layers of 5 edges"),
        pytest.param(layers(30, 10, [-1, 0, 1], wrap=False), 32, id="wide stencil"),
        pytest.param(layers(10, 40, [-1, 0, 1], wrap=False), 12, id="long stencil"),
        pytest.param(butterfly(5), 34, id="butterfly"),
        pytest.param(roots_then_reduce(8, 8), 16, id="many roots then reduce"),
        pytest.param(matmul(5), 54, id="matmul"),
        pytest.param(shuffle(12, 10), 33, id="shuffle"),
        pytest.param(column_sums(20, 5), 12, id="column sums"),
        pytest.param(anomaly(20), 41, id="anomaly"),
        pytest.param(running_totals(30), 33, id="running totals"),
        pytest.param(transposed_sum(8), 40, id="transposed sum"),
    ],
)
def test_the_peak_of_a_standard_case_stays_as_low_as_it_was(graph: Graph, most: int) -> None:
    assert ordered_peak(graph) <= most


def two_results_of_blocks(count: int, steps: int) -> Graph:
    """Every block is loaded, goes through some steps, and is needed for two results, which are made of all blocks."""
    graph: Graph = {name: (task, [(name, i) for i in range(count)]) for name in ("most", "mean")}
    for i in range(count):
        graph["block", i, 0] = (task, [])
        for step in range(1, steps):
            graph["block", i, step] = (task, [("block", i, step - 1)])
        graph["most", i] = graph["mean", i] = (task, [("block", i, steps - 1)])
    return graph


def shared_held(plan: Plan) -> int:
    """How many results that several tasks depend on are live at once in the order of ``plan.nodes``."""
    held: dict[object, int] = {}
    most = 0
    for node in plan.nodes:
        if len(node.dependents) > 1:
            held[node.key] = len(node.dependents)
        most = max(most, len(held))
        for dep in node.deps:
            if dep.key in held:
                held[dep.key] -= 1
                if not held[dep.key]:
                    del held[dep.key]
    return most


@pytest.mark.parametrize("steps", [1, 3])
def test_of_two_orders_with_the_same_peak_the_one_that_holds_fewer_shared_results_wins(steps: int) -> None:
    graph = two_results_of_blocks(12, steps)
    assert peak(plan_of(graph)) == 25
    plan = plan_of(graph)
    assert shared_held(plan) == 12
    order(plan)
    assert shared_held(plan) == 1
    assert peak(plan) == 25


def test_a_chain_of_a_million_tasks_is_ordered() -> None:
    # Linked by hand: reading that many tasks takes far longer than ordering them.
    nodes = [Node(i) for i in range(1_000_000)]
    for before, node in pairwise(nodes):
        node.deps = [before]
        node.waiting = 1
        before.dependents = [node]
    plan = Plan(nodes[-1].key, list(nodes), {}, [nodes[-1]], False)
    order(plan)
    assert all(node is expected for node, expected in zip(plan.nodes, nodes, strict=True))
    assert plan.nodes[-1].rank == len(nodes) - 1


def test_a_deep_graph_that_is_no_tree_is_ordered() -> None:
    length = 20_000
    graph: Graph = {i: (task, [j for j in (i - 7, i - 2, i - 1) if j >= 0]) for i in range(length)}
    assert ordered_peak(graph) <= 9


def test_a_result_with_very_many_users_is_ordered() -> None:
    count = 20_000
    graph: Graph = {"root": (task, []), "other": (task, [])}
    graph.update({i: (task, ["root", "other"]) for i in range(count)})
    graph["last"] = (task, list(range(count)))
    assert ordered_peak(graph) == count + 2


def test_a_target_in_the_middle_is_held_to_the_end() -> None:
    graph: Graph = {"a": (task, []), "b": (task, ["a"]), "c": (task, ["b"]), "d": (task, ["c"])}
    assert ordered_peak(graph, ["d"]) == 2
    assert ordered_peak(graph, ["d", "a"]) == 3


def test_nothing_to_run_is_ordered() -> None:
    plan = read({"x": 1}, ["x"])
    order(plan)
    assert plan.nodes == []


def test_static_order_takes_the_outputs_by_default() -> None:
    graph: Graph = {
        "small": (task, 1),
        "deep": (task, "p", "q"),
        "p": (task, 1),
        "q": (task, 2),
        "out": (task, "small", "deep"),
    }
    assert static_order(graph) == {"p": 0, "q": 1, "deep": 2, "small": 3, "out": 4}
    assert static_order(graph, "deep") == {"p": 0, "q": 1, "deep": 2}
    assert static_order(graph, [["deep"], "small"]) == {"p": 0, "q": 1, "deep": 2, "small": 3}


def test_static_order_reads_every_form_alike() -> None:
    plain: Graph = {"a": 1, "b": (task, "a"), "c": (task, "b", "b2"), "b2": (task, "a"), "d": "c"}
    explicit: Graph = {
        "a": Data(1),
        "b": Task(task, Ref("a")),
        "b2": Task(task, Ref("a")),
        "c": Task(task, Ref("b"), Ref("b2")),
        "d": Ref("c"),
    }
    expected = {"b": 0, "b2": 1, "c": 2, "d": 2}
    assert static_order(plain, "d") == expected
    assert static_order(explicit, "d") == expected
    assert static_order(convert_legacy_graph(plain), "d") == expected


def test_static_order_of_a_literal_and_of_nothing_is_empty() -> None:
    assert static_order({}) == {}
    assert static_order({"a": 1}) == {}


def test_static_order_refuses_what_cannot_be_computed() -> None:
    with pytest.raises(CycleError):
        static_order({"a": (task, "b"), "b": (task, "a")})
    with pytest.raises(MissingKeyError):
        static_order({"a": (task, 1)}, "b")
    with pytest.raises(GraphError):
        static_order([("a", 1)])
