"""Delayed values: what can be written with them, and what comes out."""

from __future__ import annotations

import inspect
import math
import operator
import types
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from delayed_parts import SCHEDULERS, gather, identity, inc

from treadle import config
from treadle.deferred import Delayed, compute, delayed
from treadle.errors import GraphError
from treadle.graph.spec import Data, Ref, Task


def never(*args: Any) -> Any:
    raise AssertionError("this task must not run")


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass
class Record:
    a: Any
    b: Any = 0


@dataclass(frozen=True)
class Frozen:
    __slots__ = ("a",)
    a: Any


@dataclass
class Custom:
    a: Any
    late: Any = field(init=False)
    shared: ClassVar[int] = 3

    def __init__(self, other: Any) -> None:
        self.a = other


@dataclass
class Derived:
    a: Any
    extra: InitVar[int] = 0
    b: Any = field(init=False)

    def __post_init__(self, extra: int) -> None:
        self.b = self.a + extra


@pytest.fixture(params=SCHEDULERS, autouse=True)
def scheduler(request: pytest.FixtureRequest) -> Any:
    with config.set(scheduler=request.param):
        yield request.param


# Calls and their arguments.


def test_calls() -> None:
    add = delayed(operator.add)
    assert add(1, 2).compute() == 3
    assert add(add(1, 2), add(3, 4)).compute() == 10
    assert delayed(gather)(1, delayed(2), a=delayed(3), b="x").compute() == ((1, 2), {"a": 3, "b": "x"})
    assert delayed(gather)(func=1, self=2, key=3, name=4, args=(5,)).compute()[1] == {
        "func": 1,
        "self": 2,
        "key": 3,
        "name": 4,
        "args": (5,),
    }


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: [d, [d], 3], [1, [1], 3]),
        (lambda d: (d, (d,), 3), (1, (1,), 3)),
        (lambda d: {d, 3}, {1, 3}),
        (lambda d: frozenset([d]), frozenset([1])),
        (lambda d: {"a": d, "b": [d]}, {"a": 1, "b": [1]}),
        (lambda d: {d: "a", (d, 2): d}, {1: "a", (1, 2): 1}),
        (lambda d: slice(d, None, d), slice(1, None, 1)),
        (lambda d: Pair(d, [d]), Pair(1, [1])),
        (lambda d: Record(d, {"x": d}), Record(1, {"x": 1})),
        (lambda d: Frozen(d), Frozen(1)),
        (lambda d: [Record(Pair(slice(d), 2))], [Record(Pair(slice(1), 2))]),
        (lambda d: iter([d, 2]), [1, 2]),
        (lambda d: iter((d, 2)), (1, 2)),
        (lambda d: iter({d}), {1}),
    ],
)
def test_containers_of_delayed_values(make: Callable[[Any], Any], expected: Any) -> None:
    one = delayed(1)
    for result in (
        delayed(identity)(make(one)).compute(),
        delayed(gather)(x=make(one)).compute()[1]["x"],
        delayed(make(one)).compute(),
        compute(make(one), 5)[0],
        delayed(identity, pure=True)(make(one)).compute(),
    ):
        assert result == expected
        assert type(result) is type(expected)


def test_dataclasses_that_cannot_be_made_anew_by_calling_them() -> None:
    made = delayed(identity)(Custom(delayed(1))).compute()
    assert made.a == 1
    assert not hasattr(made, "late")
    derived = delayed(identity)(Derived(delayed(1), 5)).compute()
    assert (derived.a, derived.b) == (1, 6)


def test_a_dataclass_in_a_task_leaves_the_delayed_values_behind() -> None:
    original = Record(delayed(1), [2])
    call = delayed(identity)(original)
    text = repr(call.graph())
    assert "Delayed" not in text
    assert isinstance(original.a, Delayed)


@pytest.mark.parametrize(
    "value",
    [
        [1, [2]],
        (1, (2,)),
        {"a": [1]},
        {1},
        frozenset([1]),
        slice(1),
        Pair(1, 2),
        Record(1),
        Frozen(1),
        Custom(1),
        object(),
    ],
)
def test_values_without_delayed_ones_are_passed_as_they_are(value: Any) -> None:
    assert delayed(identity)(value).compute() is value
    assert delayed(value).compute() is value
    assert compute(value, delayed(1))[0] is value
    assert compute(value) == (value,)


def test_iterators_are_not_used_up() -> None:
    numbers = iter([1, 2])
    call = delayed(sum)(numbers)
    assert call.compute() == 3
    assert call.compute() == 3
    assert compute(numbers, delayed(1))[0] is numbers
    assert list(numbers) == [1, 2]


def test_strings_that_equal_a_key_are_no_dependencies() -> None:
    x = delayed(inc)(1, treadle_key="x")
    assert delayed(gather)(x, "x", ["x", x]).compute()[0] == (2, "x", ["x", 2])
    assert delayed("x").compute() == "x"
    assert compute(x, "x", ["x"]) == (2, "x", ["x"])


@pytest.mark.parametrize("value", [Ref("x"), Task(inc, 1), Data(1), (inc, 1), [Ref("x")]])
def test_values_that_look_like_parts_of_a_graph_are_values(value: Any) -> None:
    result = delayed(identity)(value).compute()
    assert repr(result) == repr(value)
    assert repr(delayed(value).compute()) == repr(value)
    assert compute(value)[0] is value
    assert repr(delayed(identity)([delayed(1), value]).compute()) == repr([1, value])


def test_containers_without_end_are_an_error() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(GraphError, match="traverse=False"):
        delayed(identity)(ring)
    with pytest.raises(GraphError, match="traverse=False"):
        compute(ring)
    assert delayed(identity)(delayed(ring, traverse=False)).compute() is ring


def test_traverse_false() -> None:
    part = delayed(never)()
    for value in ([part, 1], (never, part), {"a": part}):
        assert delayed(value, traverse=False).compute() is value
        assert compute(value, traverse=False)[0] is value
    assert delayed(delayed(1), traverse=False).compute() == 1
    assert compute(delayed(1), [2], traverse=False) == (1, [2])


# Values, attributes, operators.


def test_values() -> None:
    a = delayed([1, 2, 3])
    assert isinstance(a, Delayed)
    assert a.compute() == [1, 2, 3]
    assert delayed(a) is a
    assert delayed(None).compute() is None
    assert delayed(inc).compute() is inc
    assert delayed(identity)(delayed(inc)).compute() is inc


def test_attributes_and_methods() -> None:
    assert delayed(2 + 1j).real.compute() == 2.0
    text = delayed("a b c d e")
    assert text.split(" ").compute() == ["a", "b", "c", "d", "e"]
    assert text.upper().replace("B", "A").split().count("A").compute() == 2
    assert text.split(sep=delayed("c"), maxsplit=1).compute() == ["a b ", " d e"]
    assert text.split(" ", dask_key_name="test").key == "test"
    assert len(text.upper().graph()) == 2  # the method is not a task of its own
    upper = text.upper
    assert delayed(identity)(upper).compute()() == "A B C D E"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        text.nothing_like_it().compute()


def test_results_can_be_called() -> None:
    make = delayed(partial)(operator.add, 10)
    assert make(5).compute() == 15
    assert delayed({"f": gather})["f"](1, x=delayed(2)).compute() == ((1,), {"x": 2})

    class Callable_:
        size = 3

        def __call__(self) -> int:
            return 2

    thing = Callable_()
    wrapped = delayed(thing)
    assert wrapped.compute() is thing
    assert wrapped.size.compute() == 3
    assert wrapped().compute() == 2


BINARY: list[Callable[[Any, Any], Any]] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.and_,
    operator.or_,
    operator.xor,
    operator.lshift,
    operator.rshift,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    divmod,
]
UNARY: list[Callable[[Any], Any]] = [
    operator.neg,
    operator.pos,
    operator.invert,
    abs,
    round,
    math.floor,
    math.ceil,
    math.trunc,
]


@pytest.mark.parametrize("op", BINARY)
def test_binary_operators(op: Callable[[Any, Any], Any]) -> None:
    expected = op(7, 2)
    seven, two = delayed(7), delayed(2)
    assert compute(op(seven, 2), op(7, two), op(seven, two)) == (expected, expected, expected)
    assert type(op(seven, 2).compute()) is type(expected)


@pytest.mark.parametrize("op", UNARY)
def test_unary_operators(op: Callable[[Any], Any]) -> None:
    assert op(delayed(-7)).compute() == op(-7)


def test_other_operators() -> None:
    assert round(delayed(1.234), 2).compute() == 1.23
    assert pow(delayed(3), 4, 5).compute() == 1
    assert (np.eye(2) @ delayed(np.ones(2))).compute().tolist() == [1, 1]
    assert (delayed(np.eye(2)) @ np.ones(2)).compute().tolist() == [1, 1]
    quotient, rest = divmod(delayed(7), 2)
    assert compute(quotient, rest) == (3, 1)
    items = delayed([1, 2, 3])
    assert items[0].compute() == 1
    assert items[: delayed(2)].compute() == [1, 2]
    assert delayed({"a": 5})[delayed("a")].compute() == 5
    assert delayed(np.arange(6).reshape(2, 3))[1, 1:].compute().tolist() == [4, 5]
    total = delayed(1)
    total += 1
    assert total.compute() == 2
    assert (delayed(10**5000) + 10**5000).compute() == 2 * 10**5000


def test_arrays_leave_operators_to_delayed_values() -> None:
    result = np.arange(3) + delayed(1)
    assert isinstance(result, Delayed)
    assert result.compute().tolist() == [1, 2, 3]
    assert (np.arange(3) == delayed(1)).compute().tolist() == [False, True, False]
    with pytest.raises((TypeError, ValueError)):
        np.dtype(delayed(1))  # type: ignore[arg-type]
    assert delayed(np.ones(1)).dtype.compute() == np.dtype("f8")
    assert np.asarray(delayed(1), dtype=object).shape == ()


def test_equal_operations_are_one_task() -> None:
    a = delayed([1, 2, 3])
    assert (a[0] + a[0]).key == (a[0] + a[0]).key
    assert len((a[0] + a[0]).graph()) == 3
    assert a.index.key == a.index.key
    assert a[1 : delayed(2, name="two")].key == a[1 : delayed(2, name="two")].key
    keys = [x.key for x in (a + 1, a + 1.0, a + True, a + "1", a + b"1", 1 + a, a - 1, a[1], a[(1,)], a[1:], a + None)]
    assert len(set(keys)) == len(keys)
    assert (a + "x").key != (a + delayed(0, name="x")).key
    assert (a + "Ref('x')").key != (a + delayed(0, name="x")).key
    assert operator.add(a, [1]).key != operator.add(a, [1]).key  # what a list holds may be long


# Number of outputs.


def test_nout() -> None:
    pair = delayed(lambda x: (x, -x), nout=2)(1)
    assert len(pair) == 2
    a, b = pair
    assert compute(a, b, pair) == (1, -1, (1, -1))
    assert [x.compute() for x in reversed(pair)] == [-1, 1]
    assert pair[-1].compute() == -1
    with pytest.raises(TypeError, match="nout"):
        len(a)
    with pytest.raises(TypeError, match="nout"):
        iter(a)
    (only,) = delayed(lambda x: (x,), nout=1)(1)
    assert only.compute() == 1
    assert list(delayed(tuple, nout=0)()) == []


@pytest.mark.parametrize("value", [[1, 2], (1, 2), (inc, 1, 2), [], (), [delayed(1), 2]])
def test_nout_of_values(value: Any) -> None:
    wrapped = delayed(value, nout=len(value))
    assert len(wrapped) == len(value)
    assert compute(*wrapped) == tuple(compute(value)[0])


@pytest.mark.parametrize("nout", [-1, True, 1.0, "2"])
def test_nout_must_be_a_number(nout: Any) -> None:
    with pytest.raises(ValueError, match="nout must be"):
        delayed(inc, nout=nout)


# Decorators.


def test_decorators() -> None:
    @delayed
    def double(x: int) -> int:
        """Twice as much."""
        return 2 * x

    @delayed(pure=True)
    def pure(x: int) -> int:
        return x

    @delayed(nout=2)
    def pair(x: int) -> tuple[int, int]:
        return x, -x

    assert double(2).compute() == 4
    assert pure(1).key == pure(1).key
    a, b = pair(1)
    assert (a + b).compute() == 0
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice as much."
    assert double.__qualname__.endswith("<locals>.double")
    assert double.__annotations__ == {"x": "int", "return": "int"}
    assert double.__wrapped__(3) == 6
    assert str(inspect.signature(double)) == "(x: 'int') -> 'int'"
    for attribute in ("__name__", "__wrapped__"):
        with pytest.raises(AttributeError):
            getattr(delayed(1), attribute)
    assert Delayed.__doc__ is not None
    assert delayed(1).__doc__ == Delayed.__doc__


def test_decorated_methods() -> None:
    class A:
        base = 10
        value = delayed(1)

        def __init__(self, base: int) -> None:
            self.base = base

        @delayed
        def method(self, x: Any, y: Any) -> Any:
            return self.base + x + y

        @classmethod
        @delayed
        def of_class(cls, x: Any, y: Any) -> Any:
            return cls.base + x + y

        @staticmethod
        @delayed
        def static(x: Any, y: Any) -> Any:
            return x + y

    a: Any = A(100)
    assert a.method(3, y=delayed(4)).compute() == 107
    assert A.method(a, 3, 4).compute() == 107
    assert a.of_class(3, 4).compute() == A.of_class(3, 4).compute() == 17
    assert a.static(3, 4).compute() == A.static(3, 4).compute() == 7
    assert isinstance(a.method, types.MethodType)
    assert isinstance(A.static, Delayed)
    assert a.value.compute() == 1


def test_a_pure_function_may_use_what_is_defined_below_it() -> None:
    space: dict[str, Any] = {"delayed": delayed, "__name__": "__main__"}
    exec("@delayed(pure=True)\ndef down(n): return helper(n) if n else down.key\ndef helper(n): return n * 2\n", space)
    assert space["down"](3).compute() == 6
    assert space["down"](3).key == space["down"](3).key


# What a delayed value refuses.


def test_truth_is_refused() -> None:
    x = delayed(1)
    uses: list[Callable[[], Any]] = [
        lambda: bool(x),
        lambda: not x,
        lambda: x and 1,
        lambda: 1 if x > 0 else 2,
        lambda: 0 < x < 2,
    ]
    for use in uses:
        with pytest.raises(TypeError, match=r"if, while, and, or, not. Call .compute\(\) first"):
            use()


def test_changes_are_refused() -> None:
    x: Any = delayed([1])
    changes: list[Callable[[], Any]] = [
        lambda: setattr(x, "a", 1),
        lambda: setattr(x, "_key", 1),
        lambda: setattr(x, "key", 1),
        lambda: delattr(x, "key"),
        lambda: operator.setitem(x, 0, 1),
        lambda: operator.delitem(x, 0),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="immutable"):
            change()
    assert x.compute() == [1]


def test_membership_and_iteration_are_refused() -> None:
    x = delayed([1])
    with pytest.raises(TypeError, match=r"operator\.contains"):
        1 in x  # noqa: B015
    with pytest.raises(TypeError, match="cannot be iterated"):
        list(x)
    with pytest.raises(TypeError, match="cannot be iterated"):
        sum(x)


def test_private_attributes_are_refused() -> None:
    for x in (delayed(1), delayed(inc), delayed(inc)(1), delayed(1).real):
        for name in (
            "_hidden",
            "_ipython_display_",
            "__array__",
            "__dask_graph__",
            "__len",
            "__index__",
        ):
            assert not hasattr(x, name)
    with pytest.raises(AttributeError, match=r"delayed\(getattr\)\(x, '_private'\)"):
        getattr(delayed(1), "_private")  # noqa: B009
    for number in (int, float):
        with pytest.raises(TypeError, match=r"Delayed\('x'\) is not a number"):
            number(delayed(1, name="x"))


def test_hash_and_dir() -> None:
    a, b = delayed(1), delayed(1)
    assert hash(a) == hash(a.key)
    assert {a: "a", b: "b"}[b] == "b"
    assert {"compute", "key", "visualize"} <= set(dir(a))
    assert f"{a}" == repr(a)
