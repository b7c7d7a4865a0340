"""What the fused tasks of one graph have in common.

The blocks of a collection differ in nothing but their keys and a few literals, the number of the partition for one.
They share their steps, and are given those literals as further inputs: what is equal is made, pickled and read once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, NamedTuple

from treadle.graph.foreign import ALIAS, CONTAINER, DATA, MAPPING, NATIVE, REFERENCE, TASK, foreign_kind
from treadle.graph.fused import Steps, dasks_own

__all__ = ["Shapes"]

#: The types of literals that nobody can change, so that blocks may share them.
_ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes, FunctionType, BuiltinFunctionType})


class Leaf(NamedTuple):
    """The key, in shared steps, of a literal that is not the same in all blocks."""

    number: int


class Shapes:
    """Reads the fused tasks of one graph."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], _Shape] = {}

    def __repr__(self) -> str:
        return f"<{len(self._known)} shapes of fused tasks>"

    def read(self, tasks: Mapping[Any, Any], outkey: Any, inkeys: Sequence[Any]) -> tuple[Steps, list[Any]]:
        """The steps of a fused task, and what they are to be given after its inputs."""
        found = _Description()
        try:
            found.block(tasks, outkey, inkeys)
        except (_Unlike, KeyError):
            return Steps(tasks, outkey, inkeys), []
        leaves = found.leaves
        name = tuple(found.marks)
        shape = self._known.get(name)
        if shape is None:
            shape = self._known[name] = _Shape(tasks, outkey, inkeys, leaves)
        else:
            shape.fit(leaves)
        return shape.steps, [leaves[index] for index in shape.varying]


class _Unlike(Exception):
    """There is something in a fused task that is not known here, so that it shares its steps with none."""


class _Shape:
    """Fused tasks that differ in their keys and literals only. The parameters are those of the first one."""

    def __init__(self, tasks: Mapping[Any, Any], outkey: Any, inkeys: Sequence[Any], leaves: list[Any]) -> None:
        self._sample = (tasks, outkey, inkeys)
        self._leaves = leaves
        self._same = [index for index, leaf in enumerate(leaves) if _lasts(leaf)]
        self._make()

    def fit(self, leaves: list[Any]) -> None:
        """Have the steps serve a task with these literals, too."""
        known = self._leaves
        for index in self._same:
            if leaves[index] is not known[index] and not _equal(leaves[index], known[index]):
                self._same = [each for each in self._same if _equal(leaves[each], known[each])]
                self._make()
                return

    def _make(self) -> None:
        same = set(self._same)
        #: The positions of the literals that are inputs.
        self.varying = [index for index in range(len(self._leaves)) if index not in same]
        tasks, outkey, inkeys = self._sample
        if self.varying:
            tasks = _Copy(self.varying).block(tasks)
        self.steps = Steps(tasks, outkey, [*inkeys, *map(Leaf, self.varying)])


def _lasts(leaf: Any) -> bool:
    kind = type(leaf)
    return kind in _ATOMS or isinstance(leaf, type) or (kind is tuple and all(map(_lasts, leaf)))


def _equal(left: Any, right: Any) -> bool:
    """Whether two literals that last cannot be told apart."""
    kind = type(left)
    if left is right:
        return True
    if kind is not type(right) or kind in (FunctionType, BuiltinFunctionType) or isinstance(left, type):
        return False
    if kind is tuple:
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right and (kind is not float or left))  # zeros differ in their signs


class _Description:
    """What fused tasks of the same shape have in common, which are ``marks``, and their literals: ``leaves``."""

    def __init__(self) -> None:
        self.marks: list[Any] = []
        self.leaves: list[Any] = []
        self._own = dasks_own()

    def block(self, tasks: Mapping[Any, Any], outkey: Any, inkeys: Sequence[Any]) -> None:
        """Describe a fused task. Keys are told by their positions.

        :raises _Unlike: not all is known here. :raises KeyError: a reference leads nowhere.
        """
        keys = [*inkeys, *tasks]
        places = {key: place for place, key in enumerate(keys)}
        if len(places) < len(keys):
            raise _Unlike
        self.marks += (len(inkeys), len(tasks), places[outkey])
        for task in tasks.values():
            self._value(task, places)

    def _value(self, value: Any, places: dict[Any, int]) -> None:
        marks = self.marks
        kind = foreign_kind(type(value))
        marks.append(kind)
        if kind == NATIVE:
            self.leaves.append(value)
        elif kind == REFERENCE:
            marks.append(places[value.key])
        elif kind == ALIAS:
            marks.append(places[value.target])
        elif kind == DATA:
            if foreign_kind(type(value.value)) != NATIVE:
                raise _Unlike
            self.leaves.append(value.value)
        else:
            args, kwargs = value.args, value.kwargs if kind == TASK else {}
            if kind == TASK:
                marks += (id(value.func), *kwargs)
                if value.func is self._own:
                    self.block(*args[:3])
                    args = args[3:]
            elif kind == CONTAINER and value.klass not in (list, tuple):
                raise _Unlike
            else:
                marks.append(type(value))
            marks.append(len(args))
            for arg in args:
                self._value(arg, places)
            for arg in kwargs.values():
                self._value(arg, places)


class _Copy:
    """Copies tasks with references in the place of some literals, which are met in the order of the description."""

    def __init__(self, varying: list[int]) -> None:
        self._varying = set(varying)
        self._met = 0
        self._own = dasks_own()
        self._spec: Any = sys.modules["dask._task_spec"]

    def block(self, tasks: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: self._value(task, key) for key, task in tasks.items()}

    def _value(self, value: Any, key: Any = None) -> Any:
        """:param key: of what is not an argument."""
        kind = foreign_kind(type(value))
        if kind in (NATIVE, DATA):
            leaf = Leaf(self._met)
            self._met += 1
            if leaf.number not in self._varying:
                return value
            return self._spec.TaskRef(leaf) if kind == NATIVE else self._spec.Alias(key, leaf)
        if kind in (REFERENCE, ALIAS):
            return value
        if kind == TASK:
            args = self._inner(*value.args) if value.func is self._own else list(map(self._value, value.args))
            words = {word: self._value(arg) for word, arg in value.kwargs.items()}
            return self._spec.Task(value.key, value.func, *args, **words)
        args = list(map(self._value, value.args))
        if kind == MAPPING:
            return type(value)(list(zip(args[::2], args[1::2])))
        return type(value)(value.klass(args))

    def _inner(self, tasks: Mapping[Any, Any], outkey: Any, inkeys: Sequence[Any], *inputs: Any) -> list[Any]:
        """The arguments of a fused task inside of another one, which hands on what varies."""
        start = self._met
        copied = self.block(tasks)
        within = [Leaf(number) for number in range(start, self._met) if number in self._varying]
        given = [*map(self._value, inputs), *map(self._spec.TaskRef, within)]
        return [copied, outkey, (*inkeys, *within), *given]
