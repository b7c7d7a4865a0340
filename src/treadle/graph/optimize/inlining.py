"""Cheap things put in the place of the references to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from treadle.graph.fused import dasks_own, run_fused
from treadle.graph.node import Node
from treadle.graph.optimize.explicit import MARKED, Piece, Writer, references
from treadle.graph.plan import MAX_NESTING, as_dict, read
from treadle.graph.spec import Data, Ref

__all__ = ["inline"]

#: A task that has grown to more parts than this is not inlined any further: where tasks use each other twice, what
#: they grow to doubles with every step.
_MAX_PARTS: Final = 1_000


def inline(
    graph: Any, keys: Any, functions: Iterable[Callable[..., Any]] | None = None, constants: bool = True
) -> dict[Any, Any]:
    """Replace references to cheap things by the things themselves.

    :param graph: a mapping from keys to tasks and values, in any form.
    :param keys: a key, or a list of keys (lists may be nested). These stay in the graph.
    :param functions: tasks that call one of these are inlined: each task that needs them calls them again, as often
        as it refers to them. No task comes to be nested deeper than the reader allows: what would be too deep, or
        has grown too big, stays a task with a key of its own.
    :param constants: whether to inline the graph's literal values.
    :returns: what ``keys`` need; keys that were inlined everywhere are left out.
    :raises GraphError: as of :func:`treadle.get`: a cycle, a key that does not exist.

    >>> from operator import add, neg
    >>> graph = {"a": 1, "b": (neg, "a"), "c": (add, "a", "b")}
    >>> inline(graph, "c")
    {'c': Task(add, 1, Ref('b')), 'b': Task(neg, 1)}
    >>> inline(graph, "c", functions=[neg])
    {'c': Task(add, 1, Task(neg, 1))}
    """
    tasks = as_dict(graph)
    plan = read(tasks, keys)
    chosen = [run_fused if func is dasks_own() else func for func in functions or ()]
    inliner = _Inliner(set(plan.targets), chosen, constants)
    written = {node: inliner.rewrite(node, tasks[node.key]) for node in plan.nodes}
    result: dict[Any, Any] = {}
    for key, node in plan.found.items():
        if inliner.stays(node):
            result[key] = written[node] if node in written and key is node.key else tasks[key]
    return result


class _Inliner:
    def __init__(self, wanted: set[Node], functions: list[Callable[..., Any]], constants: bool) -> None:
        #: The nodes that have to stay: the caller or a task refers to them.
        self.needed: Final = wanted
        self.wanted: Final = frozenset(wanted)
        self.functions: Final = functions
        self.constants: Final = constants
        #: What to write for the tasks that are inlined.
        self.pieces: Final[dict[Node, Piece]] = {}
        self.changed = False

    def stays(self, node: Node) -> bool:
        return node in self.needed

    def rewrite(self, node: Node, original: object) -> object:
        """The value of ``node`` in the new graph. All that it depends on has been rewritten before."""
        self.changed = False
        writer = Writer(self.replace)
        task = writer.task(node)
        if not writer.fits:
            self.needed.update(references(node))
            return original
        if node.func in self.functions and node not in self.wanted:
            piece = Piece(task, 1 + writer.height, 1 + writer.size)
            if piece.height <= MAX_NESTING and piece.size <= _MAX_PARTS:
                self.pieces[node] = piece
        return task if self.changed else original

    def replace(self, node: Node, depth: int) -> Piece:
        piece = self._constant(node) if node.done else self.pieces.get(node)
        if piece is None or depth + piece.height > MAX_NESTING:
            self.needed.add(node)
            return Piece(Ref(node.key))
        self.changed = True
        return piece

    def _constant(self, node: Node) -> Piece | None:
        if not self.constants:
            return None
        # To look into a long tuple anew for each task that uses it would not take linear time.
        return Piece(Data(node.result) if isinstance(node.result, MARKED) else node.result)
