"""When the garbage collector runs.

A task and its neighbours refer to one another, and the core takes these references apart when a task is forgotten:
reference counting frees them, and the collector finds nothing. But it would look for it. With a million tasks alive
a full collection takes a second or more, in which nobody is served. So there are frequent collections of what is
young, which take milliseconds, and none of everything while there are tasks.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from treadle.core.scheduler import Scheduler

__all__ = ["Sweeper", "calm"]

#: New objects until the young are looked at, and how many such looks until the middle-aged are. A look at as many
#: objects as this takes some milliseconds.
YOUNG: Final = 20_000
MIDDLE: Final = 2

#: How many looks at the middle-aged until everything is looked at: never.
NEVER: Final = 2**31 - 1


def calm() -> None:
    """Called once, when everything is imported: what is here by now stays until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


class Sweeper:
    """Collects what went around in circles (exceptions, closed connections) when that stalls nobody."""

    def __init__(self, core: Scheduler) -> None:
        self._core: Final = core
        self._worked = False

    def look(self) -> None:
        """Called about once a second."""
        if self._core.tasks:
            self._worked = True
        elif self._worked:
            self._worked = False
            gc.collect()
