"""Nodes of a graph on their way to another process.

A node among the arguments travels as its rank, and becomes the node that the receiving process keeps in its store
under that rank: so the receiver runs a task exactly as a thread would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from treadle.errors import TaskNotSerializableError
from treadle.graph.node import STORE, Node, Template
from treadle.local.hooks import function_name
from treadle.local.processes.blob import Blob, dumps, loads

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


def why_not(node: Node) -> TaskNotSerializableError | None:
    """The part of a task that cannot be pickled; None if all can."""
    parts: list[tuple[str, Any]] = [(f"its function {function_name(node.func)!r}", node.func)]
    parts.extend((f"its argument {index} (a {_kind(arg)})", arg) for index, arg in enumerate(node.args, 1))
    parts.extend((f"its argument {word!r} (a {_kind(arg)})", arg) for word, arg in (node.kwargs or {}).items())
    for part, value in parts:
        try:
            dumps(value)
        except Exception as error:
            return TaskNotSerializableError(node.key, part, f"{type(error).__name__}: {error}")
    return None


def _kind(arg: object) -> str:
    return "container" if isinstance(arg, Template) else type(arg).__name__
