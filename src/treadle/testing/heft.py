"""What a scheduler could reach that has no costs: list schedules to measure others by.

:func:`heft` knows everything beforehand. :func:`greedy` knows nothing of the future, as a real scheduler: what it
loses to the other is the price of not knowing, and what a real one loses to it is that one's own doing.

The first method is HEFT (Topcuoglu, Hariri, Wu: "Performance-effective and low-complexity task scheduling for
heterogeneous computing", IEEE TPDS 13, 2002) for machines that are all alike, without filling gaps: the task with the
longest way to the end goes first, to where it ends the soonest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush

__all__ = ["critical_path", "greedy", "heft", "upward_ranks"]


def upward_ranks(
    graph: Mapping[str, Sequence[str]], seconds: Mapping[str, float], transfer: Callable[[str], float] | None = None
) -> dict[str, float]:
    """For each task, the seconds from its start to the end of the longest way through its dependents.

    :param graph: the dependencies of each key, dependencies first.
    :param seconds: how long each task takes.
    :param transfer: how long the result of a task takes from one worker to another; default: no time.
    """
    ranks: dict[str, float] = {}
    behind: dict[str, float] = {}
    for key in reversed(list(graph)):
        rank = seconds[key] + behind.get(key, 0.0)
        ranks[key] = rank
        for dep in graph[key]:
            way = rank + (transfer(dep) if transfer is not None else 0.0)
            if way > behind.get(dep, 0.0):
                behind[dep] = way
    return ranks


def critical_path(graph: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> float:
    """Seconds that the graph takes on any number of workers, if moving results takes no time."""
    return max(upward_ranks(graph, seconds).values(), default=0.0)


def heft(
    graph: Mapping[str, Sequence[str]],
    seconds: Mapping[str, float],
    slots: int,
    transfer: Callable[[str], float] | None = None,
) -> float:
    """Seconds that the graph takes on ``slots`` workers of one thread each, which know all this beforehand.

    The arguments are those of :func:`upward_ranks`.
    """
    ranks = upward_ranks(graph, seconds, transfer)
    position = {key: index for index, key in enumerate(graph)}
    free: list[tuple[float, int]] = [(0.0, slot) for slot in range(slots)]
    free_at = [0.0] * slots
    ends: dict[str, float] = {}
    places: dict[str, int] = {}
    for key in sorted(graph, key=lambda key: (-ranks[key], position[key])):
        candidates = {places[dep] for dep in graph[key]}
        while free[0][0] != free_at[free[0][1]]:
            heappop(free)  # that slot was taken by somebody else meanwhile
        candidates.add(free[0][1])
        best = -1
        soonest = float("inf")
        for slot in sorted(candidates):
            start = free_at[slot]
            for dep in graph[key]:
                there = ends[dep] if transfer is None or places[dep] == slot else ends[dep] + transfer(dep)
                if there > start:
                    start = there
            if start < soonest:
                soonest = start
                best = slot
        places[key] = best
        ends[key] = free_at[best] = soonest + seconds[key]
        heappush(free, (free_at[best], best))
    return max(ends.values(), default=0.0)


def greedy(graph: Mapping[str, Sequence[str]], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds that the graph takes if each of ``slots`` threads, when it is free, takes the first task that is ready.

    :param graph: the dependencies of each key, in the order in which they are to be taken.
    :param seconds: how long each task takes; moving results takes no time.
    """
    dependents: dict[str, list[str]] = {key: [] for key in graph}
    position: dict[str, int] = {}
    missing: dict[str, int] = {}
    for key, deps in graph.items():
        position[key] = len(position)
        missing[key] = len(deps)
        for dep in deps:
            dependents[dep].append(key)
    keys = list(graph)
    ready = [position[key] for key in keys if not missing[key]]
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            index = heappop(ready)
            heappush(running, (now + seconds[keys[index]], index))
        now, index = heappop(running)
        for dependent in dependents[keys[index]]:
            missing[dependent] -= 1
            if not missing[dependent]:
                heappush(ready, position[dependent])
    return now
