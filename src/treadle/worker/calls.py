"""Calling a task, and what the user sees of the exception that it raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from treadle.local.trim import trim
from treadle.wire.failures import PackedError, pack_error
from treadle.wire.values import unpack_call

__all__ = ["call", "failure"]

#: Modules whose frames, at the head of a traceback, only say that a task was called.
_OURS: Final = ("treadle.worker.", "treadle.wire.")


def call(func: Callable[..., Any], payload: bytes, values: Sequence[Any]) -> Any:
    """The result of a task.

    :param values: of its dependencies.
    :raises BaseException: whatever the task raises.
    """
    args, kwargs = unpack_call(payload, values)
    if kwargs is None:
        return func(*args)
    return func(*args, **kwargs)


def failure(error: BaseException) -> PackedError:
    """The exception of a task, packed, with the user's own frames only."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    return pack_error(error.with_traceback(trim(traceback)))


def _is_ours(traceback: TracebackType) -> bool:
    module = traceback.tb_frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(_OURS)
