"""Fused tasks of Dask of the same shape share their steps."""

from __future__ import annotations

import operator
import pickle
import random
from collections.abc import Callable
from importlib import import_module
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import TaskNotSerializableError
from treadle.graph import fused
from treadle.graph.fused import Steps, run_fused
from treadle.graph.node import Node
from treadle.graph.plan import Plan, read
from treadle.graph.shapes import Shapes

spec: Any = import_module("dask._task_spec")
da: Any = import_module("dask.array")
db: Any = import_module("dask.bag")


def told(*args: Any, **kwargs: Any) -> str:
    """A short text that depends on all that can be seen of the arguments."""
    return f"told {crc32(repr((args, sorted(kwargs.items()))).encode())}"


def also(*args: Any) -> str:
    return f"also {args!r}"


def extend(values: list[Any], more: Any) -> list[Any]:
    """Changes its argument."""
    values.append(more)
    return values


def block(number: int, *literals: Any, func: Callable[..., Any] = told) -> Any:
    """A fused task as Dask makes it for each partition: two tasks, and an input."""
    first = spec.Task(("first", number), func, spec.TaskRef(("in", number)), *literals)
    second = spec.Task(("second", number), told, spec.TaskRef(("first", number)), 7, word=spec.List(0, *literals))
    return spec.Task.fuse(first, second)


def shared(shapes: Shapes, task: Any) -> tuple[Steps, list[Any]]:
    return shapes.read(*task.args[:3])


def ran(made: tuple[Steps, list[Any]], value: Any) -> Any:
    steps, rest = made
    return run_fused(pickle.loads(pickle.dumps(steps)), value, *rest)


def dasks(task: Any, value: Any) -> Any:
    return fused.dasks_own()(*task.args[:3], value)  # type: ignore[operator]


def test_blocks_that_differ_in_keys_share_all() -> None:
    shapes = Shapes()
    made = [shared(shapes, block(number, "x", (1, 2), None)) for number in range(5)]
    assert len({id(steps) for steps, _ in made}) == 1
    assert all(rest == [] for _, rest in made)
    assert ran(made[4], "value") == dasks(block(4, "x", (1, 2), None), "value")


def test_what_differs_is_an_input() -> None:
    shapes = Shapes()
    blocks = [block(number, number // 2, "x") for number in range(6)]
    made = [shared(shapes, each) for each in blocks]
    assert len({id(steps) for steps, _ in made}) == 2  # of the first two, and of all others
    assert [rest for _, rest in made] == [[], [], [1, 1], [1, 1], [2, 2], [2, 2]]
    for each, task in zip(made, blocks):
        assert ran(each, "value") == dasks(task, "value")


@pytest.mark.parametrize(
    "pair",
    [(1, True), (0.0, -0.0), (1, 1.0), ("1", b"1"), ((1,), (True,)), (operator.add, operator.sub), (int, float)],
    ids=repr,
)
def test_literals_that_are_almost_equal_are_told_apart(pair: tuple[Any, Any]) -> None:
    shapes = Shapes()
    for number, literal in enumerate([*pair, *pair]):
        assert ran(shared(shapes, block(number, literal)), 0) == dasks(block(number, literal), 0)


def test_what_can_be_changed_is_not_shared() -> None:
    shapes = Shapes()
    literal = [1]
    blocks = [block(number, literal, func=extend) for number in range(3)]
    steps, rest = shared(shapes, blocks[0])
    assert rest == [[1], [1]]
    assert shared(shapes, blocks[1])[0] is steps
    for _ in range(2):
        assert run_fused(steps, [], *pickle.loads(pickle.dumps(rest))) == dasks(block(0, [1], func=extend), [])


def test_other_functions_and_shapes_share_nothing() -> None:
    shapes = Shapes()
    blocks = [
        block(0, 1),
        block(0, 1, func=also),
        block(0, 1, 2),
        block(0, spec.TaskRef(("in", 0))),
        block(0, spec.Tuple(1, 2)),
        block(0, spec.List(1, 2)),
        block(0, spec.Dict({"a": 1})),
    ]
    made = [shared(shapes, each) for each in blocks]
    assert len({id(steps) for steps, _ in made}) == len(blocks)
    for each, task in zip(made, blocks):
        assert ran(each, "value") == dasks(task, "value")


def test_what_is_not_known_is_as_dask_wrote_it() -> None:
    shapes = Shapes()
    odd = [
        block(1, spec.Set(1, 2)),
        spec.Task.fuse(spec.DataNode("a", spec.TaskRef("b")), spec.Task("c", told, spec.TaskRef("a"))),
    ]
    for task in odd:
        steps, rest = shared(shapes, task)
        assert rest == []
        assert shared(shapes, task)[0] is not steps
        assert ran((steps, rest), 3) == dasks(task, 3)


literals = st.sampled_from(
    [0, 1, 2, True, 0.0, -0.0, "a", "b", None, (1, "a"), (1, "b"), [1], {"a": 2}, told, also, int]
)


def wrapped(make: random.Random, literal: Any, key: Any) -> Any:
    """An argument with a literal in it."""
    kind = make.randrange(6)
    if kind == 0:
        return spec.List(literal, spec.TaskRef(key), literal)
    if kind == 1:
        return spec.Tuple(spec.DataNode(None, literal))
    if kind == 2:
        return spec.Dict({"key": literal, "other": spec.TaskRef(key)})
    if kind == 3:
        return spec.Task(None, told, spec.Alias(key), word=literal)
    return literal


def chain(seed: int, values: list[Any], name: str, depth: int = 0) -> Any:
    """A fused task whose shape depends on ``seed`` alone."""
    make = random.Random(seed)
    before: Any = "in"
    tasks: list[Any] = []
    for number in range(make.randint(2, 4)):
        key = (f"{name}{depth}", number)
        literal = values[(number + depth) % len(values)]
        if depth < 2 and make.random() < 0.3:
            inner = chain(seed + number + 1, values, f"{name}in", depth + 1)
            tasks.append(spec.Task(key, inner.func, *inner.args[:3], spec.TaskRef(before)))
        elif number and make.random() < 0.2:
            tasks.append(spec.Alias(key, before))
        else:
            tasks.append(spec.Task(key, told, spec.TaskRef(before), wrapped(make, literal, before), 5, word=literal))
        before = key
    return spec.Task(before, fused.dasks_own(), {each.key: each for each in tasks}, before, ("in",), spec.TaskRef("in"))


@given(st.integers(0, 50), st.lists(st.lists(literals, min_size=3, max_size=3), min_size=1, max_size=4))
def test_steps_are_right_whoever_shares_them(seed: int, blocks: list[list[Any]]) -> None:
    shapes = Shapes()
    for number, values in enumerate([*blocks, blocks[0]]):
        task = chain(seed, values, f"name{number}")
        assert ran(shared(shapes, task), "value") == dasks(task, "value")


def test_the_graph_of_a_collection_shares_a_few() -> None:
    def plan_of(collection: Any) -> Plan:
        keys = collection.__dask_keys__()
        return read(dict(collection.__dask_optimize__(collection.__dask_graph__(), keys)), keys)

    def steps_of(nodes: list[Node]) -> list[Any]:
        return [node.args[0] for node in nodes if node.func is run_fused]

    x = da.ones((100, 100), chunks=10)
    for collection, most in [
        (((x + 1) * 2).sum(), 4),
        (db.range(1000, npartitions=100).map(told).map(len).filter(bool).sum(), 3),
    ]:
        found = steps_of(plan_of(collection).nodes)
        assert len(found) >= 100
        assert len({id(steps) for steps in found}) <= most


def test_steps_that_come_as_bytes_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_kept", {})
    read_ones: list[bytes] = []
    loads = pickle.loads

    def counting(data: bytes) -> Any:
        read_ones.append(data)
        return loads(data)

    monkeypatch.setattr(pickle, "loads", counting)
    packed = pickle.dumps(Steps({"out": spec.Task("out", told, spec.TaskRef("in"))}, "out", ["in"]))
    assert run_fused(packed, 1) == run_fused(bytes(bytearray(packed)), 1) == told(1)
    assert len(read_ones) == 1
    for number in range(3 * fused._KEPT):
        run_fused(pickle.dumps(Steps({"out": spec.DataNode("out", number)}, "out", [])))
        assert len(fused._kept) <= fused._KEPT


def test_whoever_cannot_be_pickled_is_named(client: Any) -> None:
    import threading

    lock = threading.Lock()
    tasks = {number: block(number, lock) for number in range(2)}
    graph = {**{("in", number): number for number in tasks}, **{task.key: task for task in tasks.values()}}
    with pytest.raises(TaskNotSerializableError, match=r"'second', 0"):
        client.get(graph, [task.key for task in tasks.values()])
