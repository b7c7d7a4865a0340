"""Benchmark 1: graphs of 20,000 trivial tasks on threads, beside ``dask.threaded.get`` and ``ThreadPoolExecutor``.

The tasks do nothing, so what is measured is overhead: reading the graph, ordering it, running it. The plain executor
knows no graph: it is given each level of one as a ``map``, which is the best that one can do with it by hand.

    python benchmarks/threads.py [number of tasks]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.threaded
from rounds import alternate, banner, geometric_mean, verdict

import treadle.threaded
from treadle.graph import plan

WORKERS = 2
#: Tasks in one layer of the graph with five edges per task.
WIDTH = 200

Case = tuple[dict[Any, Any], Any, Callable[[ThreadPoolExecutor], Any]]


def increment(x: int) -> int:
    return x + 1


def add(x: int, y: int) -> int:
    return x + y


def total(*values: Any) -> int:
    return len(values)


def flat(count: int) -> Case:
    graph: dict[Any, Any] = {("x", i): (increment, i) for i in range(count)}
    graph["end"] = (len, list(graph))
    return graph, "end", lambda pool: len(list(pool.map(increment, range(count))))


def chain(count: int) -> Case:
    graph: dict[Any, Any] = {("x", 0): 0}
    for i in range(1, count + 1):
        graph["x", i] = (increment, ("x", i - 1))

    def by_hand(pool: ThreadPoolExecutor) -> int:
        value = 0
        for _ in range(count):
            value = pool.submit(increment, value).result()
        return value

    return graph, ("x", count), by_hand


def tree(count: int) -> Case:
    graph: dict[Any, Any] = {}
    leaves = 1 << (count.bit_length() - 2)
    level = [("x", 0, i) for i in range(leaves)]
    graph.update((key, (increment, key[2])) for key in level)
    depth = 0
    while len(level) > 1:
        depth += 1
        above = [("x", depth, i) for i in range(len(level) // 2)]
        graph.update((key, (add, level[2 * key[2]], level[2 * key[2] + 1])) for key in above)
        level = above

    def by_hand(pool: ThreadPoolExecutor) -> int:
        values = list(pool.map(increment, range(leaves)))
        while len(values) > 1:
            values = list(pool.map(add, values[::2], values[1::2]))
        return values[0]

    return graph, level[0], by_hand


def layers(count: int) -> Case:
    graph: dict[Any, Any] = {}
    depth = count // WIDTH
    for i in range(WIDTH):
        graph["x", 0, i] = (total, i)
    for layer in range(1, depth):
        for i in range(WIDTH):
            graph["x", layer, i] = (total, *[("x", layer - 1, (i + j) % WIDTH) for j in range(5)])

    def by_hand(pool: ThreadPoolExecutor) -> list[int]:
        values = list(pool.map(total, range(WIDTH)))
        for _ in range(1, depth):
            values = list(pool.map(total, *[values[j:] + values[:j] for j in range(5)]))
        return values

    return graph, [("x", depth - 1, i) for i in range(WIDTH)], by_hand


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    banner(f"{count} trivial tasks on {WORKERS} threads, microseconds per task: median (spread) of 5 rounds", "dask")
    print(f"{'':8}{'treadle':>24}{'dask.threaded':>26}{'ThreadPoolExecutor':>26}   {'x dask':>7} {'x executor':>10}")
    ratios: dict[str, float] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for case in (flat, chain, tree, layers):
            graph, keys, by_hand = case(count)
            tasks = len(graph)
            _check_equal(treadle.threaded.get(graph, keys), dask.threaded.get(graph, keys), by_hand(pool))
            timings = alternate(
                {
                    "treadle": lambda: treadle.threaded.get(graph, keys, num_workers=WORKERS),  # noqa: B023
                    "dask": lambda: dask.threaded.get(graph, keys, num_workers=WORKERS),  # noqa: B023
                    "executor": lambda: by_hand(pool),  # noqa: B023
                }
            )
            ours, theirs, plain = timings["treadle"], timings["dask"], timings["executor"]
            ratios[case.__name__] = theirs.median / ours.median
            print(
                f"{case.__name__:8}{ours.per(tasks):>24}{theirs.per(tasks):>26}{plain.per(tasks):>26}   "
                f"{ratios[case.__name__]:7.1f} {plain.median / ours.median:10.1f}"
            )
    print()
    if (plan.__file__ or "").endswith(".py"):
        verdict("worst ratio to dask, interpreted", min(ratios.values()), 6)
    else:
        verdict("geometric mean of the ratios to dask, compiled", geometric_mean(ratios.values()), 12)
        verdict("worst ratio to dask, compiled", min(ratios.values()), 8)


def _check_equal(ours: Any, theirs: Any, by_hand: Any) -> None:
    if isinstance(ours, list):
        theirs, by_hand = list(theirs), list(by_hand)
    assert ours == theirs == by_hand, "the contestants disagree"


if __name__ == "__main__":
    main()
