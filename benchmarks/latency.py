"""Benchmark 5: from ``submit`` to the result, one task at a time, on clusters of 2 worker processes of 1 thread.

The floors: 64 bytes to another process and 64 back over plain TCP, and the process pool of ``concurrent.futures``,
whose workers are told by pipes. A task takes four hops in a cluster: client, scheduler, worker, scheduler, client.

    python benchmarks/latency.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from cluster_contest import Call, Contest, options
from cluster_peers import Distributed, Plain, Pool, Ray, Treadle, tuned
from rounds import banner, verdict

CONTESTANTS: dict[str, Callable[[], Any]] = {
    "treadle": Treadle,
    "dask": Distributed,
    "dask tuned": tuned,
    "ray": Ray,
    "process pool": Pool,
    "plain TCP": Plain,
}

#: Round trips per contestant and round; as many as a tenth of them, which do not count, go before.
SAMPLES = 300


def percentile(samples: Iterable[float], share: float) -> float:
    """The smallest sample that is at least as large as that share of all."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    rounds, quick = options(__doc__ or "")
    samples = SAMPLES // 3 if quick else SAMPLES
    banner(
        f"submit -> result, one at a time: microseconds, {samples} round trips in each of {rounds} rounds",
        *("distributed", "ray", "msgspec", "uvloop"),
    )
    calls = {name: Call(name, "latency", (samples + samples // 10,)) for name in CONTESTANTS}
    with Contest(CONTESTANTS) as contest:
        results = contest.turns(calls, rounds)
    kept = {name: [turn[samples // 10 :] for turn in turns] for name, turns in results.items()}
    middles = {name: [percentile(turn, 0.5) for turn in turns] for name, turns in kept.items()}

    print(f"{'':14}{'p50 (spread of the rounds)':>32}{'p99':>10}{'worst':>10}")
    for name, turns in kept.items():
        merged = [sample for turn in turns for sample in turn]
        spread = f"({min(middles[name]) * 1e6:.0f}-{max(middles[name]) * 1e6:.0f})"
        print(
            f"{name:14}{percentile(merged, 0.5) * 1e6:>16.0f} {spread:<15}"
            f"{percentile(merged, 0.99) * 1e6:10.0f}{max(merged) * 1e6:10.0f}"
        )
    print()
    for peer, target in (("dask", 20), ("dask tuned", 20), ("ray", 4)):
        ratios = [theirs / ours for theirs, ours in zip(middles[peer], middles["treadle"])]
        verdict(f"p50, x {peer}", statistics.median(ratios), target)
    tails = [percentile(turn, 0.99) / percentile(turn, 0.5) for turn in kept["treadle"]]
    verdict("our p99 / our p50", statistics.median(tails), 5, at_least=False)


if __name__ == "__main__":
    main()
