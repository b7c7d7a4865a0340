"""Looks, many times a second, at what the threads that execute tasks are doing."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Final, TypeAlias

from treadle.worker.calls import call

__all__ = ["Profiler", "Sample", "Samples"]

#: Seconds between two looks: while there is something new to see, and at most. Each look interrupts the tasks.
SHORT: Final = 0.02
LONG: Final = 0.1
#: By what the pause grows where there was nothing new.
GROWTH: Final = 1.25
#: Seconds that are counted together, and how many such counts are kept.
SLICE: Final = 10.0
SLICES: Final = 360
#: How deep a stack is looked at, beginning with the task, and how many different ones are counted in a slice.
DEPTH: Final = 100
STACKS: Final = 2000

#: Name, file and first line of a function.
Frame: TypeAlias = "tuple[str, str, int]"
#: Seconds, and the functions that were active for so long, the task's own first.
Sample: TypeAlias = "tuple[float, list[Frame]]"
Samples: TypeAlias = "list[Sample]"

_Stack: TypeAlias = "tuple[CodeType, ...]"
#: Stands for a stack, because to hash code is slow.
_Ident: TypeAlias = "tuple[int, ...]"


class Profiler:
    """Counts stacks. It is a thread of its own, which costs the others a few milliseconds in a second at most.

    What it counts for a stack is the time since the last look, so that no share changes with the pauses.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        #: When each began, in seconds since the epoch, and for how long each stack was seen.
        self._slices: Final[deque[tuple[float, dict[_Ident, float]]]] = deque(maxlen=SLICES)
        self._stacks: Final[dict[_Ident, _Stack]] = {}
        #: What there was to be seen at the last look, and the pause after it.
        self._seen: set[_Ident] = set()
        self._pause = LONG

    def __repr__(self) -> str:
        return f"<Profiler with {len(self._slices)} slices>"

    def start(self) -> None:
        threading.Thread(target=self._work, name="treadle-profiler", daemon=True).start()

    def _work(self) -> None:
        last = time.perf_counter()
        while True:
            now = time.perf_counter()
            pause = self.look(sys._current_frames(), time.time(), now - last)
            last = now
            time.sleep(pause)

    def look(self, frames: Mapping[int, FrameType], now: float, seconds: float) -> float:
        """Count what the threads are doing. Returns the seconds after which to look again.

        :param now: seconds since the epoch.
        :param seconds: since the last look.
        """
        stacks = [(tuple(map(id, stack)), stack) for stack in map(_stack, frames.values()) if stack]
        if stacks:
            with self._lock:
                self._count(stacks, now, seconds)
        seen = {ident for ident, _ in stacks}
        self._pause = min(GROWTH * self._pause, LONG) if seen <= self._seen else SHORT
        self._seen = seen
        return self._pause

    def _count(self, stacks: list[tuple[_Ident, _Stack]], now: float, seconds: float) -> None:
        slices = self._slices
        if not slices or now - slices[-1][0] >= SLICE:
            slices.append((now, {}))
            self._forget()
        counts = slices[-1][1]
        for ident, stack in stacks:
            if len(counts) < STACKS or ident in counts:
                counts[ident] = counts.get(ident, 0.0) + seconds
                self._stacks.setdefault(ident, stack)

    def _forget(self) -> None:
        """Let go of the code of stacks that are in no slice any more."""
        if len(self._stacks) > 2 * STACKS:
            used = {ident for _, counts in self._slices for ident in counts}
            for ident in [ident for ident in self._stacks if ident not in used]:
                del self._stacks[ident]

    def samples(self, start: float | None, stop: float | None) -> Samples:
        """What was seen between two moments, to the accuracy of a slice.

        :param start: seconds since the epoch, and so is ``stop``; None for no bound.
        """
        total: dict[_Ident, float] = {}
        with self._lock:
            for began, counts in self._slices:
                if (start is None or began + SLICE > start) and (stop is None or began <= stop):
                    for ident, seconds in counts.items():
                        total[ident] = total.get(ident, 0.0) + seconds
            return [(seconds, [_frame(code) for code in self._stacks[ident]]) for ident, seconds in total.items()]


#: Where the worker ends and the task begins.
_BEGIN: Final = call.__code__


def _stack(frame: FrameType | None) -> _Stack:
    """The functions of a task that a thread executes, outermost first; nothing if it executes none."""
    found: list[CodeType] = []
    while frame is not None:
        if frame.f_code is _BEGIN:
            return tuple(found[: -DEPTH - 1 : -1])
        found.append(frame.f_code)
        frame = frame.f_back
    return ()


def _frame(code: CodeType) -> Frame:
    return getattr(code, "co_qualname", code.co_name), code.co_filename, code.co_firstlineno
