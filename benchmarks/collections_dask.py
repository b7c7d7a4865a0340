"""Benchmark 9: Dask's collections through Treadle and through Distributed, on 2 worker processes of 1 thread.

The very same programs run with either client open. Distributed comes as it is, and tuned (``worker-saturation: inf``).
To shuffle and to rechunk, Distributed has a way of its own (P2P), and takes it where Dask decides that it is better;
``by tasks`` has it make tasks as Treadle does. How long the tasks of a program take one after another in one process
is printed as well: half of that is what no scheduler can undercut with two workers. CPU seconds, of all processes of
a contestant, are printed too, because they depend less on who else uses the machine.

    python benchmarks/collections_dask.py [--rounds 5] [--quick] [--full] [--only WORD]

``--full`` adds the array of 40,000 chunks, whose graph has 173,364 tasks, to be run once: Distributed takes minutes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import collection_programs as programs
from cluster_contest import Call, Contest, ratio, timing
from collection_programs import WORKERS, OnDistributed, OnTreadle, Program, Spent, in_one_process, on_tuned
from rounds import banner, verdict

CONTESTANTS: Final[dict[str, Callable[[], Any]]] = {
    "treadle": OnTreadle,
    "dask": OnDistributed,
    "dask tuned": on_tuned,
}

#: How many times as fast as tuned Distributed: on graphs of tiny tasks, and of big ones.
TINY: Final = 8.0
BIG: Final = 1.0

_BY_TASKS: Final = {"dataframe__shuffle__method": "tasks", "array__rechunk__method": "tasks"}


class Case(NamedTuple):
    """One part of the report."""

    name: str
    program: Callable[..., Program]
    size: int
    quick_size: int
    target: float
    settings: dict[str, Any] = {}  # noqa: RUF012


CASES: Final = [
    Case("array, (x + x.T).sum(), chunks of 800 bytes", programs.array_sum, 40, 20, TINY),
    Case("rechunk, rows to columns", programs.rechunk, 60, 30, TINY),
    Case("rechunk, rows to columns, by tasks", programs.rechunk, 60, 30, TINY, _BY_TASKS),
    Case("bag, frequencies", programs.frequencies, 1000, 300, TINY),
    Case("dataframe, groupby-aggregate", programs.groupby, 300, 100, TINY),
    Case("dataframe, groupby-aggregate, groups spread", programs.groupby_spread, 50, 20, TINY),
    Case("dataframe, shuffle", programs.shuffle, 30, 15, TINY),
    Case("dataframe, shuffle, by tasks", programs.shuffle, 30, 15, TINY, _BY_TASKS),
    Case("big array, (x + x.T).sum(), chunks of 8 MB", programs.array_sum_big, 8, 4, BIG),
    Case("big matrix product", programs.product_big, 4, 3, BIG),
    Case("big rechunk", programs.rechunk_big, 25, 16, BIG),
    Case("big bag, frequencies", programs.frequencies_big, 8, 4, BIG),
    Case("big dataframe, groupby-aggregate", programs.groupby_big, 16, 4, BIG),
    Case("big dataframe, shuffle", programs.shuffle_big, 12, 4, BIG),
    Case("big dataframe, shuffle, by tasks", programs.shuffle_big, 12, 4, BIG, _BY_TASKS),
]

FULL: Final = Case("array, (x + x.T).sum(), 40,000 chunks", programs.array_sum, 200, 200, TINY)


def report(case: Case, size: int, spent: dict[str, list[Spent]], alone: float) -> float:
    """Print one case. Returns how many times as long tuned Distributed took."""
    print(f"{case.name} (size {size})")
    ours = spent["treadle"]
    factor = 0.0
    for name, values in spent.items():
        cpu = statistics.median([each.cpu_seconds for each in values])
        line = f"  {name:13}{timing([each.seconds for each in values]).per(1, 1.0):>30}{cpu:9.2f} CPU"
        if values is not ours:
            factor = ratio([each.seconds for each in values], [each.seconds for each in ours])
            used = ratio([each.cpu_seconds for each in values], [each.cpu_seconds for each in ours])
            line += f"{factor:9.2f} x treadle, CPU {used:.2f} x"
        print(line)
    print(f"  {'alone / 2':13}{alone / WORKERS:9.2f}\n", flush=True)
    return factor


def run(contest: Contest, case: Case, size: int, rounds: int, warmup: int) -> float:
    """Measure and report one case. Returns how many times as long tuned Distributed took."""
    call = ("run", (case.program, size, case.settings))
    spent = contest.turns({name: Call(name, *call) for name in CONTESTANTS}, rounds, warmup)
    return report(case, size, spent, in_one_process(case.program, size))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds count (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of less, to see that all works")
    parser.add_argument("--full", action="store_true", help="also the array of 40,000 chunks, once")
    parser.add_argument("--only", default="", metavar="WORD", help="only the cases with this in their names")
    asked = parser.parse_args(arguments)
    rounds = 2 if asked.quick else asked.rounds
    banner(f"Dask's collections: seconds, median (spread) of {rounds} rounds", "dask", "distributed", "pandas", "numpy")
    verdicts = []
    with Contest(CONTESTANTS) as contest:
        for case in CASES:
            if asked.only in case.name:
                size = case.quick_size if asked.quick else case.size
                verdicts.append((case, run(contest, case, size, rounds, warmup=1)))
        if asked.full:
            verdicts.append((FULL, run(contest, FULL, FULL.size, rounds=1, warmup=0)))
    for case, factor in verdicts:
        verdict(f"{case.name}, x dask tuned", factor, case.target)


if __name__ == "__main__":
    main()
