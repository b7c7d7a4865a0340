"""Benchmarks 2, 3 and 4: maps, a tree and a merge of trivial tasks on clusters of 2 worker processes of 1 thread.

Beside Treadle: Distributed as it comes and tuned (``worker-saturation: inf``), Ray, and the process pool of
``concurrent.futures``, which knows no graph and is given each level of one as a map. What takes Distributed minutes as
it comes is measured on fewer tasks with it, and said so; all figures are per task.

    python benchmarks/cluster.py [--rounds 5] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cluster_contest import Call, Contest, options, ratio, timing
from cluster_peers import Distributed, Pool, Ray, Treadle, tuned
from rounds import banner, verdict

CONTESTANTS: dict[str, Callable[[], Any]] = {
    "treadle": Treadle,
    "dask": Distributed,
    "dask tuned": tuned,
    "ray": Ray,
    "process pool": Pool,
}


class Case(NamedTuple):
    """One line of the benchmark: what is run, how much of it, and by how much Treadle is to be faster than others."""

    name: str
    method: str
    #: What the method is given; for Distributed as it comes, for all in a quick run.
    size: int
    slow_size: int
    quick_size: int
    targets: dict[str, float]

    def tasks(self, size: int) -> int:
        return {"tree": 2 * size - 1, "merge": size + 1}.get(self.method, size)


CASES = [
    Case("map + wait, 10k", "map_wait", 10_000, 10_000, 2_000, {"dask tuned": 15, "dask": 60}),
    Case("map + wait, 100k", "map_wait", 100_000, 20_000, 5_000, {"dask tuned": 15, "dask": 60}),
    Case("map + gather, 10k", "map_gather", 10_000, 10_000, 2_000, {"dask tuned": 15, "ray": 12}),
    Case("tree-15", "tree", 1 << 14, 1 << 12, 1 << 10, {"dask tuned": 15}),
    Case("merge-10k", "merge", 10_000, 10_000, 2_000, {"dask tuned": 15}),
]


def measure(contest: Contest, case: Case, rounds: int, quick: bool) -> dict[str, list[float]]:
    """Seconds per task of each contestant in each round."""
    sizes = dict.fromkeys(CONTESTANTS, case.quick_size if quick else case.size)
    if not quick:
        sizes["dask"] = case.slow_size
    calls = {name: Call(name, case.method, (size,)) for name, size in sizes.items()}
    seconds = contest.turns(calls, rounds, warmup=0 if case.size == 100_000 else 1)
    return {name: [value / case.tasks(sizes[name]) for value in values] for name, values in seconds.items()}


def report(case: Case, seconds: dict[str, list[float]], quick: bool) -> None:
    print(f"{case.name}{f' (quick: {case.tasks(case.quick_size):,} tasks)' if quick else ''}")
    for name, values in seconds.items():
        line = f"  {name:13}{timing(values).per(1):>30}"
        if name != "treadle":
            line += f"{ratio(values, seconds['treadle']):9.1f} x treadle"
        if name == "dask" and case.slow_size != case.size and not quick:
            line += f"   (measured on {case.tasks(case.slow_size):,} tasks)"
        print(line)
    print(flush=True)


def main() -> None:
    rounds, quick = options(__doc__ or "")
    banner(
        f"Trivial tasks on 2 worker processes of 1 thread: microseconds per task, median (spread) of {rounds} rounds",
        *("distributed", "ray", "msgspec", "uvloop"),
    )
    verdicts = []
    with Contest(CONTESTANTS) as contest:
        for case in CASES:
            seconds = measure(contest, case, rounds, quick)
            report(case, seconds, quick)
            for peer, target in case.targets.items():
                verdicts.append((f"{case.name}, x {peer}", ratio(seconds[peer], seconds["treadle"]), target))
    for what, value, target in verdicts:
        verdict(what, value, target)


if __name__ == "__main__":
    main()
