"""Errors of tasks, made into exceptions that hold on to nothing but themselves."""

from __future__ import annotations

from threading import Thread
from typing import Any

from treadle.wire.failures import unpack_error

__all__ = ["make_exception"]


def make_exception(error: Any, key: object, culprit: object) -> BaseException:
    """The exception of :func:`treadle.wire.failures.unpack_error`.

    The frames in its traceback are made anew by running something in them, and each remembers who called it: all that
    are active here, with their variables, would live as long as the exception. In a new thread there are none.
    """
    made: list[BaseException] = []
    thread = Thread(target=_make, args=(made, error, key, culprit), name="treadle-error")
    thread.start()
    thread.join()
    return made.pop()


def _make(into: list[BaseException], error: Any, key: object, culprit: object) -> None:
    into.append(unpack_error(error, key, culprit))
