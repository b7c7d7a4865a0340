"""Benchmark 14: how long whole graphs take on a simulated cluster, beside a schedule that knows everything beforehand.

The real scheduler and the real workers' states run on a virtual clock: nothing depends on the speed of this machine.
Each figure is a makespan (from the client's submission until it has its last result) divided by what no schedule can
beat: the longer of the critical path and the work per slot. The schedule to compare with is HEFT with the true
durations, on the same network and without any overhead; Treadle learns mean durations as tasks finish.
Between the two stands what no scheduler that does not know the durations could beat by much: each free thread takes the
next ready task in the same order at once, and moving results takes no time ("greedy").

    python benchmarks/makespan.py [seeds]

Network: 100 us from process to process, 1 GB/s per worker. The scheduler takes 5 us per finished task.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from statistics import median
from typing import NamedTuple

from rounds import banner, geometric_mean, verdict

from treadle.graph.ordering import static_order
from treadle.testing.heft import critical_path, greedy, heft
from treadle.testing.simulation import Costs, Run, SimulatedCluster

LATENCY = 100e-6
BANDWIDTH = 1e9
COSTS = Costs(row=5e-6, submit=2e-6, task=10e-6)
TARGET = 1.05


class Case(NamedTuple):
    """Per key: the dependencies, the seconds, the bytes of the result, and the name of the function."""

    deps: dict[str, list[str]]
    seconds: dict[str, float]
    nbytes: dict[str, int]
    functions: dict[str, str]


class Builder:
    """A graph in the making."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.case = Case({}, {}, {}, {})

    def add(self, function: str, deps: list[str], mean: float, spread: float = 0.3, nbytes: int = 100_000) -> str:
        """One more task, of a duration that is distributed log-normally."""
        return self.add_exactly(function, deps, mean * self.random.lognormvariate(-spread * spread / 2, spread), nbytes)

    def add_exactly(self, function: str, deps: list[str], seconds: float, nbytes: int) -> str:
        key = f"{function}-{len(self.case.deps)}"
        self.case.deps[key] = deps
        self.case.seconds[key] = seconds
        self.case.nbytes[key] = nbytes
        self.case.functions[key] = function
        return key


def tree(slots: int, seed: int, size: int) -> Case:
    """Leaves that are combined two by two."""
    builder = Builder(seed)
    level = [builder.add("leaf", [], 0.05) for _ in range(4 * size * slots)]
    while len(level) > 1:
        level = [builder.add("combine", level[index : index + 2], 0.02) for index in range(0, len(level), 2)]
    return builder.case


def layered(slots: int, seed: int, size: int) -> Case:
    """Layers of random widths; each task uses a few random results of the layer before it."""
    builder = Builder(seed)
    layer = [builder.add("layer-0", [], 0.05) for _ in range(size * slots)]
    for depth in range(1, 12):
        width = builder.random.randint(size * slots // 2, 3 * size * slots // 2)
        layer = [
            builder.add(f"layer-{depth}", builder.random.sample(layer, builder.random.randint(1, 4)), 0.05, 0.5)
            for _ in range(width)
        ]
    return builder.case


def fork_join(slots: int, seed: int, size: int) -> Case:
    """One task, many that use its result, one that uses theirs, and so on."""
    builder = Builder(seed)
    joined = builder.add("join", [], 0.01)
    for _ in range(6):
        forked = [builder.add("fork", [joined], 0.05, nbytes=10_000) for _ in range(size * slots)]
        joined = builder.add("join", forked, 0.01)
    return builder.case


def stencil(slots: int, seed: int, size: int) -> Case:
    """A row of cells, step by step; each cell uses three of the step before it."""
    builder = Builder(seed)
    width = size * slots
    row = [builder.add("cell", [], 0.05, 0.1) for _ in range(width)]
    for _ in range(20):
        row = [builder.add("cell", row[max(0, index - 1) : index + 2], 0.05, 0.1) for index in range(width)]
    return builder.case


def heavy_map(slots: int, seed: int, size: int) -> Case:
    """Independent tasks, a few of which take very long: a Pareto distribution with exponent 1.5, cut at 100 times."""
    builder = Builder(seed)
    for _ in range(20 * size * slots):
        builder.add_exactly("map", [], 0.01 * min(100.0, builder.random.paretovariate(1.5)), 10_000)
    return builder.case


KINDS: list[Callable[[int, int, int], Case]] = [tree, layered, fork_join, stencil, heavy_map]
#: Tasks per slot in one layer: a few, and so many that the end of a layer hardly counts.
SIZES = [8, 32]
#: Workers and threads of each.
CLUSTERS = [(4, 1), (16, 1), (64, 1), (8, 4)]


def submission(case: Case) -> list[str]:
    """The keys in the order in which a client submits them."""
    positions = static_order({key: (len, *deps) for key, deps in case.deps.items()})
    return sorted(case.deps, key=lambda key: positions[key])


def makespan(case: Case, workers: int, nthreads: int) -> float:
    """Seconds that the cluster takes, told the tasks in the order in which a client tells them."""

    def behaviour(key: str, function: str, number: int) -> Run:
        return Run(case.seconds[key], case.nbytes[key])

    cluster = SimulatedCluster(
        workers, nthreads, behaviour=behaviour, latency=LATENCY, bandwidth=BANDWIDTH, costs=COSTS
    )
    client = cluster.add_client()
    used = {dep for deps in case.deps.values() for dep in deps}
    keys = submission(case)
    started = cluster.now
    graph = {key: (case.functions[key], case.deps[key]) for key in keys}
    client.submit(graph, [key for key in keys if key not in used])
    cluster.run_until_done()
    return cluster.now - started


class Figures(NamedTuple):
    """Makespans as multiples of the lower bound."""

    treadle: float
    greedy: float
    heft: float


def measure(case: Case, workers: int, nthreads: int) -> Figures:
    deps, seconds, nbytes, _ = case
    slots = workers * nthreads
    bound = max(critical_path(deps, seconds), sum(seconds.values()) / slots)
    ordered = {key: deps[key] for key in submission(case)}
    known = heft(deps, seconds, slots, lambda key: 2 * LATENCY + nbytes[key] / BANDWIDTH)
    return Figures(makespan(case, workers, nthreads) / bound, greedy(ordered, seconds, slots) / bound, known / bound)


def main(seeds: int) -> None:
    banner("Makespans of graphs on a simulated cluster, as multiples of the lower bound")
    print(f"medians of {seeds} seeds; the ratio is Treadle's to HEFT's")
    print(f"{'graph':<12}{'cluster':>9}{'tasks':>8}{'Treadle':>10}{'greedy':>9}{'HEFT':>9}{'ratio':>8}")
    ratios: list[float] = []
    for kind in KINDS:
        for size in SIZES:
            for workers, nthreads in CLUSTERS:
                cases = [kind(workers * nthreads, seed, size) for seed in range(seeds)]
                found = [measure(case, workers, nthreads) for case in cases]
                ratios += [figures.treadle / figures.heft for figures in found]
                print(
                    f"{kind.__name__:<12}{f'{workers} x {nthreads}':>9}{len(cases[0].deps):>8}"
                    f"{median(figures.treadle for figures in found):>10.3f}"
                    f"{median(figures.greedy for figures in found):>9.3f}"
                    f"{median(figures.heft for figures in found):>9.3f}"
                    f"{geometric_mean(figures.treadle / figures.heft for figures in found):>8.3f}",
                    flush=True,
                )
    print()
    print(f"the worst of {len(ratios)}: {max(ratios):.3f}, the best: {min(ratios):.3f}")
    verdict("makespan, as a multiple of that of HEFT, geometric mean", geometric_mean(ratios), TARGET, at_least=False)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
