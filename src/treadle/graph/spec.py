"""The explicit form of a task: nothing in it has to be guessed.

In the plain form of a graph a tuple headed by a callable is a task, and any argument that equals a key is
a dependency. That is short to write and sometimes ambiguous: an argument that happens to equal a key cannot
be passed as itself. In explicit form a dependency is a :class:`Ref` and everything else is a value.
"""

from __future__ import annotations

from typing import Any, Final, final

__all__ = ["Data", "Ref", "Task"]


@final
class Ref:
    """Stands for the result of another task: ``Ref(key)``."""

    def __init__(self, key: object) -> None:
        self.key: Final = key

    def __repr__(self) -> str:
        return f"Ref({self.key!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.key == other.key

    def __hash__(self) -> int:
        return hash(("Ref", self.key))

    def __reduce__(self) -> tuple[Any, ...]:
        return Ref, (self.key,)


@final
class Data:
    """A value of a graph that is to be taken as it is, even where it looks like a task or a key."""

    def __init__(self, value: object) -> None:
        self.value: Final = value

    def __repr__(self) -> str:
        return f"Data({self.value!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Data, (self.value,)


@final
class Task:
    """A call that is to be made: ``Task(func, *args, **kwargs)``.

    Every :class:`Ref` among the arguments, also inside lists, tuples, sets and the values of dicts, is replaced
    by the result it names before the call; a nested ``Task`` is called in place. All else is passed as it is.
    """

    # The name is one that no keyword has: compiled, a positional-only parameter still answers to its name, and
    # ``Task(f, func=1)`` must be able to pass ``func`` on.
    def __init__(self, __func: object, /, *args: object, **kwargs: object) -> None:
        if not callable(__func):
            raise TypeError(f"the first argument of Task must be callable, not {__func!r}")
        self.func: Final = __func
        self.args: Final = args
        self.kwargs: Final = kwargs

    def __repr__(self) -> str:
        name = getattr(self.func, "__qualname__", None) or repr(self.func)
        parts = [name]
        parts.extend([repr(arg) for arg in self.args])
        parts.extend([f"{word}={value!r}" for word, value in self.kwargs.items()])
        return f"Task({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Task)
            and self.func == other.func
            and self.args == other.args
            and self.kwargs == other.kwargs
        )

    def __hash__(self) -> int:
        return hash(("Task", self.func, len(self.args)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task, (self.func, self.args, self.kwargs)


def _rebuild_task(func: object, args: tuple[object, ...], kwargs: dict[str, object]) -> Task:
    return Task(func, *args, **kwargs)
