"""The static order against Dask's: the peak number of live results, and the time to compute the order.

    python benchmarks/order.py [--tasks 100000] [--rounds 5]

Peaks are those of real runs of :class:`treadle.local.run.Run` (nothing is executed), by one worker and, for
information, by four whose tasks all take equally long. Both orders are given the same graph; literals and aliases,
which never run, are not counted. Dask breaks some ties by hash, so its peaks differ a little from run to run unless
PYTHONHASHSEED is set. Times are CPU times, of ``order`` alone, of reading the graph and ordering it, and of
``dask.order.order`` on a graph that is already converted to Dask's own task objects; the rounds of the two alternate.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import statistics
import warnings
from collections.abc import Callable
from importlib.metadata import version
from time import process_time
from typing import Any

from dask._task_spec import convert_legacy_graph
from dask.order import order as dask_order
from order_cases import Graph, array_cases, plain_cases, table_cases, timing_cases

import treadle
from treadle.graph import ordering
from treadle.graph.node import Node
from treadle.graph.ordering import order
from treadle.graph.plan import Plan, read
from treadle.local.run import Run


def outputs(graph: Graph) -> list[Any]:
    """The keys that no other task depends on."""
    used: set[Any] = set()
    for value in convert_legacy_graph(graph).values():
        used.update(value.dependencies)
    return [key for key in graph if key not in used]


def peak(plan: Plan, workers: int) -> int:
    """The peak of live results of a run in which ``workers`` tasks start and end together. Uses the plan up."""
    run = Run(plan)
    garbage: list[Any] = []
    while run.unfinished:
        taken: list[Node] = []
        while len(taken) < workers:
            node = run.take()
            if node is None:
                break
            taken.append(node)
        for node in taken:
            run.settle(node, None, garbage)
    return run.peak


def our_plan(graph: Graph, keys: list[Any]) -> Plan:
    plan = read(graph, keys)
    order(plan)
    return plan


def dask_plan(graph: Graph, keys: list[Any]) -> Plan:
    plan = read(graph, keys)
    ranks: dict[Any, int] = dask_order(convert_legacy_graph(graph))
    plan.nodes.sort(key=lambda node: ranks[node.key])
    for rank, node in enumerate(plan.nodes):
        node.rank = rank
    return plan


def compare_peaks() -> None:
    cases = {name: (graph, outputs(graph)) for name, graph in plain_cases().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases.update(array_cases())
        cases.update(table_cases())
    columns = f"{'ours':>7}{'dask':>7}{'ratio':>7}"
    print(f"{'peak of live results':26}{'tasks':>7}{columns}   4 workers:{columns}")
    alone: dict[str, float] = {}
    four: dict[str, float] = {}
    for name, (graph, keys) in cases.items():
        tasks = len(read(graph, keys).nodes)
        ours, ours4 = (peak(our_plan(graph, keys), workers) for workers in (1, 4))
        theirs, theirs4 = (peak(dask_plan(graph, keys), workers) for workers in (1, 4))
        alone[name] = ours / theirs
        four[name] = ours4 / theirs4
        columns = f"{ours:7}{theirs:7}{alone[name]:7.2f}"
        print(f"{name:26}{tasks:7}{columns}{'':13}{ours4:7}{theirs4:7}{four[name]:7.2f}", flush=True)
    summarize("1 worker", alone)
    summarize("4 workers", four)


def summarize(title: str, ratios: dict[str, float]) -> None:
    worst = max(ratios, key=lambda name: ratios[name])
    lost = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio > 1]
    print(
        f"{title}: {len(ratios)} cases, geometric mean {geometric_mean(list(ratios.values())):.3f}, "
        f"worst {ratios[worst]:.2f} ({worst}); lost: {', '.join(lost) or 'none'}"
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def timed(call: Callable[..., object], *args: object) -> float:
    gc.collect()
    started = process_time()
    call(*args)
    return process_time() - started


def compare_times(tasks: int, rounds: int) -> None:
    print(f"\nCPU microseconds per task, median (lowest to highest) of {rounds} rounds")
    print(f"{'':18}{'tasks':>7}  {'order':22}{'read and order':24}{'dask.order':28}{'dask/order':>12}{'dask/both':>12}")
    ratios: list[float] = []
    both_ratios: list[float] = []
    for name, make in timing_cases(tasks).items():
        graph = make()
        keys = outputs(graph)
        converted = convert_legacy_graph(graph)
        count = len(read(graph, keys).nodes)
        ours: list[float] = []
        both: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            ours.append(timed(order, read(graph, keys)) / count * 1e6)
            both.append(timed(our_plan, graph, keys) / count * 1e6)
            theirs.append(timed(dask_order, converted) / count * 1e6)
        ratios.append(statistics.median(theirs) / statistics.median(ours))
        both_ratios.append(statistics.median(theirs) / statistics.median(both))
        print(
            f"{name:18}{count:7}  {spread(ours):22}{spread(both):24}{spread(theirs):28}"
            f"{ratios[-1]:12.1f}{both_ratios[-1]:12.1f}",
            flush=True,
        )
    print(
        f"dask / order: geometric mean {geometric_mean(ratios):.1f}, least {min(ratios):.1f}; "
        f"dask / (read and order): geometric mean {geometric_mean(both_ratios):.1f}, least {min(both_ratios):.1f}"
    )


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, help="size of the graphs that are timed; 0: time none")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compiled = "interpreted" if ordering.__file__.endswith(".py") else "compiled"
    print(f"treadle {treadle.__version__} ({compiled}), dask {version('dask')}, Python {platform.python_version()}\n")
    compare_peaks()
    if options.tasks:
        compare_times(options.tasks, options.rounds)


if __name__ == "__main__":
    main()
