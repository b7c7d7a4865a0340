"""The functions that the benchmarks' tasks call: worker processes import them from here."""

from __future__ import annotations

from typing import Any


def increment(x: int) -> int:
    return x + 1


def add(x: int, y: int) -> int:
    return x + y


class Counter:
    """An actor."""

    def __init__(self) -> None:
        self.n = 0

    def increment(self, by: int) -> int:
        self.n += by
        return self.n

    def ends(self, array: Any) -> float:
        return ends(array)


class AsyncCounter:
    """An actor whose method is a coroutine function."""

    def __init__(self) -> None:
        self.n = 0

    async def increment(self, by: int) -> int:
        self.n += by
        return self.n


def count(values: list[int]) -> int:
    return len(values)


def count_all(*values: int) -> int:
    return len(values)


def ones(length: int) -> Any:
    """An array of ``length`` float64 ones, whose pages are all touched."""
    import numpy as np  # here, so that workers which only count need not import it

    return np.ones(length)


def ends(array: Any) -> float:
    """Touches the array at both ends and returns something small."""
    return float(array[0] + array[-1])
