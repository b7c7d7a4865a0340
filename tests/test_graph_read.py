"""Reading graphs in plain form, and what is said of graphs that cannot be read."""

from __future__ import annotations

import enum
import gc
import pickle
import weakref
from collections.abc import Iterator, Mapping
from operator import add, neg
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import treadle.sync
from treadle import errors
from treadle.errors import (
    CycleError,
    GraphError,
    InvalidKeyError,
    MissingDependencyError,
    MissingKeyError,
)
from treadle.graph.plan import MAX_NESTING, Plan, read
from treadle.graph.spec import Ref, Task


class Point(NamedTuple):
    x: Any
    y: Any


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    pass


def inc(value: Any) -> Any:
    return value + 1


def same(*args: Any) -> Any:
    """Its only argument, as it is, or all of them."""
    return args[0] if len(args) == 1 else args


def get(graph: Any, keys: Any) -> Any:
    return treadle.sync.get(graph, keys)


def names(plan: Plan) -> list[object]:
    return [node.key for node in plan.nodes]


# Plain form


def test_a_tuple_headed_by_a_callable_is_a_task() -> None:
    assert get({"a": 1, "b": (inc, "a"), "c": (add, "a", "b")}, "c") == 3
    assert get({"a": (list,)}, "a") == []
    assert get({"a": (1, inc)}, "a") == (1, inc)
    assert get({"a": ()}, "a") == ()


@pytest.mark.parametrize(
    ("arg", "value"),
    [
        (["a", 5, "b"], [10, 5, 20]),
        ([["a"], [["b"]]], [[10], [[20]]]),
        (("a", "b"), (10, 20)),
        (([],), ([],)),
        ((["a"], 5), ([10], 5)),
        ({"k": "a", "a": "b"}, {"k": 10, "a": 20}),
        ({"k": ["a", {"l": "b"}]}, {"k": [10, {"l": 20}]}),
        ({"a", 5}, {10, 5}),
        (frozenset(["a", "b"]), frozenset([10, 20])),
        (Point("a", ["b"]), Point(10, [20])),
        ((inc, "a"), 11),
        ((inc, (add, "a", (inc, "b"))), 32),
        ([(inc, "a"), "b"], [11, 20]),
        ((same, ["a", (neg, "b")]), [10, -20]),
        ({"k": (inc, "a")}, {"k": 11}),
        ("a string", "a string"),
        (None, None),
        (..., ...),
    ],
)
def test_arguments_are_filled_in(arg: Any, value: Any) -> None:
    result = get({"a": 10, "b": (same, 20), "c": (same, arg)}, "c")
    assert result == value
    assert type(result) is type(value)
    # A value that is no task is read the same way; only a call at its top makes it one.
    assert get({"a": 10, "b": (same, 20), "c": arg}, "c") == value


@pytest.mark.parametrize(
    "literal",
    [
        [1, [2, "x"], {"k": (3, 4)}],
        ("x", (1, 2)),
        {"x": [1], 2: {"y"}},
        {1, 2},
        frozenset("x"),
        Point("x", [1]),
        (["unhashable"],),
        object(),
        "text",
        10**30,
    ],
)
def test_what_holds_no_key_stays_the_same_object(literal: object) -> None:
    graph = {"a": 1, "b": (same, literal), "c": literal}
    assert get(graph, "b") is literal
    assert get(graph, "c") is literal


@pytest.mark.parametrize("key", ["a", b"a", 3, 3.5, ("a", 0), ("a", ("b", 1.5)), ""])
def test_types_of_keys(key: Any) -> None:
    graph = {key: 10, "double": (add, key, key), "alias": key, "nested": (same, [key])}
    assert get(graph, ["double", "alias", "nested", key]) == [20, 10, [10], 10]


def test_equal_keys_are_the_same_key() -> None:
    assert get({1: 10, "b": (inc, 1.0)}, ["b", 1.0]) == [11, 10]


def test_instances_of_subclasses_of_key_types_are_keys() -> None:
    graph = {"a": 10, 1: 20, ("a", 1): 30}
    assert get({**graph, "b": (same, Text("a"), Color.RED, Point("a", 1))}, "b") == (10, 20, 30)
    assert get({**graph, "b": Text("a")}, "b") == 10
    assert get(graph, Text("a")) == 10


def test_bool_is_no_key() -> None:
    graph = {1: 10, 0: 20, "b": (same, True, False, [True])}
    assert get(graph, "b") == (True, False, [True])
    assert get({1: 10, "b": True}, "b") is True
    with pytest.raises(InvalidKeyError, match="True"):
        get(graph, True)


def test_words_of_a_dict_are_never_keys() -> None:
    assert get({"a": 1, "b": (same, {"a": 2})}, "b") == {"a": 2}


def test_functions_among_the_arguments_are_values() -> None:
    assert get({"a": (same, inc)}, "a") is inc
    assert get({"a": 1, "b": (map, inc, ["a"]), "c": (list, "b")}, "c") == [2]


def test_any_mapping_is_a_graph() -> None:
    class Lazy(Mapping[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            return {"a": 1, "b": (inc, "a")}[key]

        def __iter__(self) -> Iterator[Any]:
            return iter(["a", "b"])

        def __len__(self) -> int:
            return 2

    assert get(Lazy(), "b") == 2
    assert get(MappingProxyType({"a": (inc, 1)}), "a") == 2
    with pytest.raises(GraphError, match="must be a mapping from keys to tasks and values, not list"):
        get([("a", 1)], "a")


# Keys that are asked for


def test_results_have_the_shape_of_the_keys() -> None:
    graph = {"a": 1, "b": (inc, "a"), ("c", 0): (inc, "b")}
    assert get(graph, ["a", ["b", [("c", 0)]], [], "a"]) == [1, [2, [3]], [], 1]
    assert get(graph, ("c", 0)) == 3
    assert get(graph, []) == []


def test_the_graph_is_left_alone() -> None:
    graph = {"a": [1], "b": (same, ["a"]), "c": "b", "d": (add, ["a"], {"k": "c"}.keys)}
    before = dict(graph)
    get(graph, "c")
    assert graph == before
    assert all(graph[key] is before[key] for key in graph)


# Aliases


def test_an_alias_is_the_value_that_it_names() -> None:
    graph: dict[Any, Any] = {"a": (object,), "b": "a", "c": "b", "d": ("x", 1), ("x", 1): "a", "e": Ref("d")}
    first, *others = get(graph, ["a", "b", "c", "d", "e"])
    assert all(other is first for other in others)
    assert names(read(graph, ["e", "c"])) == ["a"]


def test_dependencies_lead_through_aliases_and_count_once() -> None:
    graph: dict[Any, Any] = {"a": (inc, 1), "b": "a", "c": (add, "a", "b"), "d": (same, ["c", "c"], "c")}
    plan = read(graph, "d")
    task = {node.key: node for node in plan.nodes}
    assert task["c"].deps == [task["a"]]
    assert task["a"].dependents == [task["c"]]
    assert task["d"].deps == [task["c"]]
    assert get(graph, "d") == ([4, 4], 4)


def test_an_alias_of_a_literal() -> None:
    graph: dict[Any, Any] = {"a": [1, 2], "b": "a", "c": (same, "b")}
    assert get(graph, ["b", "c"]) == [[1, 2], [1, 2]]
    assert names(read(graph, "b")) == []


# The plan


def test_tasks_come_after_what_they_depend_on() -> None:
    graph: dict[Any, Any] = {("t", i): (same, [("t", j) for j in range(i) if i % (j + 1) == 0]) for i in range(60)}
    graph = dict(reversed(graph.items()))
    plan = read(graph, [("t", 59), [("t", 48)]])
    seen: set[object] = set()
    for node in plan.nodes:
        assert all(dep.key in seen for dep in node.deps)
        assert node.waiting == len(node.deps)
        assert len(set(node.deps)) == len(node.deps)
        seen.add(node.key)
    assert len(seen) == len(plan.nodes)
    assert {(dep.key, node.key) for node in plan.nodes for dep in node.deps} == {
        (node.key, dependent.key) for node in plan.nodes for dependent in node.dependents
    }


def test_literals_are_no_tasks() -> None:
    plan = read({"a": 1, "b": [1, 2], "c": (add, "a", "b"), "d": ["c", "a"]}, ["d", "a"])
    assert names(plan) == ["c", "d"]
    assert [node.deps for node in plan.nodes] == [[], [plan.nodes[0]]]
    assert [node.key for node in plan.targets] == ["d", "a"]


def test_what_is_not_needed_is_never_looked_at() -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"somebody asked for {name}")

    graph: dict[Any, Any] = {
        "a": (inc, 1),
        "loop": (inc, "loop"),
        "missing": Task(inc, Ref("nowhere")),
        "unhashable": Ref([]),
        "untouchable": Untouchable(),
        None: 1,
    }
    assert get(graph, "a") == 2
    assert list(read(graph, "a").found) == ["a"]


# Errors


def test_cycles_are_shown_in_order() -> None:
    graph = {"a": (inc, "b"), "b": (add, "c", "d"), "c": (same, [[{"k": "a"}]]), "d": 1, "e": (inc, "a")}
    with pytest.raises(CycleError) as caught:
        get(graph, "e")
    assert caught.value.keys == ["a", "b", "c", "a"]
    assert "'a' -> 'b' -> 'c' -> 'a' (an arrow reads 'depends on')" in str(caught.value)


@pytest.mark.parametrize(
    ("graph", "keys"),
    [
        ({"a": (inc, "a")}, ["a", "a"]),
        ({"a": "a"}, ["a", "a"]),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": Text("a")}, ["a", "a"]),
        ({"a": Ref("a")}, ["a", "a"]),
        ({"a": Task(inc, Ref("a"))}, ["a", "a"]),
        ({"a": "b", "b": Ref("c"), "c": "b"}, ["b", "c", "b"]),
        ({"a": (inc, "x"), "x": "b", "b": (inc, "y"), "y": "a"}, ["a", "b", "a"]),
        ({"a": (inc, "b"), "b": "c", "c": "b"}, ["b", "c", "b"]),
    ],
)
def test_short_cycles(graph: dict[Any, Any], keys: list[str]) -> None:
    with pytest.raises(CycleError) as caught:
        get(graph, "a")
    assert caught.value.keys == keys


def test_a_long_cycle_is_shortened_in_the_text() -> None:
    size = 100_000
    graph: dict[Any, Any] = {i: (inc, (i + 1) % size) for i in range(size)}
    with pytest.raises(CycleError) as caught:
        get(graph, 7)
    assert caught.value.keys == [*range(7, size), *range(8)]
    text = str(caught.value)
    assert "7 -> 8 -> 9 ->" in text
    assert "-> 6 -> 7 (an arrow" in text
    assert f"… {size + 1 - 20} more …" in text
    assert len(text) < 400


def test_a_key_that_is_missing() -> None:
    graph = {"alpha": 1, "beta": 2, ("x", 0): 3, ("x", 1): 4}
    with pytest.raises(MissingKeyError) as caught:
        get(graph, ["beta", ["alpah"]])
    assert caught.value.key == "alpah"
    assert str(caught.value) == ("the key 'alpah' was asked for, but the graph has no such key. Did you mean 'alpha'?")
    assert isinstance(caught.value, KeyError)
    with pytest.raises(MissingKeyError) as caught:
        get(graph, ("x", 2))
    assert set(caught.value.similar) == {("x", 0), ("x", 1)}
    with pytest.raises(MissingKeyError) as caught:
        get(graph, b"something else")
    assert caught.value.similar == []
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("value", [Task(inc, Ref("alpah")), (inc, Ref("alpah")), [Ref("alpah")], Ref("alpah")])
def test_a_dependency_that_is_missing(value: object) -> None:
    graph = {"alpha": 1, "task": value, "top": (inc, "task")}
    with pytest.raises(MissingDependencyError) as caught:
        get(graph, "top")
    assert (caught.value.key, caught.value.dependency, caught.value.similar) == ("task", "alpah", ["alpha"])
    assert "the task 'task' depends on 'alpah', but the graph has no such key" in str(caught.value)


def test_the_end_of_a_chain_of_aliases_that_is_missing() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        get({"a": "b", "b": Ref("c"), "c": Ref("d")}, "a")
    assert (caught.value.key, caught.value.dependency) == ("c", "d")


@pytest.mark.parametrize("key", [None, {"a"}, {"a": 1}, object, 1j, ("a", []), frozenset(["a"])])
def test_a_key_of_a_wrong_type(key: Any) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        get({"a": 1}, [key])
    assert caught.value.key is key
    assert f"(a {type(key).__name__}) cannot be a key" in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "graph",
    [
        {"a": Ref([])},
        {"a": (inc, Ref([]))},
        {"a": (inc, "b"), "b": Ref([])},
        {"a": (inc, ("b", 0)), ("b", 0): Ref([])},
        {"a": Task(inc, Ref("b")), "b": "c", "c": Ref([])},
        {"a": Task(inc, Ref([]))},
    ],
)
def test_an_unhashable_reference_is_the_key_at_fault(graph: dict[Any, Any]) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        get(graph, "a")
    assert caught.value.key == []


def nest(kind: str, depth: int) -> Any:
    value: Any = "a"
    for _ in range(depth):
        if kind == "list":
            value = [value]
        elif kind == "tuple":
            value = (0, value)
        elif kind == "dict":
            value = {"k": value}
        elif kind == "set":
            value = frozenset([value])
        elif kind == "call":
            value = (inc, value)
        elif kind == "ref":
            value = [value if value != "a" else Ref("a")]
        else:
            value = Task(inc, value if value != "a" else Ref("a"))
    return value


@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "set", "call", "task", "ref"])
def test_nesting_is_limited(kind: str) -> None:
    graph = {"a": 0, "b": (same, nest(kind, MAX_NESTING)), "c": (same, nest(kind, MAX_NESTING + 1))}
    result = get(graph, "b")
    if kind in ("call", "task"):
        assert result == MAX_NESTING
    with pytest.raises(GraphError, match=f"the arguments of task 'c' are nested more than {MAX_NESTING} deep"):
        get(graph, "c")
    explicit = {"a": 0, "c": Task(same, nest("task", MAX_NESTING + 1))}
    with pytest.raises(GraphError, match="nested more than"):
        get(explicit, "c")


def test_an_error_of_ours_shows_no_frames_of_ours() -> None:
    with pytest.raises(MissingKeyError) as caught:
        treadle.sync.get({}, "a")
    assert len(caught.traceback) == 2  # this function and the one that was called


EXAMPLES: list[errors.TreadleError] = [
    errors.TreadleError("text"),
    errors.UserError("text"),
    errors.PeerError("text"),
    errors.InternalError("text"),
    errors.GraphError("text"),
    errors.CycleError(["a", ("b", 1), "a"]),
    errors.MissingKeyError("a", ["b"]),
    errors.MissingDependencyError("a", ("b", 1), [("b", 2), ("b", 3)]),
    errors.InvalidKeyError(None),
    errors.NotSerializableError("text"),
    errors.TaskNotSerializableError("a", "argument 1 (a lock)", "cannot pickle"),
    errors.ResultNotSerializableError("a", "result", "cannot pickle"),
    errors.WorkerDiedError(["a", "b"], 123, -9),
    errors.WorkerDiedError([], 123, 1),
    errors.WorkerDiedError([], 123, None),
    errors.WorkerDiedError(["a"], 123, -99),
    errors.MissingPackageError("graphviz", "visualize", "pip install graphviz"),
    errors.KilledWorkerError("a", 3, -9, "host", 123, "last words"),
    errors.KilledWorkerError("a", 3, None, "host", 123),
    errors.DataLostError("a", "worker-1"),
    errors.DataLostError("a", ""),
    errors.ActorLostError("a", "worker-1", "Counter", "it died"),
    errors.StreamLostError("a", "worker-1", "it died"),
    errors.DuplicateKeyError("a"),
    errors.LeaseLostError("lock 'a'"),
    errors.NotHeldError("text"),
    errors.NotInTaskError("text"),
    errors.PluginError("a", {"worker-1": "ValueError: no"}, 2),
    errors.PreloadError("a", "ValueError: no"),
    errors.VersionMismatchError(["one", "another"]),
    errors.ProtocolError("text"),
    errors.ConnectError("127.0.0.1:8786", "nobody listens there"),
    errors.BrokenClusterError("127.0.0.1:8786", "it was closed"),
    errors.RefusedError("text"),
    errors.AddressInUseError("127.0.0.1:8786"),
    errors.ClosedError("text"),
]


def test_there_is_an_example_of_every_error() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_errors_survive_pickling(error: errors.TreadleError, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error) != ""
    assert vars(copy) == vars(error)


# Size


def test_a_chain_of_a_million_tasks() -> None:
    size = 1_000_000
    graph: dict[Any, Any] = {i: (inc, i - 1) for i in range(1, size)}
    graph[0] = (len, ())
    assert get(graph, size - 1) == size - 1


def test_a_long_chain_that_never_runs_is_freed() -> None:
    def end() -> int:
        return 0

    last = weakref.ref(end)
    graph: dict[Any, Any] = {i: (inc, i - 1) for i in range(1, 300_000)}
    graph[0] = (end,)
    plan = read(graph, 299_999)
    assert len(plan.nodes) == 300_000
    assert last() is end
    del end, graph, plan
    gc.collect()
    assert last() is None


def test_a_chain_of_aliases_of_any_length() -> None:
    size = 100_000
    graph: dict[Any, Any] = {i: i + 1 for i in range(size)}
    graph[size] = (same, "end")
    assert get(graph, [0, size // 2]) == ["end", "end"]


def test_wide_merges() -> None:
    size = 100_000
    graph: dict[Any, Any] = {("leaf", i): (same, i) for i in range(size)}
    leaves = list(graph)
    graph["flat"] = (same, *leaves)
    graph["list"] = (sum, leaves)
    graph["again"] = (sum, leaves + leaves)
    graph["dict"] = (len, dict.fromkeys(range(size), ("leaf", 0)))
    flat, *others = get(graph, ["flat", "list", "again", "dict"])
    total = size * (size - 1) // 2
    assert flat == tuple(range(size))
    assert others == [total, 2 * total, size]
    plan = read(graph, ["flat", "again"])
    assert sum(len(node.deps) for node in plan.nodes) == 2 * size


def test_results_are_dropped_when_their_last_user_is_done() -> None:
    class Value:
        pass

    alive: list[weakref.ref[Value]] = []

    def make(*_: object) -> Value:
        value = Value()
        alive.append(weakref.ref(value))
        return value

    def count(_: object) -> int:
        return sum(ref() is not None for ref in alive)

    graph = {"a": (make,), "b": (make, "a"), "c": (make, "b"), "d": (count, "c")}
    assert get(graph, "d") == 1
    assert count(None) == 0
