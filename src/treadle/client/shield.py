"""Moments in which Ctrl-C has to wait: between what must happen together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Shield"]


class Shield:
    """Puts off ``KeyboardInterrupt`` to the end of a ``with`` block that takes microseconds, and never waits for long.

    Python calls the handlers of signals in its main thread, wherever that happens to be: half a message might be sent.
    """

    __slots__ = ("_before", "_seen")

    def __enter__(self) -> None:
        self._seen: tuple[int, FrameType | None] | None = None
        self._before: Callable[[int, FrameType | None], Any] | None = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                signal.signal(signal.SIGINT, self._note)
                self._before = handler

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = (number, frame)

    def __exit__(self, *exc_info: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._seen is not None:
                self._before(*self._seen)
