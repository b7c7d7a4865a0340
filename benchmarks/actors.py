"""Actors: calls of a method that adds a number, on clusters of 2 worker processes of 1 thread.

Rates are of calls that are all submitted first and gathered then; the latency is that of one call at a time. Beside
Treadle: Distributed and Ray, whose actors have processes of their own.

    python benchmarks/actors.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

from cluster_contest import Call, Contest, options, ratio, timing
from cluster_peers import Distributed, Ray, Stopwatch, Treadle, check
from cluster_tasks import AsyncCounter, Counter
from rounds import banner, verdict


class Handles:
    """The cases, for whoever makes actors by :meth:`make` and calls them by :meth:`call`."""

    def make(self, cls: type, worker: int) -> Any:
        """A handle of a new actor on one of the workers."""
        raise NotImplementedError

    def call(self, actor: Any, by: int) -> Any:
        """The future of ``actor.increment(by)``."""
        return actor.increment(by)

    def ends(self, actor: Any, array: Any) -> Any:
        return actor.ends(array)

    def results(self, futures: list[Any]) -> list[Any]:
        return [future.result() for future in futures]

    def end(self, actor: Any) -> None:
        """The actor is not needed any more."""

    def many(self, calls: int, cls: type = Counter) -> float:
        """Calls of one actor."""
        actor = self.make(cls, 0)
        self.results([self.call(actor, 0)])
        with Stopwatch() as watch:
            results = self.results([self.call(actor, 1) for _ in range(calls)])
        check("the highest result", max(results), calls)  # with Distributed it need not be the last one
        self.end(actor)
        return watch.seconds

    def coroutines(self, calls: int) -> float:
        """Calls of a coroutine method of one actor."""
        return self.many(calls, AsyncCounter)

    def two(self, calls: int) -> float:
        """Calls of two actors in turns."""
        actors = [self.make(Counter, worker) for worker in range(2)]
        self.results([self.call(actor, 0) for actor in actors])
        with Stopwatch() as watch:
            results = self.results([self.call(actors[number % 2], 1) for number in range(calls)])
        check("the highest result", max(results), calls // 2)
        for actor in actors:
            self.end(actor)
        return watch.seconds

    def one_at_a_time(self, calls: int) -> float:
        """The median of the seconds of one call."""
        actor = self.make(Counter, 0)
        seconds = []
        for number in range(calls):
            started = perf_counter()
            (result,) = self.results([self.call(actor, 1)])
            seconds.append(perf_counter() - started)
            check("one result", result, number + 1)
        self.end(actor)
        return statistics.median(seconds)

    def big(self, megabytes: int) -> float:
        """One call with an array as its argument."""
        import numpy as np

        array = np.ones(megabytes << 17)
        actor = self.make(Counter, 0)
        self.results([self.call(actor, 0)])
        with Stopwatch() as watch:
            (result,) = self.results([self.ends(actor, array)])
        check("the sum of the array's ends", result, 2.0)
        self.end(actor)
        return watch.seconds


class TreadleActors(Handles, Treadle):
    def make(self, cls: type, worker: int) -> Any:
        return self.client.submit(cls, actor=True, workers=[self.workers()[worker]]).result()

    def results(self, futures: list[Any]) -> list[Any]:
        gathered: list[Any] = self.client.gather(futures)
        return gathered


class DaskActors(Handles, Distributed):
    def make(self, cls: type, worker: int) -> Any:
        return self.client.submit(cls, actor=True, workers=[self.workers()[worker]], pure=False).result()


class RayActors(Handles, Ray):
    def make(self, cls: type, worker: int) -> Any:
        return self.ray.remote(cls).options(num_cpus=0).remote()

    def call(self, actor: Any, by: int) -> Any:
        return actor.increment.remote(by)

    def ends(self, actor: Any, array: Any) -> Any:
        return actor.ends.remote(array)

    def results(self, futures: list[Any]) -> list[Any]:
        results: list[Any] = self.ray.get(futures)
        return results

    def end(self, actor: Any) -> None:
        self.ray.kill(actor)


CONTESTANTS: dict[str, Callable[[], Any]] = {"treadle": TreadleActors, "dask": DaskActors, "ray": RayActors}


class Case(NamedTuple):
    """One line of the benchmark."""

    name: str
    method: str
    #: What the method is given; for Distributed; for all in a quick run.
    size: int
    slow_size: int
    quick_size: int
    #: Whether the seconds that the method returns are those of so many calls; else they are of one.
    many: bool
    #: By how much Treadle is to be faster than others.
    targets: dict[str, float]


CASES = [
    Case("10,000 calls of one actor", "many", 10_000, 1_000, 1_000, True, {"dask": 5, "ray": 5}),
    Case("10,000 calls of two actors", "two", 10_000, 1_000, 1_000, True, {"dask": 5, "ray": 5}),
    Case("10,000 calls of a coroutine", "coroutines", 10_000, 1_000, 1_000, True, {"dask": 5, "ray": 5}),
    Case("one call at a time", "one_at_a_time", 500, 500, 100, False, {}),
    Case("one call with 64 MiB", "big", 64, 64, 8, False, {}),
]


def main() -> None:
    rounds, quick = options(__doc__ or "")
    banner(
        f"Calls of actors: microseconds per call, median (spread) of {rounds} rounds",
        *("distributed", "ray", "msgspec", "uvloop"),
    )
    verdicts = []
    with Contest(CONTESTANTS) as contest:
        for case in CASES:
            sizes = dict.fromkeys(CONTESTANTS, case.quick_size if quick else case.size)
            if not quick:
                sizes["dask"] = case.slow_size
            seconds = contest.turns({name: Call(name, case.method, (size,)) for name, size in sizes.items()}, rounds)
            if case.many:
                seconds = {name: [value / sizes[name] for value in values] for name, values in seconds.items()}
            print(f"{case.name}{f' (quick: {case.quick_size:,})' if quick else ''}")
            for name, values in seconds.items():
                line = f"  {name:13}{timing(values).per(1):>34}"
                if name != "treadle":
                    line += f"{ratio(values, seconds['treadle']):9.1f} x treadle"
                if sizes[name] != sizes["treadle"]:
                    line += f"   (measured on {sizes[name]:,} calls)"
                print(line)
            print(flush=True)
            for peer, target in case.targets.items():
                verdicts.append((f"{case.name}, x {peer}", ratio(seconds[peer], seconds["treadle"]), target))
    for what, value, target in verdicts:
        verdict(what, value, target)


if __name__ == "__main__":
    main()
