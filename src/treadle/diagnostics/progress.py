"""A progress bar around runs.

Counting is all that happens per task. A thread of the screen (see :mod:`treadle.diagnostics.screen`) looks at the
counts ten times a second and draws them.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

from treadle.callbacks import Callback, RunInfo, TaskRecord
from treadle.diagnostics.screen import Meter, hide, show

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Shows how far a run has come: ``with ProgressBar(): total.compute()``.

    Each run in the block gets a bar with its description, tasks done and in all, percent, elapsed time, an estimate of
    the time left, and tasks per second. A run that fails leaves its bar where it stopped, in red. Runs that go on at
    the same time in one block share a bar; bars of nested or simultaneous blocks stand below one another.

    Where the console is no terminal (a log file, a pipe) nothing is drawn; one plain line says at the end of each run
    what was done in which time.

    :param minimum: show nothing for runs of fewer seconds than this.
    :param description: what stands before the bar.
    :param console: a ``rich`` console to draw on. Default: standard error.
    """

    def __init__(self, minimum: float = 0.0, *, description: str = "computing", console: Console | None = None) -> None:
        if minimum < 0:
            raise ValueError(f"minimum must be a number of seconds of at least 0, not {minimum!r}")
        self._minimum = minimum
        self._description = description
        self._console = console
        self._lock = Lock()
        #: Runs that go on now, and what is counted for them.
        self._runs = 0
        self._meter = Meter(description, minimum, 0)

    def start(self, info: RunInfo) -> None:
        with self._lock:
            self._runs += 1
            if self._runs > 1:
                self._meter.total += info.total
                return
            self._meter = Meter(self._description, self._minimum, info.total)
        show(self._meter, self._console)

    def after(self, record: TaskRecord, result: Any) -> None:
        self._meter.done += 1

    def finish(self, error: BaseException | None) -> None:
        with self._lock:
            self._runs -= 1
            meter = self._meter
            if error is not None:
                meter.error = error
            if self._runs:
                return
        hide(meter, self._console)
