"""Side by side in one run: contestants take turns, and what is printed are medians, spreads and ratios.

Machines are shared and noisy, so an absolute time means little; a ratio measured in alternation does.
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
import platform
import statistics
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, NamedTuple

__all__ = ["Timing", "alternate", "banner", "geometric_mean", "verdict"]


class Timing(NamedTuple):
    """Seconds: the median of the rounds, the fastest, and the slowest."""

    median: float
    low: float
    high: float

    def per(self, count: int, unit: float = 1e-6) -> str:
        """The median per item with the spread, in ``unit`` seconds."""
        scale = count * unit
        return f"{self.median / scale:8.2f} ({self.low / scale:.2f}-{self.high / scale:.2f})"


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Time every contestant once per round, in turns (A B C A B C …), after ``warmup`` untimed rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, contestant in contestants.items():
            gc.collect()
            started = perf_counter()
            contestant()
            elapsed = perf_counter() - started
            if turn >= warmup:
                seconds[name].append(elapsed)
    return {name: Timing(statistics.median(times), min(times), max(times)) for name, times in seconds.items()}


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def banner(title: str, *packages: str) -> None:
    """Say what is measured, and with which versions."""
    import treadle
    from treadle.graph import plan

    build = "interpreted" if (plan.__file__ or "").endswith(".py") else "compiled"
    peers = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{title}\ntreadle {treadle.__version__} ({build}), Python {platform.python_version()}{peers}\n")


def verdict(what: str, value: float, target: float, at_least: bool = True) -> None:
    """One line: the figure beside its target."""
    met = value >= target if at_least else value <= target
    relation = "at least" if at_least else "at most"
    print(f"{what}: {value:.2f} (target: {relation} {target:g}) {'met' if met else 'NOT MET'}")
