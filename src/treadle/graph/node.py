"""A task on its way through a run, and the templates that its arguments are made from.

A graph is converted once into nodes that point at one another, so that running a task touches no dictionary:
an argument that is another task's result *is* that task's node. The fields that change while the graph runs
live here too; :mod:`treadle.local.run` owns them.
"""

from __future__ import annotations

from typing import Any, Final, final

__all__ = ["STORE", "Call", "Dicted", "Listed", "Node", "Template", "evaluate"]

#: The life of a node while the graph is read.
NEW: Final = 0
OPEN: Final = 1
CLOSED: Final = 2


@final
class Node:
    """One task: its key, what to call, and who waits for whom."""

    def __init__(self, key: object) -> None:
        self.key: object = key
        #: The callable, or None for a node whose value is known (``done``) or is built from a template.
        self.func: Any = None
        #: Positional arguments: literals, nodes, and templates.
        self.args: tuple[object, ...] = ()
        self.kwargs: dict[str, object] | None = None
        #: True if an argument is a template or there are keyword arguments: the slow way of calling.
        self.nested: bool = False
        #: The distinct nodes among the arguments, in the order of first use.
        self.deps: list[Node] = NO_NODES
        #: The nodes that have this one among their ``deps``.
        self.dependents: list[Node] = NO_NODES
        #: While the graph is read: NEW, OPEN or CLOSED.
        self.state: int = NEW
        #: While the graph is read: how many ``deps`` have been visited. In a run: how many are not yet done.
        self.waiting: int = 0
        #: In a run: how many dependents are not yet done, plus one if the caller wants the result.
        self.users: int = 0
        #: The static priority: the node with the lowest rank among those that are ready runs first.
        self.rank: int = 0
        #: Scratch mark of whoever walks the graph; no meaning is kept in it between walks.
        self.mark: int = -1
        #: True once ``result`` holds the value. It is dropped when the last user is done.
        self.done: bool = False
        self.result: Any = None

    def __repr__(self) -> str:
        state = "done" if self.done else f"waiting for {self.waiting}"
        return f"<Node {self.key!r} {state}, rank {self.rank}, {self.users} users>"

    def call(self) -> Any:
        """Run the task in this thread and return its result. All ``deps`` must be done."""
        func = self.func
        args = self.args
        if self.nested:
            return call_nested(func, args, self.kwargs)
        count = len(args)
        if count == 1:
            first = args[0]
            return func(first.result if isinstance(first, Node) else first)
        if count == 2:
            first = args[0]
            second = args[1]
            return func(
                first.result if isinstance(first, Node) else first,
                second.result if isinstance(second, Node) else second,
            )
        values: list[Any] = [arg.result if isinstance(arg, Node) else arg for arg in args]
        return func(*values)

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process a node stands for the result that is kept there under its rank.
        return stored, (self.rank,)


NO_NODES: Final[list[Node]] = []

#: In a process that runs tasks for another one: the results that it holds, by rank.
STORE: Final[dict[int, Node]] = {}


def stored(rank: int) -> Node:
    return STORE[rank]


class Template:
    """An argument that contains nodes: a container of values that is filled in just before the call."""

    def build(self) -> Any:
        raise NotImplementedError

    def children(self) -> list[object]:
        """What this template is made of: literals, nodes and templates."""
        raise NotImplementedError


@final
class Listed(Template):
    """A list, or another container made from one (``tuple``, ``set``, ``frozenset``, a named tuple's ``_make``)."""

    def __init__(self, items: list[object], make: Any) -> None:
        self.items: Final = items
        self.make: Final = make

    def build(self) -> Any:
        values = [evaluate(item) for item in self.items]
        return values if self.make is None else self.make(values)

    def children(self) -> list[object]:
        return self.items

    def __reduce__(self) -> tuple[Any, ...]:
        return Listed, (self.items, self.make)


@final
class Dicted(Template):
    """A dict with nodes among its values; its keys are literals."""

    def __init__(self, words: list[object], values: list[object]) -> None:
        self.words: Final = words
        self.values: Final = values

    def build(self) -> Any:
        filled: dict[object, object] = {}
        for index, word in enumerate(self.words):
            filled[word] = evaluate(self.values[index])
        return filled

    def children(self) -> list[object]:
        return self.values

    def __reduce__(self) -> tuple[Any, ...]:
        return Dicted, (self.words, self.values)


@final
class Call(Template):
    """A task written inside the arguments of another one: called in place, in the same thread."""

    def __init__(self, func: Any, args: list[object], words: list[str]) -> None:
        #: ``args`` holds the positional arguments, then one value for each of ``words``.
        self.func: Final = func
        self.args: Final = args
        self.words: Final = words

    def build(self) -> Any:
        values = [evaluate(arg) for arg in self.args]
        if not self.words:
            return self.func(*values)
        split = len(values) - len(self.words)
        return self.func(*values[:split], **dict(zip(self.words, values[split:])))

    def children(self) -> list[object]:
        return self.args

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.func, self.args, self.words)


def evaluate(arg: object) -> Any:
    """The value of one argument: a node's result, a filled template, or the literal itself."""
    if isinstance(arg, Node):
        return arg.result
    if isinstance(arg, Template):
        return arg.build()
    return arg


def call_nested(func: Any, args: tuple[object, ...], kwargs: dict[str, object] | None) -> Any:
    values = [evaluate(arg) for arg in args]
    if func is None:
        return values[0]
    if kwargs is None:
        return func(*values)
    words: dict[str, Any] = {}
    for word, value in kwargs.items():
        words[word] = evaluate(value)
    return func(*values, **words)
