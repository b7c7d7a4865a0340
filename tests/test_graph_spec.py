"""Tasks in explicit form, alone and mixed with plain form."""

from __future__ import annotations

import copy
import pickle
from operator import add, neg
from typing import Any, NamedTuple

import pytest

import treadle
import treadle.sync
from treadle.graph.plan import read
from treadle.graph.spec import Data, Ref, Task


class Point(NamedTuple):
    x: Any
    y: Any


def inc(value: Any) -> Any:
    return value + 1


def same(*args: Any) -> Any:
    return args[0] if len(args) == 1 else args


def call(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def get(graph: dict[Any, Any], keys: Any) -> Any:
    return treadle.sync.get(graph, keys)


A, B = Ref("a"), Ref("b")


@pytest.mark.parametrize(
    ("arg", "value"),
    [
        (A, 10),
        ([A, 5, B], [10, 5, 20]),
        ((A, [(B,)]), (10, [(20,)])),
        ({"k": A, "l": {"m": [B]}}, {"k": 10, "l": {"m": [20]}}),
        ({A, 5}, {10, 5}),
        (frozenset([A]), frozenset([10])),
        (Point(A, [B]), Point(10, [20])),
        (Task(add, A, Task(inc, B)), 31),
        ([Task(neg, A), {"k": Task(call, B, x=[A])}], [-10, {"k": ((20,), {"x": [10]})}]),
        (Data(A), A),
        (Data("a"), "a"),
        ([Data([A]), A], [[A], 10]),
        ((inc, A), (inc, 10)),
        ("a", "a"),
        (["a", ("b",)], ["a", ("b",)]),
        ((inc, "a"), (inc, "a")),
    ],
)
def test_arguments_are_filled_in(arg: Any, value: Any) -> None:
    graph = {"a": 10, "b": (same, 20), "c": Task(same, arg), "d": Task(call, x=arg)}
    result = get(graph, "c")
    assert result == value
    assert type(result) is type(value)
    assert get(graph, "d") == ((), {"x": value})


@pytest.mark.parametrize(
    "literal", [["a", ["b"]], ("a", {"k": "b"}), {"a"}, (inc, "a"), (["unhashable"],), Point("a", 1), object()]
)
def test_what_holds_no_reference_stays_the_same_object(literal: object) -> None:
    graph = {"a": 10, "b": 20, "task": Task(same, literal), "data": Data(literal), "word": Task(call, x=literal)}
    task, data, (_, words) = get(graph, ["task", "data", "word"])
    assert task is data is words["x"] is literal


def test_strings_that_equal_keys_are_no_dependencies() -> None:
    graph: dict[Any, Any] = {"a": (inc, 1), "b": Task(call, "a", ["a"], {"a": "a"}, x="a")}
    plan = read(graph, "b")
    assert [node.key for node in plan.nodes] == ["b"]
    assert get(graph, "b") == (("a", ["a"], {"a": "a"}), {"x": "a"})


def test_keywords() -> None:
    graph = {"a": 10, "b": Task(call, 1, A, func=A, self="a", args=[A], kwargs={"k": A}, key=2)}
    words = {"func": 10, "self": "a", "args": [10], "kwargs": {"k": 10}, "key": 2}
    assert get(graph, "b") == ((1, 10), words)
    assert get({"a": 10, "b": Task(call)}, "b") == ((), {})
    assert get({"b": Task(call, x=1)}, "b") == ((), {"x": 1})


def test_dependencies_are_counted_once() -> None:
    graph: dict[Any, Any] = {"a": (inc, 1), "b": Task(call, A, [A], Task(inc, A), x=A, y={"k": A})}
    plan = read(graph, "b")
    assert [len(node.deps) for node in plan.nodes] == [0, 1]
    assert get(graph, "b") == ((2, [2], 3), {"x": 2, "y": {"k": 2}})


def test_data_is_taken_as_it_is() -> None:
    loop: list[Any] = []
    loop.append(loop)
    graph = {"a": Data((inc, "b")), "b": Data("a"), "c": Data(Data(1)), "d": Data(loop), "e": (same, "d")}
    a, b, c, d, e = get(graph, list(graph))
    assert a == (inc, "b")
    assert b == "a"
    assert isinstance(c, Data)
    assert c.value == 1
    assert d is e is loop


def test_references_name_keys_of_any_type() -> None:
    graph = {("a", 0): 1, 5: Task(inc, Ref(("a", 0))), b"k": Ref(5), 2.5: [Ref(b"k"), Ref(5)]}
    assert get(graph, 2.5) == [2, 2]


def test_forms_mix() -> None:
    graph = {
        "a": 10,
        "b": (add, "a", Ref("a")),
        "c": Task(add, Ref("b"), 1),
        "d": (same, [Task(inc, Ref("c")), "c", Data("c"), (inc, "c")]),
        "e": [Ref("a"), "a", Task(call, "a"), Data("a"), {"k": (inc, "a")}],
    }
    assert get(graph, "d") == [22, 21, "c", 22]
    assert get(graph, "e") == [10, 10, (("a",), {}), "a", {"k": 11}]


def test_a_nested_plain_tuple_is_a_value_in_explicit_form() -> None:
    assert get({"a": 1, "b": Task(same, (inc, "a"), [(inc, A)])}, "b") == ((inc, "a"), [(inc, 1)])


# The objects themselves


def test_reprs_show_how_to_write_them() -> None:
    task = Task(add, Ref(("x", 1)), Data([1]), k="v")
    assert repr(task) == "Task(add, Ref(('x', 1)), Data([1]), k='v')"
    assert repr(Task(str.upper, "x")) == "Task(str.upper, 'x')"


def test_equality() -> None:
    assert Ref("a") == Ref("a") != Ref("b")
    assert Ref("a") != "a"
    assert len({Ref("a"), Ref("a"), Ref("b")}) == 2
    assert Task(inc, 1, x=A) == Task(inc, 1, x=Ref("a"))
    assert Task(inc, 1) != Task(inc, 2)
    assert Task(inc, 1) != Task(neg, 1)
    assert Task(inc, 1) != Task(inc, 1, x=1)
    assert Task(inc, 1) != (inc, 1)
    assert len({Task(inc, [1]), Task(inc, [1]), Task(inc, [2])}) == 2


@pytest.mark.parametrize("value", [Ref(("a", 1)), Task(add, Ref("a"), [1], key=1, func=2), Task(inc)])
def test_pickling_and_copying(value: object) -> None:
    for twin in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert twin == value
        assert type(twin) is type(value)
        assert repr(twin) == repr(value)


def test_pickling_data() -> None:
    twin = pickle.loads(pickle.dumps(Data([Ref("a")])))
    assert type(twin) is Data
    assert twin.value == [Ref("a")]


@pytest.mark.parametrize("func", ["inc", None, Ref("a"), (inc, 1)])
def test_the_function_must_be_callable(func: Any) -> None:
    with pytest.raises(TypeError, match="the first argument of Task must be callable, not "):
        Task(func, 1)


def test_public_names() -> None:
    assert treadle.Task is treadle.graph.Task is Task
    assert treadle.Ref is treadle.graph.Ref is Ref
    assert treadle.Data is treadle.graph.Data is Data
    for name in treadle.graph.__all__:
        assert name in dir(treadle.graph)
        assert callable(getattr(treadle.graph, name))
    with pytest.raises(AttributeError, match=r"module 'treadle\.graph' has no attribute 'tusk'"):
        treadle.graph.tusk  # noqa: B018
