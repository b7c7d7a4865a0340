"""Nodes of a graph on their way to another process.

A node among the arguments travels as its rank, and becomes the node that the receiving process keeps in its store
under that rank: so the receiver runs a task exactly as a thread would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from treadle.errors import TaskNotSerializableError
from treadle.graph.node import STORE, Call, Node, Template
from treadle.local.hooks import function_name
from treadle.local.processes.blob import Blob, dumps, loads
from treadle.local.processes.failures import unreadable

__all__ = ["decode", "encode", "keep", "literals", "why_not"]


def encode(calls: list[tuple[Node, int]], in_band: bool = False) -> Blob:
    """Pickle the calls of some tasks, each with the number under which the receiver knows its function.

    :param in_band: never use shared memory.
    :raises Exception: whatever pickling raises; :func:`why_not` finds out for whom.
    """
    return dumps([(node.rank, number, node.args, node.kwargs, node.nested) for node, number in calls], in_band)


def decode(blob: Blob, functions: dict[int, Any]) -> list[Node]:
    """The tasks of :func:`encode`, ready to be called."""
    nodes: list[Node] = []
    for rank, number, args, kwargs, nested in loads(blob):
        node = Node(None)
        node.rank = rank
        node.func = functions[number]
        node.args = args
        node.kwargs = kwargs
        node.nested = nested
        nodes.append(node)
    return nodes


def keep(rank: int, value: Any) -> None:
    """Put a result into this process's store, where :func:`decode` finds it."""
    node = Node(None)
    node.rank = rank
    node.result = value
    node.done = True
    STORE[rank] = node


def literals(args: Iterable[object]) -> list[Node]:
    """The nodes among some arguments whose values were in the graph from the start (their rank is negative)."""
    found: list[Node] = []
    stack: list[object] = list(args)
    while stack:
        arg = stack.pop()
        if isinstance(arg, Node):
            if arg.rank < 0:
                found.append(arg)
        elif isinstance(arg, Template):
            stack.extend(arg.children())
    return found


def why_not(nodes: Iterable[Node]) -> TaskNotSerializableError | None:
    """The part of the first of some tasks that cannot be pickled, or that cannot be read back; None if all can."""
    for node in nodes:
        for part, value in _parts(node):
            try:
                blob = dumps(value)
            except Exception as error:
                return TaskNotSerializableError(node.key, part, f"{type(error).__name__}: {error}")
            if isinstance(value, (Node, Template)):
                continue  # these mean something in the other process only
            try:
                loads(blob)
            except Exception as error:
                return TaskNotSerializableError(node.key, part, unreadable(error))
    return None


def _parts(node: Node) -> Iterator[tuple[str, Any]]:
    """What of a task goes to another process, with names for it."""
    yield f"its function {function_name(node.func)!r}", node.func
    words = node.kwargs or {}
    names = [*range(1, len(node.args) + 1), *map(repr, words)]
    for name, arg in zip(names, (*node.args, *words.values())):
        for literal in literals((arg,)):
            yield f"its argument {name} ({literal.key!r} of the graph, a {_kind(literal.result)})", literal.result
        for value in _written(arg):
            yield f"its argument {name} (a {_kind(arg)})", value


def _written(arg: object) -> Iterator[object]:
    """An argument and, if it is a template, what it is made of."""
    stack = [arg]
    while stack:
        value = stack.pop()
        yield value
        if isinstance(value, Template):
            stack.extend(value.children())
            if isinstance(value, Call):
                yield value.func


def _kind(arg: object) -> str:
    return "container" if isinstance(arg, Template) else type(arg).__name__
