"""Several calls, one after another, as one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from treadle.graph.spec import Data, Ref, Task

__all__ = ["BEFORE", "Chain"]

#: In the tasks of a chain: ``BEFORE`` is the result of the step before, ``Ref(i)`` is argument ``i`` of the chain.
BEFORE = Ref(-1)

#: How many functions the name of a chain tells at each end.
_SHOWN = 4


class Chain:
    """The function of a fused task: calls its steps in order and returns what the last one returns.

    :param keys: the key that each step had in the graph.
    :param tasks: what each step calls, with :data:`BEFORE` and ``Ref(i)`` among the arguments.

    The result of a step is dropped as soon as the next step has run. An exception carries a note with the key of the
    step that raised it.
    """

    def __init__(self, keys: Sequence[object], tasks: Sequence[Task]) -> None:
        self.keys = tuple(keys)
        self.tasks = tuple(tasks)
        self._steps: list[_Step] | None = None

    @property
    def __name__(self) -> str:
        """The names of the functions, as in ``"inc-add-sum"``; those in the middle of a long chain are left out."""
        tasks = self.tasks
        if len(tasks) <= 2 * _SHOWN + 1:
            return "-".join([_name(task.func) for task in tasks])
        ends = [_name(task.func) for task in (*tasks[:_SHOWN], *tasks[-_SHOWN:])]
        ends.insert(_SHOWN, f"({len(tasks) - 2 * _SHOWN} more)")
        return "-".join(ends)

    def __repr__(self) -> str:
        return f"<Chain {self.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Chain, (self.keys, self.tasks)

    def __call__(self, *inputs: Any) -> Any:
        steps = self._steps
        if steps is None:
            # Prepared by whoever runs it, not by whoever plans it. Two threads at once would do no harm.
            self._steps = steps = [_Step(task) for task in self.tasks]
        result: Any = None
        done = 0
        try:
            for step in steps:
                result = step.run(inputs, result)
                done += 1
        except BaseException as error:
            _note(error, f"in step {self.keys[done]!r} of a fused task")
            raise
        return result


class _Step:
    """One call, taken apart so that little is left to do when it is made."""

    __slots__ = ("args", "func", "holes", "kwargs", "nested")

    def __init__(self, task: Task) -> None:
        self.func: Callable[..., Any] = task.func
        #: The literals, and where among them an input goes, and where a value that is built from inputs.
        self.args: list[Any] = []
        self.holes: list[tuple[int, int]] = []
        self.nested: list[tuple[int, object]] = []
        self.kwargs = task.kwargs
        for position, arg in enumerate(task.args):
            if type(arg) is Ref:
                self.holes.append((position, arg.key))  # type: ignore[arg-type]
            elif type(arg) in (Task, list, tuple, dict):
                self.nested.append((position, arg))
            self.args.append(arg.value if type(arg) is Data else arg)

    def run(self, inputs: tuple[Any, ...], before: Any) -> Any:
        args = self.args.copy()
        for position, index in self.holes:
            args[position] = before if index < 0 else inputs[index]
        for position, value in self.nested:
            args[position] = _fill(value, inputs, before)
        if self.kwargs:
            return self.func(*args, **_fill(self.kwargs, inputs, before))
        return self.func(*args)


def _fill(value: Any, inputs: tuple[Any, ...], before: Any) -> Any:
    """The value that an argument in explicit form stands for."""
    cls = type(value)
    if cls is Ref:
        return before if value.key < 0 else inputs[value.key]
    if cls is Data:
        return value.value
    if cls is list:
        return [_fill(item, inputs, before) for item in value]
    if cls is tuple:
        return tuple([_fill(item, inputs, before) for item in value])
    if cls is dict:
        return {word: _fill(item, inputs, before) for word, item in value.items()}
    if cls is Task:
        return value.func(*_fill(value.args, inputs, before), **_fill(value.kwargs, inputs, before))
    return value


def _name(func: Any) -> str:
    inner = getattr(func, "func", None)  # functools.partial and its like
    return str(getattr(func, "__name__", None) or getattr(inner, "__name__", None) or type(func).__name__)


def _note(error: BaseException, note: str) -> None:
    try:
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:  # Python 3.10 keeps notes but does not print them
            error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
    except AttributeError:
        pass  # an exception that takes no new attributes
