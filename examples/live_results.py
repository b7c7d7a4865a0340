"""A callback of one's own: how many results are held while a graph runs, drawn as text."""

from __future__ import annotations

from operator import add
from typing import Any

import treadle
from treadle.callbacks import RunInfo, TaskRecord


class LiveResults(treadle.Callback):
    """Remembers how many results were held after each task."""

    def __init__(self) -> None:
        self.live: list[int] = []

    def start(self, info: RunInfo) -> None:
        self.live.clear()

    def after(self, record: TaskRecord, result: Any) -> None:
        self.live.append(record.live)


def tree(leaves: int) -> tuple[dict[str, Any], str]:
    """A graph that adds up ``leaves`` results in pairs, and the key of the sum."""
    graph: dict[str, Any] = {f"leaf-{number}": (int, number) for number in range(leaves)}
    level = list(graph)
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2]))
        level = [f"({left}+{right})" for left, right in pairs]
        graph.update({key: (add, left, right) for key, (left, right) in zip(level, pairs)})
    return graph, level[0]


def main() -> None:
    graph, root = tree(32)
    watcher = LiveResults()
    with watcher:
        total = treadle.get(graph, root, scheduler="sync")
    for live in watcher.live:
        print("#" * live)
    print(f"sum {total}, {len(graph)} tasks, at most {max(watcher.live)} results held at a time")


if __name__ == "__main__":
    main()
