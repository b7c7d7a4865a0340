"""Benchmark 6: the scheduler's state machine alone, events in and messages out, with 2 to 1000 workers of 1 thread.

Both schedulers are fed what workers would send at once, with no network: see ``cluster_cores.py``. The graph is
given to Distributed's when it is deserialized, converted and ordered, so only the state machines are compared.
Treadle's is measured with one message per result, by which it is judged, and with all that a worker finishes in one
turn as one message, which is what workers send when tasks are shorter than a turn of the scheduler's loop.

    python benchmarks/core.py [--rounds 5] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_contest import Call, Contest, options, ratio, timing
from cluster_cores import DistributedCore, TreadleCore, batched, tuned_core
from rounds import banner, verdict

CONTESTANTS: dict[str, Callable[[], Any]] = {
    "treadle": TreadleCore,
    "treadle, batches": batched,
    "dask": DistributedCore,
    "dask tuned": tuned_core,
}

WORKERS = (2, 24, 168, 1000)
FLAT = 50_000
LEAVES = 1 << 15


def measure(contest: Contest, shape: str, size: int, rounds: int) -> dict[tuple[str, int], list[float]]:
    """CPU seconds per task, by contestant and number of workers."""
    tasks = 2 * size - 1 if shape == "tree" else size
    calls = {(name, workers): Call(name, shape, (size, workers)) for workers in WORKERS for name in CONTESTANTS}
    results = contest.turns(calls, rounds, warmup=0)  # each call starts from nothing anyway
    return {label: [seconds / tasks for seconds in values] for label, values in results.items()}


def main() -> None:
    rounds, quick = options(__doc__ or "")
    banner(f"The core alone: microseconds of CPU time per task, median (spread) of {rounds} rounds", "distributed")
    smaller = 8 if quick else 1
    worst = {"dask": float("inf"), "dask tuned": float("inf")}
    growth = 0.0
    with Contest(CONTESTANTS, background=False) as contest:
        for shape, size in (("flat", FLAT // smaller), ("tree", LEAVES // smaller)):
            seconds = measure(contest, shape, size, rounds)
            what = f"{size:,} independent tasks" if shape == "flat" else f"a binary tree of {2 * size - 1:,} tasks"
            print(f"{what}\n{'workers':20}" + "".join(f"{workers:>26}" for workers in WORKERS))
            for name in CONTESTANTS:
                print(f"  {name:18}" + "".join(f"{timing(seconds[name, count]).per(1):>26}" for count in WORKERS))
            print(flush=True)
            for peer in worst:
                worst[peer] = min(worst[peer], ratio(seconds[peer, 2], seconds["treadle", 2]))
            growth = max(growth, ratio(seconds["treadle", 1000], seconds["treadle", 2]))
    for peer, value in worst.items():
        verdict(f"2 workers, the worse of the two graphs, x {peer}", value, 10)
    verdict("1000 workers / 2 workers, the worse of the two graphs", growth, 1.2, at_least=False)


if __name__ == "__main__":
    main()
