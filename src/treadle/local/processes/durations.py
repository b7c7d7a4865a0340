"""How long tasks take, learned by the name of their function."""

from __future__ import annotations

from treadle.graph.node import Node
from treadle.local.hooks import function_name

__all__ = ["Durations"]

#: What sending and accounting for a task costs on top of running it, in seconds.
OVERHEAD = 20e-6
#: Weight of the newest measurement in the running mean.
NEWEST = 0.2


class Durations:
    """Running means of measured seconds. Of a function that has not run yet, ``unknown`` seconds are expected."""

    def __init__(self, unknown: float) -> None:
        self._unknown = unknown
        self._means: dict[str, float] = {}

    def expected(self, node: Node) -> float:
        mean = self._means.get(function_name(node.func))
        return self._unknown if mean is None else mean + OVERHEAD

    def learn(self, node: Node, seconds: float) -> None:
        name = function_name(node.func)
        mean = self._means.get(name, seconds)
        self._means[name] = mean + NEWEST * (seconds - mean)
