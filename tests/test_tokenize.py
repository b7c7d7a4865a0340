"""Tokens: equal content gives equal tokens, everywhere, and different content different ones."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from treadle.errors import UserError
from treadle.graph.spec import Ref
from treadle.tokens import TokenizeError, tokenize


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Record:
    name: str
    values: list[int]


@dataclasses.dataclass(frozen=True)
class Frozen:
    __slots__ = ("x",)
    x: int


class Plain:
    def __init__(self, **content: Any) -> None:
        self.__dict__.update(content)

    def method(self) -> None:
        """Does nothing."""


class Hooked:
    def __init__(self, name: str, method: str) -> None:
        self.lock = threading.Lock()
        self.name = name
        self.kind = method


class TreadleHooked(Hooked):
    def __treadle_token__(self) -> Any:
        return self.name


class DaskHooked(Hooked):
    def __dask_tokenize__(self) -> Any:
        return self.name


def top_level(x: int) -> int:
    return x + 1


def adder(amount: Any) -> Callable[[Any], Any]:
    return lambda x: x + amount


def values() -> dict[str, Any]:
    """Values of all kinds, made anew by each call; all their tokens differ."""
    return {
        "none": None,
        "ellipsis": ...,
        "int": 1,
        "float": 1.0,
        "true": True,
        "str": "1",
        "bytes": b"1",
        "bytearray": bytearray(b"1"),
        "memoryview": memoryview(b"1"),
        "complex": 1 + 0j,
        "zero": 0.0,
        "minus zero": -0.0,
        "huge": 10**5000,
        "long": "x" * 10_000,
        "surrogate": "\ud800",
        "list": [1, 2],
        "tuple": (1, 2),
        "set": {1, 2},
        "frozenset": frozenset([1, 2]),
        "nested": [1, [2]],
        "flat": [[1], 2],
        "joined": ["ab", "c"],
        "split": ["a", "bc"],
        "empty list": [],
        "dict": {"a": 1, "b": {3, "x"}},
        "dict of lists": {"a": [1], "b": 2},
        "range": range(3),
        "slice": slice(1, 3),
        "named tuple": Point(1, 2),
        "enum": Colour.RED,
        "other enum": Colour.BLUE,
        "record": Record("a", [1]),
        "other record": Record("a", [2]),
        "frozen": Frozen(1),
        "plain": Plain(a=1),
        "other plain": Plain(a=2),
        "class": Plain,
        "method": Plain(a=1).method,
        "function": top_level,
        "builtin": len,
        "unbound": str.upper,
        "bound builtin": "x".join,
        "partial": functools.partial(top_level, 1),
        "other partial": functools.partial(top_level, 2),
        "closure": adder(1),
        "other closure": adder(2),
        "lambda": lambda x: x * 2,
        "other lambda": lambda x: x * 3,
        "module": os,
        "path": pathlib.Path("/a/b"),
        "date": datetime.date(2020, 1, 1),
        "datetime": datetime.datetime(2020, 1, 1),
        "aware": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        "timedelta": datetime.timedelta(1),
        "decimal": decimal.Decimal("1.0"),
        "ordered": collections.OrderedDict(a=1, b=2),
        "reordered": collections.OrderedDict(b=2, a=1),
        "counter": collections.Counter("aab"),
        "defaultdict": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1, 2]),
        "proxy of another": types.MappingProxyType({"a": 2}),
        "alias": list[int],
        "keys": {"a": 1}.keys(),
        "buffer": pickle.PickleBuffer(b"1"),
        "treadle hook": TreadleHooked("a", "x"),
        "dask hook": DaskHooked("a", "x"),
        "ref": Ref("1"),
        "error": ValueError("x"),
        "wrapped": functools.lru_cache(top_level),
        "staticmethod": staticmethod(top_level),
        "property": property(top_level),
    }


def arrays() -> dict[str, Any]:
    """The same for numpy and pandas."""
    grid = np.arange(6)
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": pd.Categorical(["u", "v"])})
    return {
        "array": grid,
        "shape": grid.reshape(2, 3),
        "other shape": grid.reshape(3, 2),
        "transposed": grid.reshape(2, 3).T,
        "dtype": grid.astype("i4"),
        "byte order": grid.astype(">i8"),
        "strided": np.arange(12)[::2],
        "no dimension": np.array(1),
        "scalar": np.int64(1),
        "other scalar": np.float64(1),
        "object": np.array([1, "a", None], dtype=object),
        "other object": np.array([1, "b", None], dtype=object),
        "text": np.array(["a", "b"]),
        "date": np.array(["2020-01-01"], dtype="M8[D]"),
        "structured": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        "renamed": np.zeros(2, dtype=[("a", "i4"), ("c", "f8")]),
        "no bytes": np.zeros(3, dtype="V0"),
        "masked": np.ma.array([1, 2], mask=[False, True]),
        "a dtype": np.dtype("f8"),
        "ufunc": np.add,
        "other ufunc": np.subtract,
        "generator": np.random.default_rng(1),
        "frame": frame,
        "other frame": frame.assign(a=[1, 3]),
        "other columns": frame.rename(columns={"a": "A"}),
        "series": frame["a"],
        "renamed series": frame["a"].rename("z"),
        "index": pd.Index([1, 2], name="i"),
        "multiindex": pd.MultiIndex.from_product([[1, 2], ["a"]]),
        "timestamp": pd.Timestamp("2020", tz="UTC"),
        "nullable": pd.array([1, None], dtype="Int64"),
    }


@pytest.mark.parametrize("make", [values, arrays])
def test_equal_content_gives_equal_tokens_and_different_content_different_ones(
    make: Callable[[], dict[str, Any]],
) -> None:
    first = {name: tokenize(value) for name, value in make().items()}
    again = {name: tokenize(value) for name, value in make().items()}
    assert first == again
    owners: dict[str, str] = {}
    for name, token in first.items():
        assert owners.setdefault(token, name) == name
        assert len(token) == 32
        assert int(token, 16) >= 0


def test_tokens_are_the_same_in_every_interpreter_run() -> None:
    program = (
        "import json, test_tokenize as t; from treadle.tokens import tokenize; "
        "print(json.dumps({n: tokenize(v) for n, v in (t.values() | t.arrays()).items()}))"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, *[entry for entry in sys.path if entry]])
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0].strip()
    assert printed[0] == printed[1]


def test_the_order_of_insertion_does_not_matter() -> None:
    assert tokenize({"a": 1, "b": 2}) == tokenize({"b": 2, "a": 1})
    assert tokenize({"x", "y", 1}) == tokenize({1, "y", "x"})
    assert tokenize(a=1, b=2) == tokenize(b=2, a=1)
    assert tokenize(Plain(a=1, b=2)) == tokenize(Plain(b=2, a=1))


def test_arguments_are_told_apart() -> None:
    tokens = {
        tokenize(),
        tokenize(1),
        tokenize(1, 2),
        tokenize((1, 2)),
        tokenize(1, b=2),
        tokenize("b", 2),
        tokenize(b=2),
    }
    assert len(tokens) == 7


def test_memory_layout_does_not_matter() -> None:
    grid = np.arange(12).reshape(3, 4)
    assert tokenize(np.asfortranarray(grid)) == tokenize(grid)
    assert tokenize(np.arange(24)[::2].reshape(3, 4)) == tokenize(np.arange(0, 24, 2).reshape(3, 4))
    assert tokenize(memoryview(b"abcd")[::2]) == tokenize(memoryview(b"ac"))


def test_sharing_does_not_matter() -> None:
    part = [1, 2]
    assert tokenize([part, part]) == tokenize([[1, 2], [1, 2]])
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep, deep]  # without a memory this would take 2**60 steps
    assert tokenize(deep) == tokenize(deep)


def test_containers_that_contain_themselves() -> None:
    def ring(*content: Any) -> list[Any]:
        made: list[Any] = list(content)
        made.append({"self": made})
        return made

    assert tokenize(ring(1)) == tokenize(ring(1))
    assert tokenize(ring(1)) != tokenize(ring(2))

    one: list[Any] = []
    two: list[Any] = [one, one]
    one.append(two)
    assert tokenize(one) != tokenize(two)
    assert tokenize(one, two) == tokenize(one, two)


def test_code_counts_and_its_place_does_not() -> None:
    def compiled(source: str) -> Any:
        space: dict[str, Any] = {"__name__": "somewhere"}
        exec(source, space)
        return space["f"]

    assert tokenize(compiled("def f(x): return x + 1")) == tokenize(compiled("\n\n\ndef f(x): return x + 1"))
    assert tokenize(compiled("def f(x): return x + 1")) != tokenize(compiled("def f(x): return x + 2"))
    assert tokenize(compiled("def f(x, y=1): return x")) != tokenize(compiled("def f(x, y=2): return x"))
    assert tokenize(compiled("k = 1\ndef f(): return k")) != tokenize(compiled("k = 2\ndef f(): return k"))
    assert tokenize(compiled("k = 1\ndef f(): return lambda: k")) != tokenize(
        compiled("k = 2\ndef f(): return lambda: k")
    )
    assert tokenize(compiled("def f(n): return f(n - 1)")) == tokenize(compiled("def f(n): return f(n - 1)"))


def test_a_closure_over_a_name_that_has_no_value_yet() -> None:
    def make() -> tuple[str, str]:
        def inner() -> Any:
            return later

        before = tokenize(inner)
        later = 1
        return before, tokenize(inner)

    before, after = make()
    assert before != after


def test_local_classes_are_told_by_their_content() -> None:
    def make(amount: int) -> Any:
        class Local:
            size = amount

            @classmethod
            def build(cls) -> Any:
                return super().__new__(cls)

        return Local

    assert tokenize(make(1)) == tokenize(make(1))
    assert tokenize(make(1)) != tokenize(make(2))
    assert tokenize(make(1)()) != tokenize(make(2)())


def test_what_is_in_main_is_told_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    main: Any = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("def helper(): return 1\ndef f(): return helper()", main.__dict__)
    before = tokenize(main.f)
    exec("def helper(): return 2", main.__dict__)
    assert tokenize(main.f) != before


def test_hooks_decide() -> None:
    assert tokenize(TreadleHooked("a", "x")) == tokenize(TreadleHooked("a", "y"))
    assert tokenize(TreadleHooked("a", "x")) != tokenize(TreadleHooked("b", "x"))
    assert tokenize(DaskHooked("a", "x")) == tokenize(DaskHooked("a", "y"))


@pytest.mark.parametrize(
    ("value", "type_name"), [(threading.Lock(), "lock"), (object(), "object"), ((i for i in "a"), "generator")]
)
def test_what_has_no_content_is_an_error(value: Any, type_name: str) -> None:
    with pytest.raises(TokenizeError, match="__treadle_token__") as caught:
        tokenize([{"a": Plain(part=value)}])
    assert caught.value.type_name == type_name
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, TypeError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)


def test_nesting_without_end_is_an_error() -> None:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    with pytest.raises(TokenizeError, match="nested too deep"):
        tokenize(deep)


def test_big_buffers_are_hashed_in_place() -> None:
    big = np.zeros(1_000_000)
    token = tokenize(big, bytes(1_000_000), "x" * 1_000_000)
    big[-1] = 1
    assert tokenize(big, bytes(1_000_000), "x" * 1_000_000) != token
