"""From a graph as the user wrote it to nodes that can run.

One walk from the keys that are asked for does it all: what nobody needs is never looked at, each value is
converted once, cycles and missing keys are found, and the nodes come out with every task after its
dependencies. The walk keeps its own stack, so that a chain of a million tasks is as good as a short one; only
values nested inside *one* task's arguments recurse, and their depth is limited.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from treadle.errors import CycleError, GraphError, InvalidKeyError, MissingDependencyError, MissingKeyError
from treadle.graph.foreign import ALIAS, CONTAINER, DATA, NATIVE, REFERENCE, TASK, foreign_kind
from treadle.graph.fused import dasks_own, run_fused
from treadle.graph.node import CLOSED, NEW, NO_NODES, OPEN, Call, Dicted, Listed, Node
from treadle.graph.shapes import Shapes
from treadle.graph.spec import Data, Ref, Task

__all__ = ["MAX_NESTING", "Plan", "as_dict", "read", "unquote"]

#: How deep containers and calls may be nested inside the arguments of one task.
MAX_NESTING: Final = 200

_MISSING: Final = object()


@final
class Plan:
    """What has to run for some keys of a graph: the nodes, each after its dependencies."""

    def __init__(
        self, keys: object, nodes: list[Node], found: dict[object, Node], targets: list[Node], foreign: bool
    ) -> None:
        #: The keys as they were asked for: one key, or lists of keys, nested.
        self.keys: Final = keys
        #: The tasks to run. Nodes whose value is known from the start are not among them.
        self.nodes: list[Node] = nodes
        #: Every key that was met, also the names of aliases and of literals.
        self.found: Final = found
        #: The distinct nodes behind ``keys``.
        self.targets: Final = targets
        #: True if task objects of Dask are among the nodes.
        self.foreign: Final = foreign

    def results(self, graph: object) -> Any:
        """The results in the shape of ``keys``: lists, or tuples if that is what the maker of ``graph`` expects."""
        return _collect(self.keys, self.found, self.foreign or not isinstance(graph, Mapping))


def _collect(keys: object, found: dict[object, Node], tuples: bool) -> Any:
    if isinstance(keys, list):
        results = [_collect(key, found, tuples) for key in keys]
        return tuple(results) if tuples else results
    return found[keys].result


def as_dict(graph: object) -> dict[object, object]:
    """``graph`` as a dict; the expressions of Dask's collections are asked for the graph they stand for."""
    materialize: Any = getattr(graph, "__dask_graph__", None)
    if not isinstance(graph, Mapping) and materialize is not None:
        graph = materialize()
    if not isinstance(graph, Mapping):
        raise GraphError(
            f"a graph must be a mapping from keys to tasks and values, not {type(graph).__name__}: {graph!r:.200}"
        )
    return graph if isinstance(graph, dict) else dict(graph)


def read(graph: dict[object, object], keys: object) -> Plan:
    """Convert what ``keys`` need of ``graph``.

    :param graph: values in plain or explicit form, or task objects of Dask, in any mixture.
    :param keys: a key, or a list of keys and of such lists.
    :raises GraphError: a cycle, a missing key, a key of the wrong type, or arguments nested too deep.
    """
    reader = _Reader(graph)
    targets: list[Node] = []
    wanted: list[object] = []
    _flatten(keys, wanted)
    for key in wanted:
        node = reader.target(key)
        if node.mark != _TARGET:
            node.mark = _TARGET
            targets.append(node)
    for node in targets:
        node.mark = -1
    for node in targets:
        if node.state == NEW:
            reader.walk(node)
    return Plan(keys, reader.nodes, reader.found, targets, reader.foreign_read)


#: Mark of a node that is already among the targets.
_TARGET: Final = -2


def _flatten(keys: object, into: list[object]) -> None:
    if isinstance(keys, list):
        for key in keys:
            _flatten(key, into)
    else:
        into.append(keys)


@final
class _Reader:
    def __init__(self, graph: dict[object, object]) -> None:
        self.graph: Final = graph
        self.found: dict[object, Node] = {}
        self.nodes: list[Node] = []
        #: The node that is being converted, its dependencies so far, and a mark to tell which those are.
        self.node: Node = Node(None)
        self.deps: list[Node] = []
        self.serial: int = 0
        self.fused: Final = dasks_own()
        self.shapes: Final = Shapes()
        self.foreign_read: bool = False

    def target(self, key: object) -> Node:
        cls = type(key)
        if cls is bool or not isinstance(key, (str, int, bytes, float, tuple)):
            raise InvalidKeyError(key)
        try:
            node = self.lookup(key)
        except InvalidKeyError:
            raise  # of the key that an alias names
        except TypeError:
            raise InvalidKeyError(key) from None
        if node is None:
            raise MissingKeyError(key, _similar(key, self.graph))
        return node

    def walk(self, root: Node) -> None:
        """Append ``root`` and all that it needs to ``nodes``, dependencies first."""
        nodes = self.nodes
        stack: list[Node] = [root]
        self.convert(root)
        while stack:
            node = stack[-1]
            deps = node.deps
            visited = node.waiting
            count = len(deps)
            descended = False
            while visited < count:
                dep = deps[visited]
                visited += 1
                if dep.state == CLOSED:
                    continue
                if dep.state == OPEN:
                    raise CycleError(_cycle(stack, dep))
                node.waiting = visited
                self.convert(dep)
                if dep.state == CLOSED:
                    continue
                stack.append(dep)
                descended = True
                break
            if descended:
                continue
            stack.pop()
            node.state = CLOSED
            if not node.done:
                self.link(node, deps)
                nodes.append(node)

    def link(self, node: Node, deps: list[Node]) -> None:
        """Tell the dependencies of ``node`` that it waits for them; literals are no dependencies."""
        known = False
        for dep in deps:
            if dep.done:
                known = True
            elif dep.dependents is NO_NODES:
                dep.dependents = [node]
            else:
                dep.dependents.append(node)
        if known:
            node.deps = [dep for dep in deps if not dep.done]
        node.waiting = len(node.deps)

    def convert(self, node: Node) -> None:
        """Read the value of ``node`` (kept in ``result`` until now) into its function and arguments."""
        value: object = node.result
        node.result = None
        node.state = OPEN
        self.serial += 1
        self.node = node
        if type(value) is tuple and value and callable(value[0]):
            self.convert_plain(node, value)
        elif type(value) is Task:
            self.convert_explicit(node, value)
        elif type(value) is Data:
            self.finish(node, value.value)
        else:
            kind = foreign_kind(type(value))
            if kind == NATIVE:
                self.convert_value(node, value)
            else:
                self.convert_foreign(node, value, kind)

    def finish(self, node: Node, value: object) -> None:
        node.result = value
        node.done = True
        node.state = CLOSED
        node.rank = -self.serial  # its name in other processes; tasks have ranks from 0

    def convert_plain(self, node: Node, value: tuple[object, ...]) -> None:
        node.func = value[0]
        args: list[object] = []
        self.deps = []
        first = True
        for item in value:
            if first:
                first = False
                continue
            arg = self.plain(item, 0)
            if arg is not item and not isinstance(arg, Node):
                node.nested = True
            args.append(arg)
        node.args = tuple(args)
        if self.deps:
            node.deps = self.deps

    def convert_explicit(self, node: Node, task: Task) -> None:
        node.func = task.func
        self.deps = []
        args: list[object] = []
        for item in task.args:
            arg = self.explicit(item, 0)
            if arg is not item and not isinstance(arg, Node):
                node.nested = True
            args.append(arg)
        node.args = tuple(args)
        if task.kwargs:
            node.nested = True
            words: dict[str, object] = {}
            for word, item in task.kwargs.items():
                words[word] = self.explicit(item, 0)
            node.kwargs = words
        if self.deps:
            node.deps = self.deps

    def convert_foreign(self, node: Node, value: Any, kind: int) -> None:
        self.deps = []
        self.foreign_read = True
        if kind == DATA:
            self.finish(node, value.value)
            return
        if kind != TASK:
            node.args = (self.foreign(value, 0),)
            node.nested = True
        else:
            func, given = self.sorted(value)
            node.func = func
            args: list[object] = []
            for item in given:
                arg = self.foreign(item, 0)
                if arg is not item and not isinstance(arg, Node):
                    node.nested = True
                args.append(arg)
            node.args = tuple(args)
            if value.kwargs:
                node.nested = True
                words: dict[str, object] = {}
                for word, item in value.kwargs.items():
                    words[word] = self.foreign(item, 0)
                node.kwargs = words
        if self.deps:
            node.deps = self.deps

    def convert_value(self, node: Node, value: object) -> None:
        """A value of the graph that is no task: a literal, or a container with keys in it."""
        self.deps = []
        template = self.plain(value, 0)
        if template is value:
            self.finish(node, value)
            return
        node.args = (template,)
        node.nested = True
        if self.deps:
            node.deps = self.deps

    def depend(self, node: Node) -> Node:
        if node.mark != self.serial:
            node.mark = self.serial
            self.deps.append(node)
        return node

    def plain(self, value: object, depth: int) -> object:
        """One argument in plain form: a node, a template, or ``value`` itself if there is nothing to fill in."""
        cls = type(value)
        if cls is str or cls is int or cls is bytes or cls is float:
            node = self.lookup(value)
            return value if node is None else self.depend(node)
        if cls is tuple:
            assert isinstance(value, tuple)
            if value and callable(value[0]):
                self.check_depth(depth)
                args = [self.plain(item, depth + 1) for item in value[1:]]
                return Call(value[0], args, [])
            node = self.find(value)
            if node is not None:
                return self.depend(node)
            return self.plain_items(value, list(value), tuple, depth)
        if cls is list:
            assert isinstance(value, list)
            return self.plain_items(value, value, None, depth)
        if cls is dict:
            assert isinstance(value, dict)
            self.check_depth(depth)
            olds = list(value.values())
            news = [self.plain(old, depth + 1) for old in olds]
            return Dicted(list(value), news) if _changed(olds, news) else value
        if cls is set or cls is frozenset:
            assert isinstance(value, (set, frozenset))
            return self.plain_items(value, list(value), cls, depth)
        return self.special(value, depth)

    def plain_items(self, value: object, items: list[object], make: Any, depth: int) -> object:
        self.check_depth(depth)
        filled = [self.plain(item, depth + 1) for item in items]
        return Listed(filled, make) if _changed(items, filled) else value

    def special(self, value: object, depth: int) -> object:
        """An argument of a type that is not of plain form: our own objects, Dask's, or just a value."""
        cls = type(value)
        if cls is Ref or cls is Task or cls is Data:
            return self.explicit(value, depth)
        if foreign_kind(cls) != NATIVE:
            return self.foreign(value, depth)
        if isinstance(value, (str, int, bytes, float, tuple)) and cls is not bool:
            node = self.find(value)  # NumPy's strings and floats, members of enumerations, named tuples
            if node is not None:
                return self.depend(node)
        if isinstance(value, tuple) and hasattr(cls, "_make"):
            make: Any = getattr(cls, "_make")  # noqa: B009 (a named tuple's own constructor)
            return self.plain_items(value, list(value), make, depth)
        return value

    def explicit(self, value: object, depth: int) -> object:
        """One argument in explicit form."""
        cls = type(value)
        if cls is Ref:
            assert isinstance(value, Ref)
            return self.depend(self.require(value.key))
        if cls is Task:
            assert isinstance(value, Task)
            self.check_depth(depth)
            args = [self.explicit(item, depth + 1) for item in value.args]
            args.extend([self.explicit(item, depth + 1) for item in value.kwargs.values()])
            return Call(value.func, args, list(value.kwargs))
        if cls is Data:
            assert isinstance(value, Data)
            return Listed([value.value], unquote)
        if cls is dict:
            assert isinstance(value, dict)
            self.check_depth(depth)
            olds = list(value.values())
            news = [self.explicit(old, depth + 1) for old in olds]
            return Dicted(list(value), news) if _changed(olds, news) else value
        make: Any = None
        if cls is list:
            make = None
        elif cls is tuple or cls is set or cls is frozenset:
            make = cls
        elif isinstance(value, tuple) and hasattr(cls, "_make"):
            make = getattr(cls, "_make")  # noqa: B009
        else:
            return value
        self.check_depth(depth)
        items: list[object] = list(value)  # type: ignore[call-overload]
        filled = [self.explicit(item, depth + 1) for item in items]
        return Listed(filled, make) if _changed(items, filled) else value

    def foreign(self, value: Any, depth: int) -> object:
        """One argument of a foreign task object: only its own classes stand for something else."""
        kind = foreign_kind(type(value))
        if kind == NATIVE:
            return value
        if kind == REFERENCE:
            return self.depend(self.require(value.key))
        if kind == ALIAS:
            return self.depend(self.require(value.target))
        self.check_depth(depth)
        if kind == DATA:
            return Listed([value.value], unquote)
        if kind == TASK:
            func, given = self.sorted(value)
            args = [self.foreign(item, depth + 1) for item in given]
            words = dict(value.kwargs)
            args.extend([self.foreign(item, depth + 1) for item in words.values()])
            return Call(func, args, list(words))
        args = [self.foreign(item, depth + 1) for item in value.args]
        if kind == CONTAINER:
            return Listed(args, None if value.klass is list else value.klass)
        return Listed(args, _pairs_to_dict)

    def sorted(self, task: Any) -> tuple[Any, Any]:
        """Function and arguments of a foreign task; if it is a fused one, sorted here and not when it runs."""
        args: Any = task.args
        if self.fused is None or task.func is not self.fused:
            return task.func, args
        steps, rest = self.shapes.read(args[0], args[1], args[2])
        return run_fused, (steps, *args[3:], *rest)

    def check_depth(self, depth: int) -> None:
        if depth >= MAX_NESTING:
            raise GraphError(
                f"the arguments of task {self.node.key!r} are nested more than {MAX_NESTING} deep; "
                "give the inner tasks keys of their own and refer to those."
            )

    def require(self, key: object) -> Node:
        try:
            node = self.lookup(key)
        except InvalidKeyError:
            raise  # of the key that an alias names
        except TypeError:
            raise InvalidKeyError(key) from None
        if node is None:
            raise MissingDependencyError(self.node.key, key, _similar(key, self.graph))
        return node

    def find(self, value: object) -> Node | None:
        """The node of ``value`` if it is a key; a value with something unhashable in it is none."""
        try:
            return self.lookup(value)
        except InvalidKeyError:
            raise  # of the key that an alias names
        except TypeError:
            return None

    def lookup(self, key: object) -> Node | None:
        """The node of ``key``, made at first use; None if the graph has no such key."""
        node = self.found.get(key)
        if node is not None:
            return node
        value = self.graph.get(key, _MISSING)
        if value is _MISSING:
            return None
        if not (type(value) is tuple and value and callable(value[0])):
            target = self.alias(value)
            if target is not _MISSING:
                return self.follow(key, target)
        node = Node(key)
        node.result = value
        self.found[key] = node
        return node

    def alias(self, value: Any) -> object:
        """The key that a value of the graph merely repeats, or ``_MISSING``."""
        cls = type(value)
        if cls is str or cls is int or cls is bytes or cls is float:
            return value if value in self.graph else _MISSING
        if cls is tuple:
            try:
                return value if value in self.graph else _MISSING
            except TypeError:
                return _MISSING
        if cls is Ref:
            return value.key
        kind = foreign_kind(cls)
        if kind == ALIAS:
            return value.target
        if kind == REFERENCE:
            return value.key
        return _MISSING

    def follow(self, key: object, target: object) -> Node:
        """Find the node behind a chain of aliases that starts with ``key -> target``."""
        names: dict[object, None] = {key: None}
        name = key
        while True:
            try:
                closed = target in names
            except TypeError:
                raise InvalidKeyError(target) from None
            if closed:
                path = list(names)
                raise CycleError([*path[path.index(target) :], target])
            names[target] = None
            value = self.graph.get(target, _MISSING)
            if value is _MISSING:
                raise MissingDependencyError(name, target, _similar(target, self.graph))
            if type(value) is tuple and value and callable(value[0]):
                break
            name, target = target, self.alias(value)
            if target is _MISSING:
                target = name
                break
        node = self.found.get(target)
        if node is None:
            node = Node(target)
            node.result = self.graph[target]
        for alias in names:
            self.found[alias] = node
        return node


def _changed(before: list[object], after: list[object]) -> bool:
    for index, item in enumerate(before):  # noqa: SIM110 (mypyc compiles this loop, not a generator)
        if after[index] is not item:
            return True
    return False


def unquote(values: list[object]) -> object:
    """Makes the value of a quoted literal: of :class:`Data`, or of what stands for it in foreign graphs."""
    return values[0]


def _pairs_to_dict(values: list[object]) -> dict[object, object]:
    return dict(zip(values[::2], values[1::2]))


def _cycle(stack: list[Node], back: Node) -> list[object]:
    keys: list[object] = []
    for node in stack:
        if keys or node is back:
            keys.append(node.key)
    keys.append(back.key)
    return keys


def _similar(key: object, graph: dict[object, object]) -> list[object]:
    """A few keys of the graph that the caller may have meant."""
    import difflib

    names: dict[str, object] = {}
    for other in graph:
        if type(other) is type(key):
            names[repr(other)] = other
            if len(names) >= 10_000:
                break
    return [names[name] for name in difflib.get_close_matches(repr(key), list(names), n=2, cutoff=0.7)]
