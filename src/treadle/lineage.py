"""What a delayed value descends from: collected into a graph, or into a flat list that can be pickled.

Both walks keep their own stack, so that a chain of a million calls is as good as a short one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from treadle.arguments import Collected, Source
from treadle.errors import GraphError
from treadle.graph.spec import Data, Task
from treadle.tokens import TokenizeError, tokenize

__all__ = ["KeyConflictError", "collect", "rebuild", "records"]


class KeyConflictError(GraphError):
    """Two tasks that do different things have been given the same key."""

    def __init__(self, key: object, first: object, second: object) -> None:
        self.key = key
        self.first = first
        self.second = second
        super().__init__(key, first, second)

    def __str__(self) -> str:
        return (
            f"two different tasks have the key {self.key!r}: {self.first!r:.200} and {self.second!r:.200}. "
            "A key stands for one result; give them different names, or none."
        )


def collect(sources: Iterable[Source]) -> dict[Any, Any]:
    """The graph of all that ``sources`` need: a new dict from keys to tasks.

    :raises KeyConflictError: the same key was given to different tasks.
    """
    graph: dict[Any, Any] = {}
    chosen: set[Any] = set()
    twins: set[int] = set()
    foreign: dict[int, Mapping[Any, Any]] = {}
    stack = list(sources)
    while stack:
        source = stack.pop()
        key = source._key
        task = source._task
        if type(source) is Collected:
            foreign[id(source.graph)] = source.graph
        elif source._named:
            chosen.add(key)
        known = graph.get(key)
        if known is task or id(task) in twins:
            continue
        if known is None:
            graph[key] = task
        else:
            # Another source of the same key. What lies behind it is looked at, too: the keys of operations and of
            # pure calls are made from the keys of their arguments, and of those two may be in conflict.
            twins.add(id(task))
            if key in chosen and not _same(known, task):
                raise KeyConflictError(key, known, task)
        stack.extend(source._deps)
    for mapping in foreign.values():
        for key in mapping.keys() & chosen:
            raise KeyConflictError(key, mapping[key], graph[key])
        graph.update(mapping)
    return graph


def _same(one: Task | Data, other: Task | Data) -> bool:
    """Whether two tasks do the same. Only asked of tasks that share a name somebody chose."""
    try:
        return tokenize(one) == tokenize(other)
    except TokenizeError:
        pass
    try:
        return bool(one == other)
    except Exception:
        return False  # arrays and the like compare to something that is neither true nor false


def records(root: Source) -> list[tuple[Any, ...]]:
    """All that ``root`` is made of, each after what it refers to; references are positions in the list."""
    positions: dict[int, int] = {}
    made: list[tuple[Any, ...]] = []
    stack = [root]
    while stack:
        source = stack[-1]
        missing = [dep for dep in source._deps if id(dep) not in positions]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if id(source) not in positions:
            positions[id(source)] = len(made)
            deps = [positions[id(dep)] for dep in source._deps]
            made.append((type(source), source._key, source._task, deps, source._rest()))
    return made


def rebuild(made: list[tuple[Any, ...]]) -> Any:
    """The root of :func:`records`, made anew with all that is behind it."""
    sources: list[Any] = []
    for cls, key, task, deps, rest in made:
        sources.append(cls(key, task, tuple([sources[position] for position in deps]), *rest))
    return sources[-1]
