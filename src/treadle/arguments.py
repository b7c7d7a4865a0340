"""The arguments of a delayed call: from what the caller wrote to the explicit form of a graph, and back to values.

What stands for a result (a delayed value, a collection of Dask) becomes a :class:`Ref`, wherever it is in the
built-in containers, named tuples, dataclasses and slices. A container without any is passed on as the object it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from treadle.errors import GraphError
from treadle.graph.plan import MAX_NESTING
from treadle.graph.spec import Data, Ref, Task
from treadle.operators import Operators
from treadle.tokens import tokenize

__all__ = ["ATOMS", "ITERATORS", "Collected", "Source", "fill", "pack"]

#: Types of values that nothing else can be inside of.
ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(len), type(lambda: 0)})

#: Iterators that are read as what they iterate over.
ITERATORS: dict[type, type] = {
    type(iter([])): list,
    type(iter(())): tuple,
    type(iter(set())): set,
}


class Source(Protocol):
    """What the graph of a computation is collected from: one task, and the sources of what it needs."""

    @property
    def _key(self) -> Any: ...
    @property
    def _task(self) -> Task | Data: ...
    @property
    def _deps(self) -> tuple[Source, ...]: ...
    @property
    def _named(self) -> bool: ...
    def _rest(self) -> tuple[Any, ...]:
        """What its class is called with, to make it anew, after the key, the task and the sources."""


class Collected:
    """A collection of Dask (an array, a bag, a dataframe) as one value: its graph and the task that puts it together.

    The graph is taken as it is, without Dask's optimization, so that collections share the tasks they have in common.
    """

    __slots__ = ("_deps", "_key", "_named", "_task", "graph")

    def __init__(self, key: Any, task: Task, deps: tuple[Source, ...], graph: Mapping[Any, Any]) -> None:
        self._key = key
        self._task = task
        self._deps = deps
        self._named = False
        #: The collection's own tasks, in Dask's form.
        self.graph = graph

    def _rest(self) -> tuple[Any, ...]:
        return (dict(self.graph),)


def pack(value: Any, found: list[Any], depth: int = 0) -> Any:
    """``value`` in explicit form; ``value`` itself if nothing in it stands for a result.

    :param found: is extended by the :class:`Source` of every result that is referred to.
    :raises GraphError: containers are nested too deep, or contain themselves.
    """
    cls = type(value)
    if cls in ATOMS:
        return value
    if isinstance(value, Operators):
        found.append(value)
        return Ref(value.key)
    if cls is list or cls is tuple:
        items = _pack_items(value, found, depth)
        return value if items is None else cls(items)
    if cls is dict:
        return _pack_dict(value, found, depth)
    if cls is set or cls is frozenset:
        items = _pack_items(value, found, depth)
        return value if items is None else Task(cls, items)
    if cls is slice:
        items = _pack_items((value.start, value.stop, value.step), found, depth)
        return value if items is None else Task(slice, *items)
    if cls in ITERATORS:
        # A copy of the iterator is read: the caller's stays where it is, and each computation starts anew.
        return pack(ITERATORS[cls](copy.copy(value)), found, depth)
    if cls is Ref or cls is Task or cls is Data:
        return Data(value)
    return _pack_special(value, cls, found, depth)


def _pack_special(value: Any, cls: type, found: list[Any], depth: int) -> Any:
    if isinstance(value, tuple):
        make = getattr(cls, "_make", None)
        items = None if make is None else _pack_items(value, found, depth)
        return value if make is None or items is None else make(items)
    if hasattr(cls, "__dataclass_fields__"):
        return _pack_dataclass(value, found, depth)
    if hasattr(cls, "__dask_graph__") and hasattr(cls, "__dask_keys__"):
        collected = _collect(value)
        if collected is not None:
            found.append(collected)
            return Ref(collected._key)
    return value


def _pack_items(items: Any, found: list[Any], depth: int) -> list[Any] | None:
    """The packed items; None if they are all as they were."""
    if depth >= MAX_NESTING:
        raise GraphError(
            f"containers among the arguments of a delayed call are nested more than {MAX_NESTING} deep, or contain "
            "themselves. Pass delayed(container, traverse=False), in which no delayed value is looked for."
        )
    depth += 1
    packed = [item if type(item) in ATOMS else pack(item, found, depth) for item in items]
    for before, after in zip(items, packed):
        if before is not after:
            return packed
    return None


def _pack_dict(value: dict[Any, Any], found: list[Any], depth: int) -> Any:
    words = _pack_items(value, found, depth)
    items = _pack_items(value.values(), found, depth)
    if words is not None:
        return Task(_make_dict, words, list(value.values()) if items is None else items)
    if items is not None:
        return dict(zip(value, items))
    return value


def _make_dict(words: list[Any], values: list[Any]) -> dict[Any, Any]:
    return dict(zip(words, values))


def _pack_dataclass(value: Any, found: list[Any], depth: int) -> Any:
    content = _content(value)
    packed = _pack_items(content.values(), found, depth)
    if packed is None:
        return value
    changed = {name: after for (name, before), after in zip(content.items(), packed) if before is not after}
    # The task must not keep the delayed values themselves, or it would drag their whole graph to another process.
    blank = _with_fields(value, content | dict.fromkeys(changed))
    return Task(_with_fields, Data(blank), changed)


def _with_fields(value: Any, content: dict[str, Any]) -> Any:
    """A copy of a dataclass instance with other values of some attributes.

    It is not made by calling the class: that one may have an ``__init__`` of its own, or fields without one.
    """
    try:
        made = object.__new__(type(value))
    except TypeError:  # it derives from a built-in type
        made = copy.copy(value)
    for name, item in (_content(value) | content).items():
        object.__setattr__(made, name, item)
    return made


def _content(value: Any) -> dict[str, Any]:
    """All that a dataclass instance holds, in fields, slots and other attributes."""
    from dataclasses import fields  # costs as much as all of Treadle, and is loaded already where there is a dataclass

    content = dict(getattr(value, "__dict__", ()))
    content.update({field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)})
    return content


def _collect(collection: Any) -> Collected | None:
    graph = collection.__dask_graph__()
    if graph is None:
        return None  # an object that may hold parts of Dask and holds none
    keys = collection.__dask_keys__()
    finalize, extra = collection.__dask_postcompute__()
    key = f"finalize-{tokenize(type(collection), keys)}"
    return Collected(key, Task(finalize, _refs(keys), *extra), (), graph)


def _refs(keys: Any) -> Any:
    return [_refs(key) for key in keys] if isinstance(keys, list) else Ref(keys)


def fill(value: Any, results: Mapping[Any, Any]) -> Any:
    """What :func:`pack` has packed, with results in place of the references."""
    cls = type(value)
    if cls in ATOMS:
        return value
    if cls is Ref:
        return results[value.key]
    if cls is Data:
        return value.value
    if cls is Task:
        return value.func(*[fill(arg, results) for arg in value.args])
    if cls is dict:
        items = [fill(item, results) for item in value.values()]
        return dict(zip(value, items)) if _changed(value.values(), items) else value
    if cls is list or cls is tuple or (isinstance(value, tuple) and hasattr(cls, "_make")):
        items = [fill(item, results) for item in value]
        make = getattr(cls, "_make", cls)
        return make(items) if _changed(value, items) else value
    return value


def _changed(before: Any, after: list[Any]) -> bool:
    return any(one is not other for one, other in zip(before, after))
