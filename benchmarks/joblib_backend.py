"""``joblib.Parallel`` on a local cluster beside loky, joblib's own processes: short and long tasks, a shared array.

Both have the same number of processes, which are warm and kept between the rounds.

    python benchmarks/joblib_backend.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from rounds import Timing, alternate, banner, verdict

import treadle

joblib: Any = import_module("joblib")

WORKERS = 2
#: Elements of the array that all tasks of one case are given: 50 MB of float64.
ELEMENTS = 6_250_000


class Case(NamedTuple):
    title: str
    tasks: int
    call: Callable[[int], tuple[Any, ...]]
    #: Whether it is short of nothing but time on the workers, so that Treadle is to be no slower.
    judged: bool


def increment(x: int) -> int:
    return x + 1


def compute(seconds: float) -> None:
    """Occupy the processor, as tasks do."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def pick(array: Any, index: int) -> float:
    return float(array[index])


def cases(quick: bool) -> Iterator[Case]:
    share = 5 if quick else 1
    array = np.arange(float(ELEMENTS))
    yield Case("trivial tasks", 20_000 // share, lambda i: (increment, (i,), {}), False)
    yield Case("tasks that sleep 10 ms", 200 // share, lambda i: (time.sleep, (0.01,), {}), True)
    yield Case("tasks that sleep 50 ms", 50 // share, lambda i: (time.sleep, (0.05,), {}), True)
    yield Case("tasks that compute 10 ms", 200 // share, lambda i: (compute, (0.01,), {}), True)
    yield Case("tasks that compute 50 ms", 50 // share, lambda i: (compute, (0.05,), {}), True)
    yield Case("tasks that read of the same 50 MB", 200 // share, lambda i: (pick, (array, i), {}), False)


def contest(case: Case, rounds: int) -> float:
    """How many times as fast as loky Treadle is."""

    def run(backend: str) -> None:
        with joblib.parallel_config(backend=backend, n_jobs=WORKERS):
            done = joblib.Parallel()(case.call(index) for index in range(case.tasks))
        assert len(done) == case.tasks

    timings = alternate({"treadle": lambda: run("treadle"), "loky": lambda: run("loky")}, rounds)
    print(f"{case.tasks} {case.title}")
    for name, timing in timings.items():
        _print(name, timing)
    ratio = timings["loky"].median / timings["treadle"].median
    print(f"  {ratio:.2f} x loky")
    return ratio


def _print(name: str, timing: Timing) -> None:
    print(f"  {name:8} {timing.median:8.3f} s ({timing.low:.3f}-{timing.high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description="joblib's backends beside one another")
    parser.add_argument("--quick", action="store_true", help="a fifth of the tasks, and three rounds")
    quick = parser.parse_args().quick
    rounds = 3 if quick else 5
    banner(f"joblib on {WORKERS} processes: median (spread) of {rounds} rounds", "joblib", "numpy")
    ratios: dict[str, float] = {}
    with treadle.LocalCluster(WORKERS, 1) as cluster, treadle.Client(cluster):
        for case in cases(quick):
            ratio = contest(case, rounds)
            if case.judged:
                ratios[case.title] = ratio
    print()
    for title, ratio in ratios.items():
        verdict(f"{title}, ratio to loky", ratio, 1)


if __name__ == "__main__":
    main()
