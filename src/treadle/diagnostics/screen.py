"""Where progress bars are drawn: all bars of one console together, by one thread.

``rich`` is imported when something is first drawn: a run that ends before its minimum does not pay for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event, Lock, Thread
from time import perf_counter
from typing import TYPE_CHECKING

from treadle.diagnostics.units import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["INTERVAL", "Meter", "hide", "show"]

#: Seconds between two drawings.
INTERVAL = 0.1


class Meter:
    """What a bar shows. Whoever counts writes ``done``; a screen reads."""

    __slots__ = ("description", "done", "error", "minimum", "started", "stopped", "total")

    def __init__(self, description: str, minimum: float, total: int) -> None:
        self.description = description
        #: Seconds that must have passed before this is shown.
        self.minimum = minimum
        self.total = total
        self.done = 0
        self.error: BaseException | None = None
        self.started = perf_counter()
        #: None while the run goes on.
        self.stopped: float | None = None

    def elapsed(self) -> float:
        """Seconds that the run took so far, or in all."""
        return (perf_counter() if self.stopped is None else self.stopped) - self.started

    def outcome(self) -> str:
        """How the run ended, in a word, if it did not end well."""
        if self.error is None:
            return ""
        return "failed" if isinstance(self.error, Exception) else "interrupted"

    def line(self) -> str:
        """The whole run in a line for logs."""
        text = f"{self.description}: {self.done:,} of {self.total:,} tasks in {duration(self.elapsed())}"
        return text if self.error is None else f"{text}, {self.outcome()}: {type(self.error).__name__}"


class Screen:
    """Draws the meters of one console until the last of them has stopped."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._meters: list[Meter] = []
        self._bars: dict[Meter, TaskID] = {}
        self._progress: Progress | None = None
        self._over = Event()
        self._thread = Thread(target=self._work, name="treadle-progress", daemon=True)

    def add(self, meter: Meter) -> None:
        self._meters.append(meter)
        if len(self._meters) == 1:
            self._thread.start()

    def busy(self) -> bool:
        return any(meter.stopped is None for meter in self._meters)

    def close(self) -> None:
        """Draw every meter for the last time."""
        self._over.set()
        if self._thread.is_alive():  # an interrupt may have come before it has begun: then it ends by itself
            self._thread.join()
        _harmless(self._finish)

    def _work(self) -> None:
        going_on = True
        while going_on and not self._over.wait(INTERVAL):
            going_on = _harmless(self._draw)

    def _due(self) -> list[Meter]:
        return [meter for meter in list(self._meters) if meter.total and meter.elapsed() >= meter.minimum]

    def _draw(self) -> bool:
        """Draw what is due. False if there is no sense in trying again."""
        due = self._due()
        if due:
            if not self._open_console().is_interactive:
                return False
            self._update(due).refresh()
        return True

    def _finish(self) -> bool:
        due = self._due()
        if due and self._open_console().is_interactive:
            self._update(due).stop()
        else:
            for meter in due:
                self._open_console().print(meter.line(), markup=False, highlight=False, soft_wrap=True)
        return True

    def _open_console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console

    def _update(self, due: list[Meter]) -> Progress:
        progress = self._progress
        if progress is None:
            from treadle.diagnostics.bars import make_progress

            progress = make_progress(self._open_console(), max(len(meter.description) for meter in due))
            progress.start()
            self._progress = progress
        for meter in due:
            if meter not in self._bars:
                self._bars[meter] = progress.add_task(meter.description, total=meter.total, meter=meter)
            # A task that outlives its interrupted run is counted for the next one.
            progress.update(self._bars[meter], completed=min(meter.done, meter.total), total=meter.total)
        return progress


def _harmless(draw: Callable[[], bool]) -> bool:
    """Draw. A console that cannot be drawn on (closed, broken, taken by another display) must not fail the run."""
    try:
        return draw()
    except (Exception, SystemExit) as error:  # rich exits when a pipe breaks
        from rich.errors import LiveError

        if not isinstance(error, (LiveError, OSError, SystemExit, ValueError)):
            raise
        return False


_screens: dict[Console | None, Screen] = {}
_lock = Lock()


def show(meter: Meter, console: Console | None) -> None:
    """Draw ``meter`` from now on; on standard error if ``console`` is None."""
    with _lock:
        screen = _screens.get(console)
        if screen is None:
            screen = _screens[console] = Screen(console)
        screen.add(meter)


def hide(meter: Meter, console: Console | None) -> None:
    """The run of ``meter`` is over: what it shows now stays."""
    with _lock:
        meter.stopped = perf_counter()
        screen = _screens.get(console)
        if screen is not None and not screen.busy():
            del _screens[console]
            screen.close()


def _forget_screens() -> None:
    global _lock
    _lock = Lock()
    _screens.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_screens)
