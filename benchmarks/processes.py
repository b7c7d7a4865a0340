"""Processes: 10,000 trivial tasks, and a chain that hands on 100 MB, beside ``dask.multiprocessing.get``.

Dask starts new processes for each call by default; it is also measured with a pool that it is given and that is warm,
which is the fairest comparison with pools that are kept. The targets are judged by the better of the two.

    python benchmarks/processes.py
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import dask.multiprocessing
import numpy as np
from rounds import alternate, banner, verdict

import treadle.multiprocessing

WORKERS = 2
TASKS = 10_000
#: Elements of the array that the chain hands on: 100 MB of float64.
ELEMENTS = 12_500_000


def increment(x: int) -> int:
    return x + 1


def make(n: int) -> Any:
    return np.ones(n)


def step(x: Any) -> Any:
    return x + 1


def contest(graph: dict[Any, Any], keys: Any, pool: ProcessPoolExecutor, rounds: int) -> tuple[float, float, float]:
    """Median seconds of Treadle, of Dask as it comes, and of Dask with a warm pool."""
    # Dask would fuse the chain into a single task; the hand-over between tasks is what is measured here.
    contestants: dict[str, Callable[[], Any]] = {
        "treadle": lambda: treadle.multiprocessing.get(graph, keys, num_workers=WORKERS),
        "dask": lambda: dask.multiprocessing.get(graph, keys, num_workers=WORKERS, optimize_graph=False),
        "warm": lambda: dask.multiprocessing.get(graph, keys, pool=pool, optimize_graph=False),
    }
    timings = alternate(contestants, rounds)
    for name, timing in timings.items():
        print(f"  {name:8} {timing.median:8.3f} s ({timing.low:.3f}-{timing.high:.3f})")
    return timings["treadle"].median, timings["dask"].median, timings["warm"].median


def main() -> None:
    banner(f"Graphs on {WORKERS} processes: median (spread) of 5 rounds; warm = dask with a kept pool", "dask", "numpy")
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        flat = {("x", i): (increment, i) for i in range(TASKS)}
        print(f"{TASKS} trivial independent tasks")
        ours, cold, warm = contest(flat, list(flat), pool, 5)
        print(f"  {ours / TASKS * 1e6:.1f} us per task; {cold / ours:.1f} x dask, {warm / ours:.1f} x dask warm")
        flat_ratio = min(cold, warm) / ours

        chain: dict[Any, Any] = {"x0": (make, ELEMENTS)}
        for i in range(1, 10):
            chain[f"x{i}"] = (step, f"x{i - 1}")
        print("a chain of ten tasks that hand on a 100 MB array, which the caller gets in the end")
        ours, cold, warm = contest(chain, "x9", pool, 5)
        print(f"  {cold / ours:.1f} x dask, {warm / ours:.1f} x dask warm\n")
    verdict("trivial tasks, ratio to the better of dask's two", flat_ratio, 8)
    verdict("chain of 100 MB arrays, ratio to the better of dask's two", min(cold, warm) / ours, 3)


if __name__ == "__main__":
    main()
