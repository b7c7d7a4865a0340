"""How much memory and time this process uses."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Final

__all__ = ["Meter"]

log = logging.getLogger("treadle.worker")

#: A warning is not repeated until the memory was below this share of the limit.
CALM: Final = 0.9


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
