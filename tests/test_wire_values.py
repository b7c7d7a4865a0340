"""Values and calls: what comes back is what went, and what cannot go is named."""

from __future__ import annotations

import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import TaskNotSerializableError
from treadle.graph import Ref, Task
from treadle.graph.ordering import order
from treadle.graph.plan import read
from treadle.testing.tasks import inc, total
from treadle.wire.values import (
    APART,
    PICKLED,
    Slot,
    dump_parts,
    find_bulky,
    find_dependencies,
    load_parts,
    pack_call,
    pack_value,
    unpack_call,
    unpack_value,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=2 * APART)
)
others = (
    st.integers(2**64, 2**70)
    | st.just("\ud800")
    | st.complex_numbers(allow_nan=False)
    | st.lists(scalars, max_size=3)
    | st.tuples(scalars, scalars)
    | st.dictionaries(st.text(), scalars, max_size=3)
    | st.frozensets(st.integers(), max_size=3)
)


class Text(str):
    """A type of its own."""


# Values


@given(scalars)
def test_scalars_are_packed_without_pickle(value: Any) -> None:
    packed = pack_value(value)
    assert packed[0] != PICKLED
    for again in (unpack_value(packed), msgspec.msgpack.decode(packed), load_parts(copied(dump_parts(value)))):
        assert again == value
        assert type(again) is type(value)


@given(others)
def test_everything_else_is_pickled(value: Any) -> None:
    packed = pack_value(value)
    assert packed[0] == PICKLED
    for again in (unpack_value(packed), pickle.loads(packed), load_parts(copied(dump_parts(value)))):
        assert again == value
        assert type(again) is type(value)


def copied(parts: list[Any]) -> list[memoryview]:
    """Parts of a value as they are received."""
    return [memoryview(bytearray(part)) for part in parts]


@pytest.mark.parametrize("value", [float("nan"), -0.0, float("inf"), True, 1, 1.0, Text("x"), numpy.float64(1), {}, []])
def test_types_are_kept(value: Any) -> None:
    again = unpack_value(pack_value(value))
    assert type(again) is type(value)
    assert again == value or math.isnan(value)
    assert str(again) == str(value)


def test_the_empty_map_is_told_from_a_pickle() -> None:
    assert unpack_value(b"\xde\x00\x00") == {}


def test_functions_without_a_module_travel_by_value() -> None:
    assert unpack_value(pack_value(lambda: 42))() == 42


@pytest.mark.parametrize("value", [{"a": threading.Lock()}, threading.Lock()])
def test_what_cannot_be_pickled_raises_what_pickle_raises(value: Any) -> None:
    for pack in (pack_value, dump_parts):
        with pytest.raises(TypeError, match="cannot pickle"):
            pack(value)


def test_big_buffers_travel_beside_the_pickle_uncopied() -> None:
    array = numpy.zeros(APART, "u1")
    head, buffer = dump_parts({"big": array, "small": numpy.zeros(10)})
    assert len(head) < 1000
    array[:] = 7
    assert bytes(buffer) == b"\x07" * APART
    received = copied([head, buffer])
    again = load_parts(received)
    again["big"][0] = 8
    again["small"][0] = 8
    assert received[1][0] == 8


def test_big_bytes_travel_beside_the_pickle_uncopied() -> None:
    value = bytes(range(256)) * 1000
    head, buffer = dump_parts(value)
    assert isinstance(buffer, memoryview)
    assert buffer.obj is value
    again = load_parts(copied([head, buffer]))
    assert again == value
    assert type(again) is bytes


def test_arrays_of_all_orders_and_frames() -> None:
    array = numpy.arange(10_000.0).reshape(100, 100)
    for value in (
        array,
        array.T,
        array[::2, ::3],
        numpy.asfortranarray(array),
        numpy.broadcast_to(array, (2, 100, 100)),
    ):
        again = load_parts(copied(dump_parts(value)))
        assert (again == value).all()
    frame = pandas.DataFrame({"x": range(5000), "y": ["text"] * 5000})
    pandas.testing.assert_frame_equal(load_parts(copied(dump_parts(frame))), frame)


def test_buffers_are_not_sent_twice_when_pickle_gives_up_halfway() -> None:
    array = numpy.zeros(APART)
    again = load_parts(copied(dump_parts([array, lambda: 1])))
    assert len(dump_parts([array, lambda: 1])) == 2
    assert (again[0] == array).all()


# Calls


class Promise:
    """Stands for the value of a task, as nodes and futures do; cannot be pickled by itself."""

    def __reduce__(self) -> Any:
        raise AssertionError("a promise was pickled")


A, B, C = Promise(), Promise(), Promise()
VALUES: dict[Promise, Any] = {A: "value of a", B: [1, 2], C: None}


def through(args: list[Any], kwargs: dict[str, Any] | None = None) -> tuple[list[Any], dict[str, Any] | None]:
    """The arguments of a call as they arrive."""
    deps = find_dependencies(args, kwargs, Promise)
    return unpack_call(pack_call("key", args, kwargs, deps), [VALUES[dep] for dep in deps])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], []),
        ([A], [VALUES[A]]),
        ([B, A], [VALUES[B], VALUES[A]]),
        ([A, A], [VALUES[A], VALUES[A]]),
        ([A, 1, "x", b"y", None, 2.5], [VALUES[A], 1, "x", b"y", None, 2.5]),
        ([1, 2], [1, 2]),
        ([[A, 1], [[B], []]], [[VALUES[A], 1], [[VALUES[B]], []]]),
        ([[1, 2, 3], ["x", None]], [[1, 2, 3], ["x", None]]),
        ([[[[[[A]]]]]], [[[[[[VALUES[A]]]]]]]),
        ([(A, 1), {"k": B}], [(VALUES[A], 1), {"k": VALUES[B]}]),
        ([{C: A}], [{None: VALUES[A]}]),
        ([{A, C}, frozenset([C])], [{VALUES[A], None}, frozenset([None])]),
        ([2**64, A], [2**64, VALUES[A]]),
        (["\ud800", A], ["\ud800", VALUES[A]]),
        ([True, 1.0, Text("t"), A], [True, 1.0, Text("t"), VALUES[A]]),
    ],
)
def test_the_values_of_dependencies_are_put_in_place(args: list[Any], expected: list[Any]) -> None:
    arrived, kwargs = through(args)
    assert arrived == expected
    assert [type(arg) for arg in arrived] == [type(arg) for arg in expected]
    assert kwargs is None


def test_keyword_arguments() -> None:
    assert through([A, 1], {"x": B, "y": [C, 2]}) == ([VALUES[A], 1], {"x": VALUES[B], "y": [None, 2]})
    assert through([], {"x": 1}) == ([], {"x": 1})
    assert through([1], {}) == ([1], None)


def test_the_value_itself_is_put_in_place() -> None:
    value = object()
    for args in ([Slot(0)], [Slot(0), 1], [[Slot(0)]], [{"x": Slot(0)}]):
        [arrived, *_], _ = unpack_call(pack_call("key", args), [value])
        assert arrived is value or value in (arrived if isinstance(arrived, list) else arrived.values())


@pytest.mark.parametrize("count", [0, 1, 8, 9, 255, 256, 257, 65_536, 65_537])
def test_any_number_of_dependencies(count: int) -> None:
    promises = [Promise() for _ in range(count)]
    values = list(range(count))
    for args, expected in (
        (promises, values),
        ([promises], [values]),
        (promises[::-1], values[::-1]),
        ([tuple(promises)], [tuple(values)]),
    ):
        assert unpack_call(pack_call("key", args, None, promises), values) == (expected, None)


@pytest.mark.parametrize(
    ("args", "kwargs", "deps", "payload"),
    [
        ((A,), None, [A], b"\x91\xd4\x01\x00"),
        ((B, A), None, [A, B], b"\x92\xd4\x01\x01\xd4\x01\x00"),
        ((1, "x"), None, [], b"\x92\x01\xa1x"),
        (([A, 2],), {}, [A], b"\x91\x92\xd4\x01\x00\x02"),
        ((Slot(300),), None, [], b"\x91\xd5\x01\x2c\x01"),
        ((Slot(70_000),), None, [], b"\x91\xd6\x01\x70\x11\x01\x00"),
    ],
)
def test_the_bytes_of_simple_payloads(args: Any, kwargs: Any, deps: list[Any], payload: bytes) -> None:
    assert pack_call("key", args, kwargs, deps) == payload


def test_an_unknown_extension_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown type 9"):
        unpack_call(b"\x91\xd4\x09\x00", [])


def test_threads_read_payloads_at_once() -> None:
    payload = pack_call("key", [{"x": Slot(0)}, Slot(0)])
    started = threading.Barrier(4)

    def read_some(number: int) -> bool:
        started.wait()
        return all(unpack_call(payload, [number]) == ([{"x": number}, number], None) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read_some, range(4)))


class Nested:
    """Reads a payload of its own while it is unpickled."""

    def __reduce__(self) -> Any:
        return unpack_call, (pack_call("inner", [{"y": Slot(0)}]), ["inner"])


def test_reading_a_payload_within_another() -> None:
    args, _ = unpack_call(pack_call("key", [(Nested(), Slot(0))]), ["outer"])
    assert args == [(([{"y": "inner"}], None), "outer")]


def test_futures_are_found_in_containers_that_contain_themselves() -> None:
    loop: list[Any] = [A]
    loop.append(loop)
    words: dict[str, Any] = {"b": B}
    words["self"] = words
    assert set(find_dependencies([loop, 1, "x"], {"w": words, "c": (C,)}, Promise)) == {A, B, C}
    assert find_dependencies([1, [2, "x"], {"k": 3}], None, Promise) == []


def test_what_is_bulky() -> None:
    array, frame, text, items = numpy.zeros(100), pandas.DataFrame({"x": range(100)}), "x" * 800, [b"y" * 80] * 10
    deep = {"deep": [A, (array,)]}
    args = [array, text, deep, Text(text), numpy.zeros(99), len, inc]
    found = find_bulky(args, {"word": items, "frame": [frame, A]}, [A], 800)
    assert [type(value) for value in found] == [str, list, numpy.ndarray, pandas.DataFrame]
    assert all(any(value is one for value in found) for one in (array, frame, text, items))
    assert find_bulky([[A, text], A], None, [A], 800) == []
    assert find_bulky([numpy.zeros(10), 5], None, [], 800) == []
    payload = pack_call("key", [deep, array, A], {"word": Slot(1)}, [A, array])
    assert len(payload) < 800
    assert unpack_call(payload, [1, 2])[0] == [{"deep": [1, (2,)]}, 2, 1]


# Calls of graphs


def test_the_nodes_of_a_graph_are_dependencies() -> None:
    graph: dict[object, object] = {
        "a": (inc, 1),
        "b": (inc, "a"),
        "c": (total, ["a", "b", 3]),
        "d": (total, [(inc, "c"), "a"]),
        "e": Task(max, Ref("a"), Ref("b"), key=abs),
        "f": {"x": "a", "y": ["d", "e"]},
        "g": (len, ("three", "little", "literals")),
        "h": (str.join, ",", ["x", "y"]),
    }
    plan = read(graph, list(graph))
    order(plan)
    values: dict[object, Any] = {}
    for node in sorted(plan.nodes, key=lambda node: node.rank):
        payload = pack_call(node.key, node.args, node.kwargs, node.deps, node.nested)
        args, kwargs = unpack_call(payload, [values[dep.key] for dep in node.deps])
        values[node.key] = node.func(*args, **kwargs or {}) if node.func else args[0]
    assert [values[key] for key in "abcdefgh"] == [2, 3, 8, 11, 3, {"x": 2, "y": [11, 3]}, 3, "x,y"]


# What cannot travel


@pytest.mark.parametrize(
    ("args", "kwargs", "part"),
    [
        ([1, threading.Lock()], None, "its argument 2 (a lock)"),
        ([A, [threading.Lock()]], None, "its argument 2 (a list)"),
        ([A], {"x": 1, "y": threading.Lock()}, "its argument 'y' (a lock)"),
    ],
)
def test_the_argument_that_cannot_be_pickled_is_named(args: Any, kwargs: Any, part: str) -> None:
    with pytest.raises(TaskNotSerializableError) as caught:
        pack_call("the key", args, kwargs, [A])
    assert caught.value.key == "the key"
    assert caught.value.part == part
    assert caught.value.reason == "TypeError: cannot pickle '_thread.lock' object"


class Moody:
    """Can be pickled alone, and not in company."""

    count = 0

    def __reduce__(self) -> Any:
        type(self).count += 1
        if type(self).count <= 2:
            raise ValueError("not now")
        return Moody, ()


def test_when_nobody_is_to_blame_the_reason_is_still_given() -> None:
    with pytest.raises(
        TaskNotSerializableError, match=r"one of its arguments cannot be pickled \(ValueError: not now\)"
    ):
        pack_call("key", [Moody()])
