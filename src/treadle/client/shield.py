"""Moments in which Ctrl-C has to wait.

Python calls the handlers of signals in its main thread, wherever that happens to be: half a message might be sent then,
or a coroutine be made and never be run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from inspect import CO_COROUTINE
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["Shield", "Steadied"]

#: What is behind the module ``signal``, which makes enumerations of all numbers: that takes eight times as long.
_signal: Final = import_module("_signal")
_get: Final[Callable[[int], Any]] = _signal.getsignal
_set: Final[Callable[[int, Any], Any]] = _signal.signal
_SIGINT: Final = int(signal.SIGINT)


class _Main:
    """The thread in which Python calls handlers of signals."""

    ident = threading.main_thread().ident

    @classmethod
    def find(cls) -> None:
        cls.ident = threading.main_thread().ident


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Main.find)


class Shield:
    """Puts off ``KeyboardInterrupt`` to the end of a ``with`` block that takes microseconds and does not wait."""

    __slots__ = ("_before", "_seen")

    def __enter__(self) -> None:
        self._seen: tuple[int, FrameType | None] | None = None
        self._before: Callable[[int, FrameType | None], Any] | None = None
        if threading.get_ident() == _Main.ident:
            handler = _get(_SIGINT)
            if callable(handler):
                _set(_SIGINT, self._note)
                self._before = handler

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = (number, frame)

    def __exit__(self, *exc_info: object) -> None:
        if self._before is not None:
            _set(_SIGINT, self._before)
            if self._seen is not None:
                self._before(*self._seen)


class Steadied:
    """Puts off ``KeyboardInterrupt`` while a coroutine of the client is about to call something, or has just done so.

    What it calls can be interrupted at any time: that is where the time goes.

    :param driver: the code that drives the coroutines, for which the same holds.
    """

    __slots__ = ("_before", "_driver", "_seen")

    def __init__(self, driver: CodeType) -> None:
        self._driver = driver

    def __enter__(self) -> Steadied:
        self._seen: tuple[int, FrameType | None] | None = None
        self._before: Callable[[int, FrameType | None], Any] | None = None
        if threading.get_ident() == _Main.ident:
            handler = _get(_SIGINT)
            if callable(handler):
                _set(_SIGINT, self._arrive)
                self._before = handler
        return self

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and (frame.f_code is self._driver or _is_ours(frame)):
            self._seen = (number, frame)
        elif self._before is not None:
            self._before(number, frame)

    def deliver(self) -> None:
        """Let go of an interrupt that was put off."""
        seen, self._seen = self._seen, None
        if seen is not None and self._before is not None:
            self._before(*seen)

    def __exit__(self, *exc_info: object) -> None:
        if self._before is not None:
            _set(_SIGINT, self._before)
            self.deliver()


def _is_ours(frame: FrameType) -> bool:
    """Whether this is a coroutine of the client's."""
    name = frame.f_globals.get("__name__")
    return bool(frame.f_code.co_flags & CO_COROUTINE) and isinstance(name, str) and name.startswith("treadle.client.")
