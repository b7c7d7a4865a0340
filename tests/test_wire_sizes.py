"""Sizes: near the truth for what is big, quick for whatever it is, and never an error."""

from __future__ import annotations

import array
import sys
import threading
from collections import Counter
from importlib import import_module
from typing import Any, NamedTuple

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.wire.sizes import size_told, sizeof

MB = 1_000_000

pyarrow = import_module("pyarrow")


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


class Sparse:
    """Like a compressed sparse matrix of scipy."""

    def __init__(self) -> None:
        self.nnz = 10
        self.data = numpy.zeros(MB // 16)
        self.indices = numpy.zeros(MB // 8, "i4")
        self.indptr = None


class Pair(NamedTuple):
    name: str
    data: Any


class Lazy(dict[int, bytes]):
    """Counts its items at length, and makes them when they are asked for."""

    def __sizeof__(self) -> int:
        raise AssertionError("it takes too long to look at everything")

    def values(self) -> Any:
        raise AssertionError("nobody has asked for these")


class Rude:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __sizeof__(self) -> int:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        b"x" * MB,
        bytearray(MB),
        "x" * MB,
        memoryview(bytes(MB)),
        array.array("d", [0.0]) * (MB // 8),
        numpy.zeros(MB, "u1"),
        numpy.zeros((1000, 125)),
        [b"x" * 1000] * 1000,
        dict.fromkeys(range(1000), b"x" * 930),
        {"a": {"b": [b"x" * MB]}},
        (numpy.zeros(MB // 16), numpy.zeros(MB // 16)),
        numpy.array(["x" * 1000 + str(number) for number in range(1000)], dtype=object),
        pandas.DataFrame({"x": numpy.zeros(MB // 16), "y": numpy.zeros(MB // 16)}),
        pandas.DataFrame({"x": pandas.Series(["x" * 900 + str(number) for number in range(1000)], dtype=object)}),
        pandas.Series(numpy.zeros(MB // 8)),
        pandas.Index(numpy.zeros(MB // 8)),
        pyarrow.table({"x": numpy.zeros(MB // 8)}),
        pyarrow.array(numpy.zeros(MB // 8)),
        Sparse(),
        Holder(numpy.zeros(MB // 8)),
        Holder({"inner": Holder(b"x" * MB)}),
        Counter({"x" * 930 + str(number): number for number in range(1000)}),
        Lazy(dict.fromkeys(range(1000), b"x" * 930)),
        Lazy({number: b"x" * (MB // 16) if number >= 16 else b"" for number in range(32)}),
        Pair("x", numpy.zeros(MB // 8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_about_a_megabyte(value: Any) -> None:
    assert 0.85 * MB < sizeof(value) < 1.2 * MB


@pytest.mark.parametrize(
    "value",
    [None, 1, 1.5, "x", [], {}, set(), object(), threading.Lock(), int, numpy.ndarray, pandas.DataFrame, sum, sys],
    ids=lambda value: type(value).__name__,
)
def test_small_things_are_small(value: Any) -> None:
    assert 0 < sizeof(value) < 20_000


def test_empty_tables() -> None:
    for value in (pandas.DataFrame(), pandas.Series(dtype=object), numpy.array([], dtype=object)):
        assert 0 <= sizeof(value) < 1000


def test_rude_objects_are_guessed() -> None:
    assert sizeof(Rude()) == sizeof([Rude()] * 3) == 64


def test_endless_structures_end() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    wide = [[[[[0] * 100] * 100] * 100] * 100] * 100
    for value in (loop, deep, wide):
        assert sizeof(value) > 0
    while deep:  # the interpreter itself would take it apart by recursion
        deep = deep[0]


class Negative:
    nbytes = -5


def test_sizes_are_not_negative() -> None:
    assert sizeof(Negative()) == 0


@given(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_value_has_a_size(value: Any) -> None:
    assert sizeof(value) >= sys.getsizeof(value) or sizeof(value) > 0


def test_only_arrays_and_tables_say_it_themselves() -> None:
    for value in (numpy.zeros(MB // 8), pandas.Series(numpy.zeros(MB // 8)), Sparse(), memoryview(bytes(MB))):
        assert MB * 0.9 < size_told(value) < MB * 1.1
    for value in (bytes(MB), [bytes(MB)], Holder(bytes(MB)), numpy.ndarray, pandas.DataFrame, len, Rude()):
        assert size_told(value) == 0
