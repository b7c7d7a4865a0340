"""Conformance: what a run returns, for graphs of every form."""

from __future__ import annotations

import fractions
from collections.abc import Callable
from typing import Any

import pytest

import treadle
from treadle.errors import CycleError, GraphError, InvalidKeyError, MissingDependencyError, MissingKeyError
from treadle.graph.spec import Data, Ref, Task
from treadle.testing.tasks import Pair, add, called_with, count_down, inc, mul, same, total

__all__ = ["ResultsConformance"]

#: Graph, keys, results.
Case = tuple[dict[Any, Any], Any, Any]

PLAIN: dict[str, Case] = {
    "task": ({"x": (inc, 1)}, "x", 2),
    "no arguments": ({"x": (list,)}, "x", []),
    "chain": ({"x": 1, "y": (inc, "x"), "z": (inc, "y")}, "z", 3),
    "diamond": ({"a": 1, "b": (inc, "a"), "c": (inc, "a"), "d": (add, "b", "c")}, "d", 4),
    "one result twice": ({"a": (inc, 0), "b": (add, "a", "a")}, "b", 2),
    "literal": ({"x": 1}, "x", 1),
    "literal None": ({"x": None, "y": (same, "x")}, ["x", "y"], [None, None]),
    "literal list": ({"x": [1, 2]}, "x", [1, 2]),
    "alias": ({"a": (inc, 1), "b": "a", "c": (inc, "b")}, ["b", "c"], [2, 3]),
    "alias of an alias": ({"a": 1, "b": "a", "c": "b"}, "c", 1),
    "list": ({"a": (inc, 0), "b": (inc, 1), "c": (total, ["a", "b", 3])}, "c", 6),
    "list as a value": ({"a": (inc, 0), "b": ["a", "a", 5]}, "b", [1, 1, 5]),
    "list in a list": ({"a": (inc, 0), "b": (same, [["a"], [], ["a", [2]]])}, "b", [[1], [], [1, [2]]]),
    "tuple": ({"a": (inc, 0), "b": (same, ("a", 2))}, "b", (1, 2)),
    "empty tuple": ({"b": (same, ())}, "b", ()),
    "dict": ({"a": (inc, 0), "b": (same, {"a": "a", "n": ["a"]})}, "b", {"a": 1, "n": [1]}),
    "set": ({"a": (inc, 0), "b": (same, {"a", 7})}, "b", {1, 7}),
    "frozenset": ({"a": (inc, 0), "b": (same, frozenset(["a"]))}, "b", frozenset([1])),
    "named tuple": ({"a": (inc, 0), "b": (same, Pair("a", ["a"]))}, "b", Pair(1, [1])),
    "nested task": ({"a": (inc, 0), "b": (add, (inc, "a"), (mul, 3, (inc, (inc, "a"))))}, "b", 11),
    "task in a list": ({"a": (inc, 0), "b": (total, ["a", (inc, "a")])}, "b", 3),
    "nested without keys": ({"b": (add, (inc, 1), (inc, 2))}, "b", 5),
    "tuple keys": ({("x", 0): (inc, 0), ("x", 1): (inc, ("x", 0))}, ("x", 1), 2),
    "other keys": ({1: (inc, 0), 2.5: (inc, 1), b"k": (add, 1, 2.5)}, [1, 2.5, b"k"], [1, 2, 3]),
    "strings that are no keys": ({"x": (add, "a", "b")}, "x", "ab"),
    "functions as values": ({"f": inc, "x": (same, inc)}, ["f", "x"], [inc, inc]),
    "exceptions as values": ({"x": (type, (ValueError, "no error"))}, "x", ValueError),
    "result is a task": ({"x": (same, Data((inc, 1)))}, "x", (inc, 1)),
}

EXPLICIT: dict[str, Case] = {
    "task": ({"x": Task(inc, 1)}, "x", 2),
    "reference": ({"x": Task(inc, 1), "y": Task(inc, Ref("x"))}, "y", 3),
    "alias": ({"x": Task(inc, 1), "y": Ref("x")}, "y", 2),
    "text equal to a key": ({"x": Task(inc, 1), "y": Task(same, "x")}, "y", "x"),
    "keywords": (
        {"x": Task(inc, 1), "y": Task(called_with, Ref("x"), a=Ref("x"), b=[Ref("x")], c="x")},
        "y",
        ((2,), {"a": 2, "b": [2], "c": "x"}),
    ),
    "containers": (
        {"x": Task(inc, 1), "y": Task(same, [(Ref("x"), {"k": Ref("x")}), {Ref("x")}, Pair(Ref("x"), 0)])},
        "y",
        [(2, {"k": 2}), {2}, Pair(2, 0)],
    ),
    "nested task": ({"x": Task(inc, 1), "y": Task(add, Task(inc, Ref("x")), Task(called_with, k=1))}, "x", 2),
    "nested keywords": ({"y": Task(same, Task(called_with, 1, k=Task(inc, 1)))}, "y", ((1,), {"k": 2})),
    "quoted": ({"x": Task(inc, 1), "y": Task(same, Data([Ref("x")]))}, "y", [Ref("x")]),
    "quoted value": ({"x": Data((inc, 1))}, "x", (inc, 1)),
    "mixed with plain": ({"x": (inc, 1), "y": Task(inc, Ref("x")), "z": (add, "x", Ref("y"))}, "z", 5),
}

INVALID: list[tuple[dict[Any, Any], Any, type[Exception]]] = [
    ({}, "x", MissingKeyError),
    ({"x": 1}, ["x", ["y"]], MissingKeyError),
    ({"x": Task(inc, Ref("y"))}, "x", MissingDependencyError),
    ({"x": (inc, "y"), "y": (inc, "x")}, "x", CycleError),
    ({"x": "y", "y": "x"}, "x", CycleError),
    ({"x": 1}, {"x"}, InvalidKeyError),
    ({"x": 1}, None, InvalidKeyError),
]


class ResultsConformance:
    """Graphs and their results."""

    @pytest.mark.parametrize("name", PLAIN)
    def test_plain_form(self, get: Callable[..., Any], name: str) -> None:
        graph, keys, expected = PLAIN[name]
        assert get(graph, keys) == expected

    @pytest.mark.parametrize("name", EXPLICIT)
    def test_explicit_form(self, get: Callable[..., Any], name: str) -> None:
        graph, keys, expected = EXPLICIT[name]
        assert get(graph, keys) == expected

    @pytest.mark.parametrize("case", INVALID, ids=lambda case: case[2].__name__)
    def test_invalid_graphs(self, get: Callable[..., Any], case: tuple[Any, Any, type[Exception]]) -> None:
        graph, keys, error = case
        with pytest.raises(error) as caught:
            get(graph, keys)
        assert isinstance(caught.value, GraphError)

    def test_results_have_the_shape_of_the_keys(self, get: Callable[..., Any]) -> None:
        graph = {"a": (inc, 0), "b": (inc, "a"), "c": 3}
        assert get(graph, ["a", ["b", ["c", "a"]], [], [["b"]]]) == [1, [2, [3, 1]], [], [[2]]]

    def test_a_key_asked_twice(self, get: Callable[..., Any]) -> None:
        assert get({"a": (inc, 0), "b": "a"}, ["a", "a", ["a", "b"]]) == [1, 1, [1, 1]]

    def test_no_keys(self, get: Callable[..., Any]) -> None:
        assert get({"a": (inc, 0)}, []) == []
        assert get({}, []) == []
        assert get({}, [[], [[]]]) == [[], [[]]]

    def test_the_graph_is_not_changed(self, get: Callable[..., Any]) -> None:
        graph = {"a": (inc, 0), "b": (total, ["a", "a"]), "c": Task(same, Ref("b"))}
        before = dict(graph)
        assert get(graph, "c") == get(graph, "c") == 2
        assert graph == before

    def test_what_is_not_asked_for_is_not_run(self, get: Callable[..., Any]) -> None:
        assert get({"a": (inc, 0), "b": (inc, "no number"), "c": (inc, "b")}, "a") == 1

    def test_closures_and_lambdas(self, get: Callable[..., Any]) -> None:
        offset = 10

        class Local:
            def __init__(self, value: int) -> None:
                self.value = value

        def shift(value: int) -> int:
            return value + offset

        graph = {"a": (shift, 1), "b": (lambda x: x * offset, "a"), "c": (Local, "b"), "d": (lambda x: x.value, "c")}
        assert get(graph, ["b", "d"]) == [110, 110]
        assert get(graph, "c").value == 110

    def test_results_of_many_kinds(self, get: Callable[..., Any]) -> None:
        values: dict[str, Any] = {
            "none": None,
            "bytes": b"\0" * 10,
            "mixed": {"a": [1, (2.5, {3}), "x"], ("k", 1): Pair(1, None)},
            "fraction": fractions.Fraction(1, 3),
            "type": fractions.Fraction,
            "not implemented": NotImplemented,
            "text": "é\ud800\0",
        }
        graph = {name: Task(same, Data(value)) for name, value in values.items()}
        again = {f"again {name}": Task(same, Ref(name)) for name in values}
        assert get({**graph, **again}, list(again)) == list(values.values())

    def test_big_results(self, get: Callable[..., Any]) -> None:
        graph: dict[str, Any] = {
            "a": (bytes, 3_000_000),
            "b": (len, "a"),
            "c": (bytearray, "a"),
            "d": (mul, "ab", 10**6),
        }
        a, b, c, d = get(graph, ["a", "b", "c", "d"])
        assert (len(a), b, len(c), len(d)) == (3_000_000, 3_000_000, 3_000_000, 2_000_000)
        c[0] = 1
        assert a[0] == 0

    @pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
    def test_arrays(self, get: Callable[..., Any], size: int) -> None:
        """From a few bytes to more than fit a socket's buffer; a literal and a result as an input."""
        import numpy

        literal = numpy.arange(size) % 1000.0  # whose sums are exact, however many threads add up
        graph = {
            "x": literal,
            "y": (numpy.add, "x", 1),
            "z": (numpy.dot, "y", "x"),
            "both": (numpy.stack, ["x", "y"]),
            "part": (lambda y: y[::-2], "y"),
        }
        y, z, both, part = get(graph, ["y", "z", "both", "part"])
        assert numpy.array_equal(y, literal + 1)
        assert z == numpy.dot(literal + 1, literal)
        assert numpy.array_equal(both, [literal, literal + 1])
        assert numpy.array_equal(part, (literal + 1)[::-2])
        assert y.flags.writeable
        y[:] = 0
        assert get(graph, "y")[1] == 2

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_arguments_are_writable(self, get: Callable[..., Any], size: int) -> None:
        import numpy

        def change(array: Any) -> Any:
            array[0] = 5
            return array.flags.writeable, array.sum()

        graph = {"x": (numpy.zeros, size), "changed": (change, "x")}
        assert get(graph, "changed") == (True, 5)

    def test_ten_thousand_tasks_side_by_side(self, get: Callable[..., Any]) -> None:
        graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(10_000)}
        graph["sum"] = (total, list(graph))
        assert get(graph, "sum") == 50_005_000
        assert get(graph, [("x", i) for i in range(10_000)]) == list(range(1, 10_001))

    def test_ten_thousand_tasks_in_a_chain(self, get: Callable[..., Any]) -> None:
        graph: dict[Any, Any] = {("x", i): (inc, ("x", i - 1)) for i in range(1, 10_001)}
        graph["x", 0] = 0
        assert get(graph, ("x", 10_000)) == 10_000

    def test_ten_thousand_tasks_in_a_tree(self, get: Callable[..., Any]) -> None:
        graph: dict[Any, Any] = {(0, i): (inc, i) for i in range(8192)}
        for level in range(1, 14):
            graph.update({(level, i): (add, (level - 1, 2 * i), (level - 1, 2 * i + 1)) for i in range(8192 >> level)})
        assert get(graph, (13, 0)) == 8192 * 8193 // 2

    @pytest.mark.parametrize("scheduler", [None, "sync", "threads", "processes"])
    def test_a_task_may_run_a_graph(self, get: Callable[..., Any], scheduler: str | None) -> None:
        assert get({"a": (count_down, 20, scheduler), "b": (inc, "a")}, "b") == 21

    @pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
    def test_many_tasks_may_run_graphs_at_once(self, get: Callable[..., Any], scheduler: str) -> None:
        graph: dict[Any, Any] = {("x", i): (count_down, 3, scheduler) for i in range(8)}
        graph["sum"] = (total, list(graph))
        with treadle.config.set(scheduler=scheduler):
            assert get(graph, "sum") == 24
