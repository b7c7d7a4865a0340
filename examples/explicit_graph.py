"""Shortest ways through a grid, as a graph that a program writes: each cell depends on the two it is entered from.

The cells of one diagonal do not depend on one another, so they run at the same time.
"""

from __future__ import annotations

import random

import treadle
from treadle import Ref, Task

Key = tuple[str, int, int]


def cheapest(cost: int, *before: int) -> int:
    """What it costs to get through a cell that is entered from the cheapest of the cells before it."""
    return cost + min(before, default=0)


def grid(size: int, seed: int) -> dict[Key, Task]:
    costs = random.Random(seed)
    graph: dict[Key, Task] = {}
    for row in range(size):
        for column in range(size):
            before = [("cell", row - 1, column), ("cell", row, column - 1)]
            refs = [Ref(key) for key in before if key in graph]
            graph["cell", row, column] = Task(cheapest, costs.randint(1, 9), *refs)
    return graph


def main() -> None:
    size = 60
    graph = grid(size, seed=7)
    cost = treadle.get(graph, ("cell", size - 1, size - 1))
    print(f"{len(graph)} cells, cheapest way: {cost}")


if __name__ == "__main__":
    main()
