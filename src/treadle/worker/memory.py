"""How much memory and time this process uses."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from time import perf_counter
from typing import Any, Final

__all__ = ["Meter", "Trimmer", "trim_libc"]

log = logging.getLogger("treadle.worker")

#: A warning is not repeated until the memory was below this share of the limit.
CALM: Final = 0.9

#: CPU seconds after which there may be memory to give back.
WORK: Final = 0.1
#: Percent of one CPU below which a process rests.
RESTING: Final = 20.0
#: Seconds between two times while the process does not rest, and the share of its time that they may take.
PERIOD: Final = 10.0
SHARE: Final = 0.01

#: With these the user decides when the C library gives memory back: in the environment, and in ``GLIBC_TUNABLES``.
VARIABLE: Final = "MALLOC_TRIM_THRESHOLD_"
TUNABLE: Final = "glibc.malloc.trim_threshold"


class Meter:
    """Looks at this process now and then, and warns when it needs more memory than it may.

    :param limit: bytes; 0 for none.
    """

    def __init__(self, limit: int) -> None:
        self._limit: Final = limit
        self._warned = False
        self._process: Any = None
        self._looked = 0.0
        self._busy = 0.0

    def read(self, now: float) -> tuple[int, float]:
        """Resident bytes, and percent of one CPU since the last call.

        :param now: seconds on a clock that never goes back.
        """
        if self._process is None:
            self._process = import_module("psutil").Process()  # not while the worker starts
        with self._process.oneshot():
            rss = int(self._process.memory_info().rss)
            times = self._process.cpu_times()
        busy = float(times.user + times.system)
        elapsed = now - self._looked
        cpu = 100.0 * (busy - self._busy) / elapsed if self._looked and elapsed > 0 else 0.0
        self._looked, self._busy = now, busy
        self.judge(rss)
        return rss, max(cpu, 0.0)

    @property
    def busy(self) -> float:
        """CPU seconds that the process had used when it was last looked at."""
        return self._busy

    def judge(self, rss: int) -> None:
        """Warn if so many bytes are too many."""
        limit = self._limit
        if not limit:
            return
        if rss > limit and not self._warned:
            self._warned = True
            log.warning(
                "uses %.2f GB of memory, more than its limit of %.2f GB. Make the tasks smaller, hold fewer results, "
                "or raise the limit.",
                rss / 1e9,
                limit / 1e9,
            )
        elif rss < CALM * limit:
            self._warned = False


class Trimmer:
    """Has the C library give back to the system what it keeps of memory that is free.

    The library of GNU keeps such memory because the next task is likely to need it; getting it anew costs more than
    many a task does with it. So it is left alone while tasks follow one another, and asked for when the process rests,
    and now and then.

    :param trim: what asks for it.
    :param environment: where the user may have a say in it, so that this is never due.
    """

    def __init__(self, trim: Callable[[], object] | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self._trim: Final = trim_libc if trim is None else trim
        self._told: Final = VARIABLE in environment or TUNABLE in environment.get("GLIBC_TUNABLES", "")
        #: CPU seconds and time when it was last asked for.
        self._busy: float | None = None
        self._asked = 0.0
        #: Seconds that this took.
        self._took = 0.0

    def due(self, now: float, busy: float, cpu: float) -> bool:
        """Whether to call :meth:`trim` now. If so, it counts as done.

        :param now: seconds on a clock that never goes back.
        :param busy: CPU seconds of this process so far.
        :param cpu: percent of one CPU that it has used of late.
        """
        if self._told:
            return False
        if self._busy is None:
            self._busy, self._asked = busy, now  # what was imported stays
        elapsed = now - self._asked
        if busy - self._busy < WORK or elapsed * SHARE < self._took or (cpu > RESTING and elapsed < PERIOD):
            return False
        self._busy, self._asked = busy, now
        return True

    def trim(self) -> None:
        """May take some milliseconds, and a second for very much memory; other threads can run meanwhile."""
        started = perf_counter()
        self._trim()
        self._took = perf_counter() - started


def trim_libc() -> bool:
    """Have the C library give back what it keeps of memory that is free; False if it has no function for that."""
    ctypes: Any = import_module("ctypes")  # not while the worker starts
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True
