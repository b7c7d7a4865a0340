"""Optimization passes: what they keep, what they change, and that results are the same."""

from __future__ import annotations

import doctest
import gc
import pickle
import random
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from operator import add, mul, neg
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import treadle.sync
import treadle.threaded
from treadle.errors import CycleError, GraphError, MissingKeyError
from treadle.graph import Data, Ref, Task, cull, dependencies, fuse, inline
from treadle.graph.optimize import culling, fusing, inlining
from treadle.graph.optimize.chain import BEFORE, Chain
from treadle.graph.plan import MAX_NESTING, read


class Point(NamedTuple):
    x: Any
    y: Any


def inc(value: Any) -> Any:
    return value + 1


def double(value: Any) -> Any:
    return value * 2


def call(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def fail(value: Any) -> Any:
    raise ValueError(f"no {value}")


def get(graph: Any, keys: Any) -> Any:
    return treadle.sync.get(graph, keys)


Pass = Callable[[Any, Any], dict[Any, Any]]


def inline_all(graph: Any, keys: Any) -> dict[Any, Any]:
    return inline(graph, keys, functions=[inc, double, add, call])


PASSES: list[Pass] = [cull, fuse, inline, inline_all]

#: Every kind of value, with an argument of every kind of container. ``"end"`` needs all of it.
MIXED: dict[Any, Any] = {
    "one": 1,
    "list": [1, "text", ("one", {"k": "one"})],
    "data": Data(["one", (inc, "one")]),
    "alias": "one",
    ("t", 0): (inc, "alias"),
    ("t", 1): (call, [("t", 0), "x"], {"k": ("t", 0), "one": "one"}, (("t", 0),), Point(("t", 0), []), {5}),
    "chained": Task(call, Ref(("t", 1)), "one", [Ref("alias")], k=Ref("list"), m=(1, [2])),
    "nested": (call, (add, (inc, ("t", 0)), "one"), Task(call, Ref("one"), x="one"), Data("one"), [1, 2]),
    "set": (call, {"one", 7}, frozenset([("t", 0)]), frozenset("ab")),
    "collected": ["nested", {"k": "chained"}, ("set", "data")],
    "end": (call, "collected"),
    "end alias": "end",
    "unused": (fail, "end"),
}


@pytest.mark.parametrize("run", PASSES)
@pytest.mark.parametrize("module", [treadle.sync, treadle.threaded])
def test_results_stay_the_same(run: Pass, module: ModuleType) -> None:
    for keys in ("end", ["end alias", [("t", 0), "alias"], "data"], list(set(MIXED) - {"unused"})):
        assert module.get(run(MIXED, keys), keys) == get(MIXED, keys)


@pytest.mark.parametrize("run", PASSES)
def test_the_graph_is_left_alone(run: Pass) -> None:
    before = dict(MIXED)
    result = run(MIXED, "end")
    assert type(result) is dict
    assert result is not MIXED
    assert list(MIXED) == list(before)
    assert all(MIXED[key] is before[key] for key in before)
    assert get(MIXED, ("t", 0)) == 2


@pytest.mark.parametrize("run", PASSES)
def test_passes_can_follow_one_another(run: Pass) -> None:
    expected = get(MIXED, "end")
    for other in PASSES:
        assert get(other(run(MIXED, "end"), "end"), "end") == expected
    assert get(run(run(MIXED, "end"), "end"), "end") == expected


@pytest.mark.parametrize("run", PASSES)
def test_random_graphs(run: Pass) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        graph: dict[Any, Any] = {"start": 1}
        for i in range(60):
            some = rng.choices(list(graph), k=rng.choice([1, 1, 1, 2, 3]))
            graph[f"k{i}"] = rng.choice(
                [
                    (min, [inc, *some][1:]),
                    (double, some[0]),
                    Task(inc, Ref(some[0])),
                    (max, (inc, some[0]), *some, 0),
                    rng.randrange(1000, 2000),
                    some[0],
                ]
            )
        keys = rng.sample(list(graph), 4)
        assert get(run(graph, keys), keys) == get(graph, keys)


@pytest.mark.parametrize("run", PASSES)
def test_errors_of_the_graph(run: Pass) -> None:
    with pytest.raises(MissingKeyError):
        run({"a": 1}, "b")
    with pytest.raises(CycleError):
        run({"a": (inc, "b"), "b": (inc, "a")}, ["a"])
    with pytest.raises(GraphError, match="must be a mapping"):
        run(5, "a")
    assert run({"a": 1, "b": (inc, "b")}, ["a"]) == {"a": 1}
    assert run({"a": 1}, []) == {}


@pytest.mark.parametrize("run", PASSES)
def test_long_chains(run: Pass) -> None:
    size = 200_000
    graph: dict[Any, Any] = {("t", i): (inc, ("t", i - 1)) for i in range(1, size)}
    graph["t", 0] = (inc, -1)
    result = run(graph, ("t", size - 1))
    if run is cull:
        assert result.keys() == graph.keys()
    elif run is fuse:
        assert get(result, ("t", size - 1)) == size - 1
    del graph
    result.clear()
    gc.collect()


@pytest.mark.parametrize("run", PASSES)
def test_wide_merges(run: Pass) -> None:
    size = 50_000
    graph: dict[Any, Any] = {("leaf", i): (double, 3) for i in range(size)}
    graph["sum"] = (sum, list(graph))
    graph["long"] = tuple(range(size))
    for i in range(200):
        graph["part", i] = (len, "long")
    graph["end"] = (sum, [("part", i) for i in range(200)])
    assert get(run(graph, ["sum", "end"]), ["sum", "end"]) == [6 * size, 200 * size]


@pytest.mark.parametrize("module", [culling, fusing, inlining])
def test_the_examples_in_the_docstrings(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


# cull and dependencies


def test_cull_keeps_what_is_needed_and_the_same_objects() -> None:
    result = cull(MIXED, [["set"], [("t", 0)]])
    assert set(result) == {"set", "one", "alias", ("t", 0)}
    assert all(result[key] is MIXED[key] for key in result)
    assert set(cull({"a": "b", "b": Ref("c"), "c": 1, "d": "a"}, "a")) == {"a", "b", "c"}


def test_dependencies() -> None:
    needs = dependencies(MIXED)
    assert list(needs) == list(MIXED)
    assert needs["one"] == needs["data"] == set()
    assert needs["alias"] == needs["list"] == needs["t", 0] == {"one"}
    assert needs["chained"] == {("t", 1), "one", "list"}
    assert needs["nested"] == {("t", 0), "one"}
    assert needs["collected"] == {"nested", "chained", "set", "data"}
    assert needs["end alias"] == {"end"}
    with pytest.raises(CycleError):
        dependencies({"a": 1, "b": (inc, "b")})


# fuse


def test_fuse_makes_one_task_of_a_chain() -> None:
    graph = {"a": 1, "b": (inc, "a"), "c": (add, "b", "a"), "d": Task(mul, 2, Ref("c")), "e": (neg, "d")}
    result = fuse(graph, "e")
    assert set(result) == {"a", "e"}
    assert repr(result["e"]) == "Task(<Chain inc-add-mul-neg>, Ref('a'))"
    assert result["e"].func.keys == ("b", "c", "d", "e")
    assert get(result, "e") == -6


def test_fuse_stops_at_keys_that_are_wanted() -> None:
    graph = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "b"), "d": (inc, "c"), "alias": "b"}
    result = fuse(graph, ["d", ["alias"]])
    assert {key: repr(value) for key, value in result.items()} == {
        "d": "Task(<Chain inc-inc>, Ref('b'))",
        "b": "Task(<Chain inc-inc>)",
        "alias": "'b'",
    }
    assert get(result, ["alias", "d"]) == [3, 5]


def test_fuse_keeps_branches_and_merges() -> None:
    graph = {
        "root": (inc, 0),
        "left": (inc, "root"),
        "left 2": (inc, "left"),
        "right": (inc, "root"),
        "merge": (add, "left 2", "right"),
        "end": (neg, "merge"),
    }
    result = fuse(graph, "end")
    assert set(result) == {"root", "left 2", "right", "end"}
    assert result["root"] is graph["root"]
    assert result["right"] is graph["right"]
    assert result["end"].args == (Ref("left 2"), Ref("right"))
    assert get(result, "end") == -5


def test_fuse_sees_through_aliases() -> None:
    graph = {"a": (inc, 1), "b": "a", "c": "b", "d": (inc, "c"), "e": (double, "d")}
    result = fuse(graph, "e")
    assert set(result) == {"e"}
    assert get(result, "e") == 6


def test_fuse_passes_literals_as_they_are() -> None:
    first, second = [1, [2]], {"k": (3,)}
    graph = {
        "const": second,
        "a": (call, first),
        "b": Task(call, Ref("a"), first, [Ref("const")], x=Ref("const"), y="text"),
    }
    result = fuse(graph, "b")
    assert result["const"] is second
    (before, same, (inside,)), words = get(result, "b")
    assert before[0][0] is same is first
    assert inside is words["x"] is second
    assert words["y"] == "text"


def test_fuse_leaves_a_fused_graph_alone() -> None:
    once = fuse({"a": (inc, 1), "b": (inc, "a"), "c": (add, "b", "b"), "d": (inc, "x"), "x": 1}, ["c", "d"])
    twice = fuse(once, ["c", "d"])
    assert twice.keys() == once.keys()
    assert all(twice[key] is once[key] for key in once)


def test_a_fused_task_drops_intermediate_results() -> None:
    class Value:
        pass

    made: list[weakref.ref[Value]] = []
    alive: list[int] = []

    def step(*_: object) -> Value:
        value = Value()
        made.append(weakref.ref(value))
        alive.append(sum(ref() is not None for ref in made))
        return value

    graph: dict[Any, Any] = {i: (step, i - 1) for i in range(1, 6)}
    graph[0] = (step,)
    result = fuse(graph, 5)
    assert len(result) == 1
    get(result, 5)
    assert alive == [1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("size", [3, 30])
@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_step_that_fails(size: int, position: int) -> None:
    keys = [f"step {i}" for i in range(size)]
    graph: dict[Any, Any] = {key: (inc, before) for before, key in zip(["start", *keys], keys)}
    graph["start"] = 0
    graph[keys[position]] = (fail, *graph[keys[position]][1:])
    with pytest.raises(ValueError, match="no ") as caught:
        get(fuse(graph, keys[-1]), keys[-1])
    notes: list[str] = caught.value.__notes__  # type: ignore[attr-defined, unused-ignore]
    assert notes == [f"in step {keys[position]!r} of a fused task", f"while running task {keys[-1]!r}"]
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames][-2:] == ["get", "fail"]


def test_an_exception_that_takes_no_notes() -> None:
    class Closed(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    def close(_: object) -> None:
        raise Closed

    with pytest.raises(Closed):
        Chain(["a", "b"], [Task(inc, Ref(0)), Task(close, BEFORE)])(1)


def test_chains_have_names_and_can_be_pickled() -> None:
    chain = Chain(["a", "b", "c"], [Task(partial(add, 1), Ref(0)), Task(inc, BEFORE), Task(max, [BEFORE, Ref(1)])])
    assert chain.__name__ == "add-inc-max"
    assert repr(chain) == "<Chain add-inc-max>"
    assert chain(1, 2) == 3
    twin = pickle.loads(pickle.dumps(chain))
    assert (twin.keys, twin.tasks[1:]) == (chain.keys, chain.tasks[1:])
    assert twin(1, 20) == 20
    long = Chain(range(100), [Task(double, Ref(0)), *[Task(inc, BEFORE)] * 99])
    assert long.__name__ == "double-inc-inc-inc-(92 more)-inc-inc-inc-inc"
    assert long(1) == 101
    assert Chain(["a"], [Task(Point, 1, 2)]).__name__ == "Point"


def test_a_chain_may_run_in_several_threads_at_once() -> None:
    graph: dict[Any, Any] = {}
    for i in range(200):
        graph["a", i] = (inc, i + 1_000)
        graph["b", i] = (call, [("a", i)], {"k": ("a", i)})
    keys = [("b", i) for i in range(200)]
    shared = fuse(graph, keys)[keys[0]].func
    many = {key: Task(shared) for key in keys}
    assert treadle.threaded.get(many, keys, num_workers=4) == [get(graph, keys[0])] * 200


@pytest.mark.parametrize("run", PASSES)
@pytest.mark.parametrize("kind", ["sets", "lists", "calls"])
@pytest.mark.parametrize("depth", [MAX_NESTING // 2, MAX_NESTING // 2 + 1, MAX_NESTING - 1, MAX_NESTING])
def test_nesting_that_explicit_form_cannot_hold_is_left_alone(run: Pass, kind: str, depth: int) -> None:
    value: Any = "c"
    for _ in range(depth):
        value = frozenset([value]) if kind == "sets" else [value] if kind == "lists" else (inc, value)
    graph = {"a": (inc, 1), "c": (inc, "a"), "d": (call, value, "five"), "e": (call, "d"), "five": 5}
    assert get(run(graph, "e"), "e") == get(graph, "e")


# inline


def test_inline_constants() -> None:
    graph = {
        "a": 1,
        "b": [1, "x"],
        "c": Data("a"),
        "alias": "b",
        "d": (call, "a", ["alias"], {"k": "c"}),
        "e": (inc, "d"),
    }
    result = inline(graph, "e")
    assert set(result) == {"d", "e"}
    assert result["e"] is graph["e"]
    assert repr(result["d"]) == "Task(call, 1, [Data([1, 'x'])], {'k': 'a'})"
    (one, (listed,), words), _ = get(result, "d")
    assert (one, words) == (1, {"k": "a"})
    assert listed is graph["b"]


def test_inline_keeps_constants_when_told_to() -> None:
    graph = {"a": 1, "b": (inc, "a"), "c": (add, "a", "b")}
    assert inline(graph, "c", constants=False) == graph
    assert repr(inline(graph, "c", [inc], constants=False)) == "{'c': Task(add, Ref('a'), Task(inc, Ref('a'))), 'a': 1}"


def test_inline_keeps_keys_that_are_wanted() -> None:
    graph = {"a": 1, "b": (inc, "a"), "c": (double, "b"), "d": (neg, "c"), "n": "a"}
    result = inline(graph, ["d", ["b", "n"]], functions=[inc, double])
    assert repr(result["d"]) == "Task(neg, Task(double, Ref('b')))"
    assert set(result) == {"a", "b", "d", "n"}
    assert repr(result["b"]) == "Task(inc, 1)"
    assert get(result, ["d", "b", "n"]) == [-4, 2, 1]


def test_inlined_tasks_run_once_for_each_reference() -> None:
    calls: list[int] = []

    def cheap(value: int) -> int:
        calls.append(value)
        return value

    graph = {"a": (cheap, 5), "b": (add, "a", "a"), "c": (neg, "a"), "d": (add, "b", "c")}
    assert get(inline(graph, "d", functions=[cheap]), "d") == 5
    assert calls == [5, 5, 5]


def test_inline_stops_before_the_nesting_is_too_deep() -> None:
    size = 1_000
    graph: dict[Any, Any] = {i: (inc, i - 1) for i in range(1, size)}
    graph[0] = (call, (), "x")
    graph[1] = (len, 0)
    result = inline(graph, size - 1, functions=[inc, len, call])
    assert size / MAX_NESTING <= len(result) <= size / MAX_NESTING + 2
    assert get(result, size - 1) == size
    nested: Any = 150
    for _ in range(MAX_NESTING - 10):
        nested = [nested]
    graph["end"] = (call, nested, 150)
    result = inline(graph, "end", functions=[inc, len])
    assert get(result, "end") == get(graph, "end")


def test_inline_does_not_blow_up_where_tasks_use_each_other_twice() -> None:
    size = 500
    graph: dict[Any, Any] = {i: (max, i - 1, i - 1) for i in range(1, size)}
    graph[0] = (len, "x")
    result = inline(graph, size - 1, functions=[max, len])
    assert get(result, size - 1) == 1
    plan = read(result, size - 1)
    assert 1 < len(plan.nodes) < size / 5


def test_inline_takes_functions_that_cannot_be_hashed() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return self is other

        def __call__(self, value: int) -> int:
            return value + 1

    odd = Odd()
    graph = {"a": (odd, 1), "b": (neg, "a")}
    result = inline(graph, "b", functions=iter([odd]))
    assert set(result) == {"b"}
    assert get(result, "b") == -2
