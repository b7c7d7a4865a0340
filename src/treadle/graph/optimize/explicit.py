"""From the nodes of a plan back to the explicit form of tasks."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from treadle.graph.node import Call, Dicted, Listed, Node, Template
from treadle.graph.plan import MAX_NESTING, unquote
from treadle.graph.spec import Data, Ref, Task

__all__ = ["MARKED", "Piece", "Replace", "Writer", "collect", "references"]

#: The types (and their subclasses) that stand for something, or may hold such, where they occur in explicit form.
MARKED = (Ref, Task, Data, list, tuple, dict, set, frozenset)


class Piece(NamedTuple):
    """What is written in the place of a node."""

    value: object
    #: How many levels of tasks and containers are nested in ``value``.
    height: int = 0
    #: How many parts ``value`` is made of.
    size: int = 1


class Replace(Protocol):
    """Says what to write for a node that stands ``depth`` levels deep in the arguments of a task."""

    def __call__(self, node: Node, depth: int, /) -> Piece: ...


class Writer:
    """Writes one task. Its methods recurse over what is nested in its arguments, which the reader has limited."""

    def __init__(self, replace: Replace) -> None:
        self._replace = replace
        #: How many levels are nested in the arguments written so far, and how many parts these have.
        self.height = 0
        self.size = 0

    @property
    def fits(self) -> bool:
        """False if the reader would refuse what was written, because it is nested too deep."""
        return self.height <= MAX_NESTING

    def task(self, node: Node) -> Task:
        """The task that ``node`` was read from."""
        func = collect if node.func is None else node.func
        args = [self.write(arg, 0) for arg in node.args]
        if node.kwargs is None:
            return Task(func, *args)
        return Task(func, *args, **{word: self.write(arg, 0) for word, arg in node.kwargs.items()})

    def write(self, arg: object, depth: int) -> object:
        """One argument, that stands inside ``depth`` others."""
        if isinstance(arg, Node):
            piece = self._replace(arg, depth)
            self.size += piece.size
            self.height = max(self.height, depth + piece.height)
            return piece.value
        self.size += 1
        if isinstance(arg, Template):
            if isinstance(arg, Listed) and arg.make is unquote:
                return Data(arg.items[0])
            return self._template(arg, depth + 1)
        if not isinstance(arg, MARKED):
            return arg
        if type(arg) is not tuple or any(isinstance(item, MARKED) for item in arg):
            return Data(arg)
        self.height = max(self.height, depth + 1)  # the reader looks into any tuple
        return arg

    def _template(self, template: Template, depth: int) -> object:
        made = isinstance(template, Listed) and template.make not in (None, tuple)
        inside = depth + made
        self.height = max(self.height, inside)
        parts = [self.write(child, inside) for child in template.children()]
        if isinstance(template, Dicted):
            return dict(zip(template.words, parts))
        if isinstance(template, Call):
            split = len(parts) - len(template.words)
            return Task(template.func, *parts[:split], **dict(zip(template.words, parts[split:])))
        assert isinstance(template, Listed)
        if template.make is None:
            return parts
        # A set cannot hold what stands for its items, which need not be hashable.
        return Task(template.make, parts) if made else tuple(parts)


def references(node: Node) -> list[Node]:
    """The nodes among the arguments of ``node``, once for each time that they occur."""
    found: list[Node] = []
    stack: list[object] = [*node.args, *(node.kwargs or {}).values()]
    while stack:
        arg = stack.pop()
        if isinstance(arg, Node):
            found.append(arg)
        elif isinstance(arg, Template):
            stack.extend(arg.children())
    return found


def collect(value: Any) -> Any:
    """Stands for the function of a task that only builds a container from other results."""
    return value
