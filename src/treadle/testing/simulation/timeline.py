"""A clock that only moves when it is told to, and what is to happen at which time of it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

__all__ = ["Timeline"]


class Timeline:
    """Events in the order of their time; those of the same time in the order in which they were announced.

    Some events are *background*: a clock's tick, a heartbeat. They come again and again, and nothing waits for them.
    """

    def __init__(self) -> None:
        #: Seconds since the beginning.
        self.now: float = 0.0
        #: How many events have happened.
        self.steps: int = 0
        #: How many events are to come that are not background.
        self.pending: int = 0
        #: When the last event happened that was not background.
        self.last: float = 0.0
        self._heap: list[tuple[float, int, bool, Callable[..., object], tuple[Any, ...]]] = []
        self._serial: int = 0

    def at(self, time: float, action: Callable[..., object], *args: Any) -> None:
        """``action(*args)`` is to be called at ``time``, or now if that is past."""
        self._serial += 1
        self.pending += 1
        heappush(self._heap, (time, self._serial, True, action, args))

    def after(self, delay: float, action: Callable[..., object], *args: Any) -> None:
        """``action(*args)`` is to be called in ``delay`` seconds."""
        self.at(self.now + delay, action, *args)

    def background(self, time: float, action: Callable[..., object], *args: Any) -> None:
        """The same as :meth:`at` for what nothing waits for."""
        self._serial += 1
        heappush(self._heap, (time, self._serial, False, action, args))

    def step(self) -> bool:
        """Move to the next event and let it happen. False if there is none."""
        if not self._heap:
            return False
        time, _, awaited, action, args = heappop(self._heap)
        if time > self.now:
            self.now = time
        if awaited:
            self.pending -= 1
            self.last = self.now
        self.steps += 1
        action(*args)
        return True

    def run(self, until: float) -> None:
        """Let everything happen up to a time, and stop at that time."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.step()
        self.now = max(self.now, until)
