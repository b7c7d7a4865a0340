"""The programs of benchmark 9, written with Dask's collections, and the contestants that compute them.

Both contestants run the very same program: what differs is whose client is open. A program's seconds are those from
its first line to its value, so Dask's own part (making the graph and optimizing it) is on both bills. Every run
has values of its own, so that nobody is served from a cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from importlib import import_module
from time import process_time
from typing import Any, Final, NamedTuple

import psutil
from cluster_peers import WORKERS, Distributed, Stopwatch, Treadle

#: Rows of one partition of the tiny dataframes and bags.
ROWS: Final = 20

__all__ = ["WORKERS", "OnDistributed", "OnTreadle", "Program", "Spent", "in_one_process", "on_tuned", "verify"]


class Program(NamedTuple):
    """A collection that is not computed yet, and how its value is checked."""

    collection: Any
    expected: float
    #: What of the value has to be as expected.
    total: Callable[[Any], float] = float


# Arrays. The argument ``size`` is the number of chunks along each side, ``serial`` makes every run different.


def array_sum(size: int, serial: int, length: int = 10) -> Program:
    """Each chunk is added to its mirror image, and all is summed up: 4.3 tasks per chunk."""
    da: Any = import_module("dask.array")

    x = da.full((size * length, size * length), serial + 1.0, chunks=length)
    return Program((x + x.T).sum(), 2.0 * (serial + 1) * (size * length) ** 2)


def array_sum_big(size: int, serial: int) -> Program:
    """The same of chunks of 8 MB, with a transcendental function of each element."""
    da: Any = import_module("dask.array")

    length = 1000
    x = da.full((size * length, size * length), float(serial), chunks=length)
    return Program((da.cos(x) ** 2 + da.sin(x.T) ** 2).sum(), (size * length) ** 2)


def product_big(size: int, serial: int) -> Program:
    """A matrix product of chunks of 8 MB."""
    da: Any = import_module("dask.array")

    length = 1000
    x = da.full((size * length, size * length), serial + 1.0, chunks=length)
    return Program((x @ x).sum(), (serial + 1.0) ** 2 * (size * length) ** 3)


def rechunk(size: int, serial: int, length: int = 10) -> Program:
    """From rows to columns: each new chunk needs a piece of every old one."""
    da: Any = import_module("dask.array")

    side = size * length
    x = da.full((side, side), serial + 1.0, chunks=(length, side))
    return Program(x.rechunk((side, length)).sum(), (serial + 1.0) * side**2)


def rechunk_big(size: int, serial: int) -> Program:
    """The same of rows of chunks of about 8 MB, of whose elements something is computed before and after."""
    da: Any = import_module("dask.array")

    length = 1000 // math.isqrt(size)
    x = da.full((size * length, size * length), float(serial), chunks=(length, size * length))
    y = da.log(da.exp(da.sin(x)) * da.exp(1 - da.sin(x)))
    return Program(da.sqrt(y.rechunk((size * length, length)) ** 2).sum(), (size * length) ** 2)


# Dataframes. The argument ``size`` is the number of partitions.


def part(number: int, rows: int, serial: int) -> Any:
    """One partition: ``key`` goes round 0 to 99, ``value`` is 1 everywhere."""
    import numpy as np
    import pandas as pd

    numbers = np.arange(number * rows, (number + 1) * rows)
    return pd.DataFrame({"key": (numbers * 7 + serial) % 100, "value": np.ones(rows), "other": numbers * 0.5})


def frame(size: int, serial: int, rows: int) -> Any:
    dd: Any = import_module("dask.dataframe")

    return dd.from_map(part, range(size), rows=rows, serial=serial, meta=part(0, 1, 0))


def groupby(size: int, serial: int, rows: int = ROWS) -> Program:
    """Group by a key, and add up within each group."""
    table = frame(size, serial, rows).groupby("key").agg({"value": "sum", "other": "mean"}, split_out=1)
    return Program(table, size * rows, lambda value: float(value["value"].sum()))


def groupby_spread(size: int, serial: int) -> Program:
    """The same with the groups spread over several partitions, as Dask does it unless it is told otherwise."""
    table = frame(size, serial, ROWS).groupby("key").agg({"value": "sum", "other": "mean"})
    return Program(table, size * ROWS, lambda value: float(value["value"].sum()))


def groupby_big(size: int, serial: int) -> Program:
    """The same of partitions of a million rows (24 MB)."""
    return groupby(size, serial, 1_000_000)


def shuffle(size: int, serial: int, rows: int = ROWS) -> Program:
    """Rows with the same key come into the same partition."""
    return Program(frame(size, serial, rows).shuffle("key").map_partitions(len).sum(), size * rows)


def shuffle_big(size: int, serial: int) -> Program:
    """The same of partitions of 500,000 rows (12 MB)."""
    return shuffle(size, serial, 500_000)


# Bags. The argument ``size`` is the number of partitions.


def words(number: int, rows: int, serial: int) -> list[str]:
    return [f"word{(number + row * 31) % 97}-{serial}" for row in range(rows)]


def frequencies(size: int, serial: int, rows: int = ROWS) -> Program:
    """How often each word occurs."""
    db: Any = import_module("dask.bag")

    partitions = db.from_sequence(range(size), npartitions=size)
    counted = partitions.map(words, rows=rows, serial=serial).flatten().frequencies()
    return Program(counted.pluck(1).sum(), size * rows)


def frequencies_big(size: int, serial: int) -> Program:
    """The same of partitions of 400,000 words."""
    return frequencies(size, serial, 400_000)


# Contestants


def timed(program: Callable[..., Program], size: int, serial: int, **settings: Any) -> float:
    """Seconds of a program from its first line to its value.

    :param settings: of Dask's configuration, with ``__`` in the place of dots.
    :raises RuntimeError: its value is wrong.
    """
    config: Any = import_module("dask.config")
    with config.set(**settings), Stopwatch() as watch:
        made = program(size, serial)
        value = made.collection.compute()
    verify(program, made, value)
    return watch.seconds


def verify(program: Callable[..., Program], made: Program, value: Any) -> None:
    """:raises RuntimeError: the value of a program is wrong."""
    if not math.isclose(made.total(value), made.expected, rel_tol=1e-9):
        raise RuntimeError(f"{program.__name__}: got {made.total(value)} instead of {made.expected}")


def in_one_process(program: Callable[..., Program], size: int, **settings: Any) -> float:
    """CPU seconds of its tasks one after another, in this process, without those that it takes Dask to make them."""
    dask: Any = import_module("dask")
    seconds = 0.0

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        nonlocal seconds
        tasks = dict(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
        started = process_time()
        value = dask.get(tasks, keys)
        seconds = process_time() - started
        return value

    timed(program, 1, 0, scheduler="sync")  # what is imported, is
    timed(program, size, 0, scheduler=get, dataframe__shuffle__method="tasks", **settings)
    return seconds


class Spent(NamedTuple):
    """What one run of a program took."""

    seconds: float
    #: Of this process and all that it has started: much less than ``seconds`` depends on who else uses the machine.
    cpu_seconds: float


class Computer:
    """What the contestants have in common."""

    numbers: Iterator[int]

    def run(self, program: Callable[..., Program], size: int, settings: dict[str, Any]) -> Spent:
        """What a program takes from its first line to its value."""
        before = _cpu_seconds()
        seconds = timed(program, size, next(self.numbers), **settings)
        return Spent(seconds, _cpu_seconds() - before)


def _cpu_seconds() -> float:
    main = psutil.Process()
    times = [each.cpu_times() for each in [main, *main.children(recursive=True)]]
    return sum([float(each.user + each.system) for each in times])


class OnTreadle(Computer, Treadle):
    """Treadle's client is the default one, as it is when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)


class OnDistributed(Computer, Distributed):
    """Distributed's client is the default one."""

    def __init__(self, saturation: float | None = None) -> None:
        super().__init__(saturation)
        self.numbers = itertools.count(1)


def on_tuned() -> OnDistributed:
    return OnDistributed(math.inf)
