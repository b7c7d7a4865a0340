"""Chains of tasks made into one task each: fewer things to schedule."""

from __future__ import annotations

from typing import Any

from treadle.graph.node import Node
from treadle.graph.optimize.chain import BEFORE, Chain
from treadle.graph.optimize.explicit import Piece, Writer
from treadle.graph.plan import as_dict, read
from treadle.graph.spec import Ref, Task

__all__ = ["fuse"]


def fuse(graph: Any, keys: Any) -> dict[Any, Any]:
    """Make one task of each linear chain of tasks, under the key of its last one.

    Two tasks are fused if the second needs no other task than the first, and nothing but the second needs the first.
    A fused task runs its steps one after another in the same thread. What ``keys`` do not need is left out.

    :param graph: a mapping from keys to tasks and values, in any form.
    :param keys: a key, or a list of keys (lists may be nested). These keep their results: none is fused away.
    :raises GraphError: as of :func:`treadle.get`: a cycle, a key that does not exist.

    >>> from operator import add, neg
    >>> fuse({"a": 1, "b": (neg, "a"), "c": (add, "b", 2), "d": (abs, "c")}, "d")
    {'d': Task(<Chain neg-add-abs>, Ref('a')), 'a': 1}
    """
    tasks = as_dict(graph)
    plan = read(tasks, keys)
    wanted = set(plan.targets)
    #: The chain that ends, so far, with a node. A node in the middle of a chain has none.
    chains: dict[Node, list[Node]] = {}
    for node in plan.nodes:
        before = node.deps[0] if len(node.deps) == 1 else None
        if before is None or len(before.dependents) > 1 or before in wanted or not _fits(before) or not _fits(node):
            chains[node] = [node]
        else:
            chain = chains.pop(before)
            chain.append(node)
            chains[node] = chain
    fused: dict[Any, Any] = {}
    for key, node in plan.found.items():
        if node.done:
            fused[key] = tasks[key]
        elif node in chains:
            chain = chains[node]
            fused[key] = tasks[key] if len(chain) == 1 or key is not node.key else _fused(chain)
    return fused


def _fits(node: Node) -> bool:
    """True if the arguments can be written in explicit form, which may take more nesting than they have."""
    if not node.nested:
        return True
    writer = Writer(_reference)
    writer.task(node)
    return writer.fits


def _reference(node: Node, depth: int) -> Piece:
    return Piece(Ref(node.key))


def _fused(chain: list[Node]) -> Task:
    inputs = _Inputs()
    writer = Writer(inputs.replace)
    steps: list[Task] = []
    for node in chain:
        steps.append(writer.task(node))
        inputs.before = node
    return Task(Chain([node.key for node in chain], steps), *[Ref(node.key) for node in inputs.indices])


class _Inputs:
    """Numbers what a chain needs from outside."""

    def __init__(self) -> None:
        self.before: Node | None = None
        self.indices: dict[Node, int] = {}

    def replace(self, node: Node, depth: int) -> Piece:
        if node is self.before:
            return Piece(BEFORE)
        return Piece(Ref(self.indices.setdefault(node, len(self.indices))))
