"""Benchmark 10: an array of 100 MB from worker to worker on one host.

Worker 1 holds the array, a task that is tied to worker 2 takes it as its argument, and the client waits for that task's
small result. Ray's workers on one host share memory, where nothing has to be copied: it is shown to be fair to it.
The floor without shared memory: a plain TCP connection from one process to another, read into a new array.

    python benchmarks/transfer.py [--rounds 5] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_contest import Call, Contest, options, ratio, timing
from cluster_peers import Distributed, Plain, Ray, Treadle
from rounds import banner, verdict

CONTESTANTS: dict[str, Callable[[], Any]] = {"treadle": Treadle, "dask": Distributed, "ray": Ray, "plain TCP": Plain}

#: Elements of the array: 100 MB of float64.
LENGTH = 12_500_000


def main() -> None:
    rounds, _ = options(__doc__ or "")
    megabytes = LENGTH * 8 / 1e6
    banner(
        f"An array of {megabytes:.0f} MB from worker to worker: milliseconds, median (spread) of {rounds} rounds",
        *("distributed", "ray", "numpy"),
    )
    with Contest(CONTESTANTS) as contest:
        seconds = contest.turns({name: Call(name, "transfer", (LENGTH,)) for name in CONTESTANTS}, rounds)
    for name, values in seconds.items():
        taken = timing(values)
        print(f"{name:10}{taken.per(1, 1e-3):>26}   {megabytes / 1e3 / taken.median:6.2f} GB/s")
    print()
    verdict("100 MB from worker to worker, x dask", ratio(seconds["dask"], seconds["treadle"]), 5)
    for floor in ("ray", "plain TCP"):
        print(f"100 MB from worker to worker, x {floor}: {ratio(seconds[floor], seconds['treadle']):.2f} (no target)")


if __name__ == "__main__":
    main()
