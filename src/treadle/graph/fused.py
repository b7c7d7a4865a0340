"""Dask's fused tasks: a small graph inside of one task, which Dask sorts anew each time that it runs one.

Sorting takes ten times as long as the work of a small block. Here it is done once, when the graph is read; what runs is
a list of steps.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from treadle.graph.foreign import NATIVE, REFERENCE, TASK, foreign_kind

__all__ = ["Steps", "dasks_own", "run_fused"]

#: How many of the steps that came as bytes are kept.
_KEPT: Final = 256

_kept: Final[dict[bytes, Steps]] = {}


class Steps:
    """The tasks inside of a fused task, each after its dependencies.

    :param tasks: by key. Keys that are not among them are inputs.
    :param outkey: the task whose result is that of all.
    :param inkeys: what the tasks call their inputs, in the order in which these are given.
    """

    __slots__ = ("inkeys", "outkey", "packed", "steps")

    def __init__(self, tasks: Mapping[Any, Any], outkey: Any, inkeys: Sequence[Any]) -> None:
        self.outkey = outkey
        self.inkeys = tuple(inkeys)
        #: A pickle of this, once somebody has made one.
        self.packed: bytes | None = None
        #: The key of each task, what is called with all values that are known, and those that no later step needs.
        self.steps: list[tuple[Any, Callable[[dict[Any, Any]], Any], tuple[Any, ...]]] = []
        needed = {outkey}
        for key in reversed(_sorted(tasks, outkey)):
            spent = [dep for dep in tasks[key].dependencies if dep not in needed]
            needed.update(spent)
            self.steps.append((key, _sorted_inside(tasks[key]), tuple(spent)))
        self.steps.reverse()

    def __repr__(self) -> str:
        return f"<{len(self.steps)} steps to {self.outkey!r}>"


class Inner:
    """A fused task inside of another one.

    :param inputs: values, references to values of the outer one, and task objects of Dask without a name.
    """

    __slots__ = ("inputs", "steps")

    def __init__(self, steps: Steps, inputs: Sequence[Any]) -> None:
        self.steps = steps
        self.inputs = tuple([(foreign_kind(type(each)), each) for each in inputs])

    def __repr__(self) -> str:
        return f"<Inner {self.steps!r}>"

    def __call__(self, found: dict[Any, Any]) -> Any:
        values = [
            each if kind == NATIVE else found[each.key] if kind == REFERENCE else each(found)
            for kind, each in self.inputs
        ]
        return run_fused(self.steps, *values)


def run_fused(steps: Steps | bytes, *values: Any) -> Any:
    """Run a fused task. :param steps: or a pickle of them, which is read once. :param values: the inputs."""
    if isinstance(steps, bytes):
        steps = _unpacked(steps)
    found = dict(zip(steps.inkeys, values))
    del values
    for key, run, spent in steps.steps:
        found[key] = run(found)
        for each in spent:
            del found[each]
    return found[steps.outkey]


def _unpacked(packed: bytes) -> Steps:
    steps = _kept.get(packed)
    if steps is None:
        steps = pickle.loads(packed)
        if len(_kept) >= _KEPT:
            _kept.clear()
        _kept[packed] = steps
    return steps


def dasks_own() -> object:
    """The function of Dask's fused tasks; None if this program does not use Dask."""
    return getattr(sys.modules.get("dask._task_spec"), "_execute_subgraph", None)


def _sorted(tasks: Mapping[Any, Any], outkey: Any) -> list[Any]:
    """The keys of the tasks that ``outkey`` needs, dependencies first."""
    placed: dict[Any, None] = {}
    stack = [outkey]
    while stack:
        missing = [dep for dep in tasks[stack[-1]].dependencies if dep in tasks and dep not in placed]
        if missing:
            stack.extend(missing)
        else:
            placed[stack.pop()] = None
    return list(placed)


def _sorted_inside(task: Any) -> Any:
    """A fused task inside of another one, if that is what this is; else the task."""
    if foreign_kind(type(task)) != TASK or task.func is not dasks_own():
        return task
    tasks, outkey, inkeys, *inputs = task.args
    return Inner(Steps(tasks, outkey, inkeys), inputs)
