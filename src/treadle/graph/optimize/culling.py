"""What a key needs, and nothing else."""

from __future__ import annotations

from typing import Any

from treadle.graph.optimize.explicit import references
from treadle.graph.plan import as_dict, read

__all__ = ["cull", "dependencies"]


def cull(graph: Any, keys: Any) -> dict[Any, Any]:
    """Only the part of ``graph`` that ``keys`` need; the values are the same objects.

    :param graph: a mapping from keys to tasks and values, in any form.
    :param keys: a key, or a list of keys (lists may be nested).
    :raises GraphError: as of :func:`treadle.get`: a cycle, a key that does not exist. What is left out is not checked.

    >>> from operator import add, neg
    >>> cull({"a": 1, "b": (neg, "a"), "c": (add, "a", "b")}, "b")
    {'b': (<built-in function neg>, 'a'), 'a': 1}
    """
    tasks = as_dict(graph)
    return {key: tasks[key] for key in read(tasks, keys).found}


def dependencies(graph: Any) -> dict[Any, set[Any]]:
    """The keys that each key of ``graph`` depends on directly.

    An alias depends on the task or value behind it, and so does whoever refers to the alias.

    :param graph: a mapping from keys to tasks and values, in any form. All of it is read.
    :raises GraphError: a cycle, or a reference to a key that does not exist.

    >>> from operator import neg
    >>> dependencies({"a": 1, "b": (neg, "a"), "c": "b"})
    {'a': set(), 'b': {'a'}, 'c': {'b'}}
    """
    tasks = as_dict(graph)
    found = read(tasks, list(tasks)).found
    needs: dict[Any, set[Any]] = {}
    for key in tasks:
        node = found[key]
        needs[key] = {dep.key for dep in references(node)} if node.key == key else {node.key}
    return needs
